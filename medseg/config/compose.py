"""Finds medseg's configuration folder and the project's, and composes what a command works with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, open_dict

import medseg
from medseg.config.explain import culprit, explain
from medseg.core.errors import ConfigError

VERSION_BASE = "1.3"


@dataclass(frozen=True)
class Composition:
    """A composed configuration and what was wrong with the options given for it.

    Args:
        config: what the command works with.
        hydra: Hydra's own part: folders, launcher, chosen options.
        groups: names of all option groups, such as model and trainer.
        problems: one error per option that could not be applied; `config` is composed without them.
    """

    config: DictConfig
    hydra: DictConfig
    groups: tuple[str, ...]
    problems: tuple[ConfigError, ...]


def conf_dir() -> Path:
    """medseg's configuration folder: inside the installed package, or at the top of a checkout."""
    package = Path(medseg.__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def project_conf_dir() -> Path | None:
    """The user's own configuration folder, `$MEDSEG_CONF` or `./conf`; None if there is none.

    Raises:
        ConfigError: $MEDSEG_CONF names a folder that does not exist.
    """
    named = os.environ.get("MEDSEG_CONF")
    folder = Path(named or "conf").absolute()
    if named and not folder.is_dir():
        raise ConfigError(
            "MEDSEG_CONF", f"names {named}, which is no folder", "correct it, or unset it"
        )
    if not folder.is_dir() or folder.resolve() == conf_dir().resolve():
        return None
    return folder


class ProjectConf(SearchPathPlugin):
    """Appends the project's own folder: it adds options and never replaces a shipped one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = project_conf_dir()
        if folder is not None:
            search_path.append("project", f"file://{folder}")


def register_project_conf() -> None:
    """Makes Hydra look into the project's own folder as well; harmless when repeated."""
    plugins = Plugins.instance()
    if ProjectConf not in plugins.discover(SearchPathPlugin):
        plugins.register(ProjectConf)


def compose(command: str, overrides: Sequence[str] = ()) -> Composition:
    """Composes a command's configuration, collecting every option that cannot be applied.

    Args:
        command: train, predict, ...: the name of a primary configuration.
        overrides: options as typed on the command line.

    Raises:
        ConfigError: the configuration files themselves do not compose, or one is no YAML.
    """
    remaining = list(overrides)
    refused: list[tuple[str, HydraException]] = []
    with _hydra():
        composed = _compose(command, remaining)
        while isinstance(composed, HydraException):
            found = culprit(composed, remaining, lambda options: _failure(command, options))
            if found is None:
                raise explain(composed)
            remaining.remove(found)
            refused.append((found, composed))
            composed = _compose(command, remaining)
        options = groups()
        problems = [
            explain(failure, override=override, config=composed, groups=options)
            for override, failure in refused
        ]
    hydra_part = composed.hydra
    with open_dict(composed):
        del composed["hydra"]
    return Composition(composed, hydra_part, tuple(options), tuple(problems))


def groups() -> dict[str, list[str]]:
    """Options by group, medseg's and the project's, both in alphabetical order."""
    found: dict[str, set[str]] = {}
    for folder in (conf_dir(), project_conf_dir()):
        for path in folder.rglob("*.yaml") if folder is not None else ():
            group = path.parent.relative_to(folder).as_posix() if folder is not None else "."
            if group != "." and group.split("/")[0] != "hydra":
                found.setdefault(group, set()).add(path.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def first_of_sweep(overrides: Sequence[str]) -> list[str]:
    """The options of the first job of a sweep: `fold=0,1` becomes `fold=0`."""
    parser = OverridesParser.create()
    first = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:  # reported when the options are composed
            first.append(text)
            continue
        if override.is_discrete_sweep():
            text = f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        first.append(text)
    return first


def quoted(value: str | Path) -> str:
    """A value as one word of Hydra's override grammar, whatever characters it holds.

    Backslashes count as such everywhere but before a quote and at the end.
    """
    text = re.sub(r"(\\*)('|$)", lambda run: run[1] * 2 + run[2].replace("'", "\\'"), str(value))
    return f"'{text}'"


@contextmanager
def _hydra() -> Iterator[None]:
    register_project_conf()
    # A command that composes another configuration runs inside Hydra already.
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), job_name="medseg", version_base=VERSION_BASE):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


def _compose(command: str, overrides: Sequence[str]) -> DictConfig | HydraException:
    try:
        return hydra_compose(command, list(overrides), return_hydra_config=True)
    except HydraException as error:
        return error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(
            mark.name if mark else "configuration",
            f"is no YAML{f' (line {mark.line + 1}: {error.problem})' if mark else ''}",
            "correct the file",
        ) from error


def _failure(command: str, overrides: Sequence[str]) -> HydraException | None:
    composed = _compose(command, overrides)
    return composed if isinstance(composed, HydraException) else None
