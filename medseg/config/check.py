"""Compares a whole configuration with the code it configures, before any data is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf, flag_override
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from medseg.config.build import (
    SPECIAL_KEYS,
    Signature,
    allowed_packages,
    holds_node,
    is_node,
    resolve_target,
    signature_of,
)
from medseg.config.compose import Composition, compose
from medseg.config.explain import CHOICE
from medseg.config.schema import (
    PLANNED_SECTION,
    SCHEMAS,
    SECTION_TARGETS,
    SUPPLIED,
    UNUSED,
    Section,
)
from medseg.config.values import coerce
from medseg.core.errors import ConfigError


class _Unknown:
    """Stands for a value that is missing or cannot be resolved, and is reported where it stands."""


_UNKNOWN = _Unknown()


def load_config(command: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A command's configuration, composed and checked.

    Args:
        command: train, prepare, predict, evaluate or doctor.
        overrides: options as on the command line, such as `["+experiment=liver", "trainer=cpu"]`.

    Raises:
        ConfigError: one or more options are wrong; the message lists them all.
    """
    composition = compose(command, overrides)
    check(composition, command=command, chosen=overrides)
    return composition.config


def refuse_dry_run(config: DictConfig, *, command: str) -> None:
    """Raises ConfigError where a call that gives results is asked not to work."""
    if config.dry_run:
        raise ConfigError(
            "dry_run",
            "is true, and then there is nothing to give back",
            f'leave it out, or check the options with medseg.load_config("{command}", [...])',
        )


def check(composition: Composition, *, command: str, chosen: Sequence[str] = ()) -> None:
    """Raises one error that lists every problem of a composed configuration.

    Values at the top of the configuration are brought to their declared types in place.

    Args:
        composition: from `compose`.
        command: whose schema and derived arguments apply.
        chosen: options as typed; the choices among them are named in the message.

    Raises:
        ConfigError: there are problems.
    """
    found = [*composition.problems]
    if all(problem.code != CHOICE for problem in found):
        found += find_problems(
            composition.config,
            schema=SCHEMAS.get(command),
            supplied=SUPPLIED.get(command, {}),
            targets=SECTION_TARGETS.get(command, {}),
            groups=composition.groups,
            unused=UNUSED.get(command, frozenset()),
        )
    if len(found) == 1:
        raise found[0]
    if found:
        choices = [text.lstrip("+") for text in chosen if _is_choice(text, composition.groups)]
        about = f" ({', '.join(choices)})" if choices else ""
        lines = "".join(f"\n  {problem}" for problem in found)
        raise ConfigError("", f"{len(found)} problems in the configuration{about}:{lines}")


def find_problems(
    config: DictConfig,
    *,
    schema: type[Section] | None = None,
    supplied: Mapping[str, frozenset[str]] | None = None,
    targets: Mapping[str, str] | None = None,
    groups: Sequence[str] = (),
    unused: Collection[str] = (),
) -> list[ConfigError]:
    """Every problem of a configuration, in the order it is written.

    Args:
        config: composed configuration; interpolations are resolved, `???` is reported.
        schema: declares the values at the top that belong to no class; None skips them.
        supplied: arguments that the command passes itself, by path of a node (`*`: any name).
        targets: classes of sections at the top that name none themselves.
        groups: names that may stand at the top besides those of the schema.
        unused: sections at the top that are resolved, but not compared with their classes.
    """
    walk = _Walk(dict(supplied or {}), allowed_packages())
    plain = walk.resolve(config, "")
    for key, target in (targets or {}).items():
        if isinstance(plain.get(key), dict):
            plain[key]["_target_"] = target
    walk.visit({key: value for key, value in plain.items() if key not in unused}, "")
    if schema is not None:
        _check_top(config, plain, schema, groups, walk.problems)
    return walk.problems


@dataclass
class _Walk:
    supplied: dict[str, frozenset[str]]
    packages: tuple[str, ...]
    problems: list[ConfigError] = field(default_factory=list)

    def resolve(self, node: Any, path: str) -> Any:
        """Plain content of a node; missing and unresolvable values are reported and marked."""
        if isinstance(node, DictConfig):
            return {key: self._resolve_item(node, key, _join(path, key)) for key in node}
        if isinstance(node, ListConfig):
            return [self._resolve_item(node, n, f"{path}[{n}]") for n in range(len(node))]
        return node

    def _resolve_item(self, parent: DictConfig | ListConfig, key: Any, path: str) -> Any:
        if OmegaConf.is_missing(parent, key):
            if not self._is_supplied(path):
                self._report(path, "has no value", f"set it with {path}=<value>")
            return _UNKNOWN
        try:
            value = parent[key]
        except InterpolationToMissingValueError:
            return _UNKNOWN
        except OmegaConfBaseException as error:
            reference = parent._get_node(key)._value()  # type: ignore[union-attr]
            reason = str(error).splitlines()[0]
            self._report(path, f"{reference} cannot be resolved ({reason})", "correct the name")
            return _UNKNOWN
        if value is None and _refers_to_plan(parent, key):
            return _UNKNOWN
        return self.resolve(value, path)

    def visit(self, value: Any, path: str) -> None:
        """Checks every node at and below a place."""
        if is_node(value):
            self._check_node(value, path)
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.visit(item, _join(path, key))
        elif isinstance(value, list):
            for n, item in enumerate(value):
                self.visit(item, f"{path}[{n}]")

    def _check_node(self, node: Mapping[str, Any], path: str) -> None:
        if node["_target_"] is _UNKNOWN:
            return
        try:
            target = resolve_target(node["_target_"], where=path, packages=self.packages)
        except ConfigError as error:
            self.problems.append(error)
            return
        except Exception as error:
            self._report(f"{path}._target_={node['_target_']}", f"cannot be imported: {error}", "")
            return
        signature = signature_of(target)
        supplied = self._supplied(path)
        for key, value in node.items():
            if key not in SPECIAL_KEYS:
                self._check_argument(node, path, str(key), value, signature, supplied)
        if node.get("_partial_", False) is True:
            return
        for name in signature.parameters:
            if name in signature.required and name not in node and name not in supplied:
                self._report(
                    _join(path, name),
                    f"{node['_target_']} needs it",
                    f"set it with +{_join(path, name)}=<value>",
                )

    def _check_argument(
        self,
        node: Mapping[str, Any],
        path: str,
        key: str,
        value: Any,
        signature: Signature,
        supplied: frozenset[str],
    ) -> None:
        here = _join(path, key)
        if key in supplied:
            if value is not _UNKNOWN and value is not None:
                self._report(here, "follows from the data and is set by medseg", "remove it")
            return
        if key not in signature.parameters:
            if not signature.is_open or key.startswith("_"):
                close = get_close_matches(key, signature.parameters, n=1)
                self._report(
                    here,
                    f"{node['_target_']} has no such option",
                    f"did you mean {_join(path, close[0])}?"
                    if close
                    else f"it has: {', '.join(signature.parameters) or 'none'}",
                )
            return
        if _is_uncertain(value) or holds_node(value) or key not in signature.annotations:
            return
        _, expectation = coerce(value, signature.annotations[key])
        if expectation:
            self._report(f"{here}={_shown(value)}", expectation, "")

    def _supplied(self, path: str) -> frozenset[str]:
        names: frozenset[str] = frozenset()
        for pattern, arguments in self.supplied.items():
            if fnmatchcase(path, pattern):
                names |= arguments
        return names

    def _is_supplied(self, path: str) -> bool:
        parent, _, name = path.rpartition(".")
        return name in self._supplied(parent)

    def _report(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(ConfigError(where, what, remedy))


def _check_top(
    config: DictConfig,
    plain: Mapping[str, Any],
    schema: type[Section],
    groups: Sequence[str],
    problems: list[ConfigError],
) -> None:
    """Checks what stands at the top besides the groups, and makes it of the declared types."""
    fields = schema.model_fields
    for key, value in plain.items():
        if key in fields:
            _check_value(config, key, value, fields[key].rebuild_annotation(), key, problems)
        elif key not in groups:
            names = list(dict.fromkeys([*plain, *fields, *groups]))
            close = [name for name in get_close_matches(key, names, n=2) if name != key]
            added = "+" if close and close[0] not in plain else ""
            known = [name for name in names if name != key]
            remedy = (
                f"did you mean {added}{close[0]}?" if close else f"there are: {', '.join(known)}"
            )
            problems.append(ConfigError(key, "there is no such option", remedy))


def _check_value(
    parent: DictConfig,
    key: str,
    value: Any,
    annotation: Any,
    path: str,
    problems: list[ConfigError],
) -> None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        if not isinstance(value, Mapping):
            problems.append(ConfigError(f"{path}={_shown(value)}", "must be a mapping"))
            return
        section = parent[key]
        for name, item in value.items():
            here = _join(path, name)
            if name in annotation.model_fields:
                wanted = annotation.model_fields[name].rebuild_annotation()
                _check_value(section, name, item, wanted, here, problems)
                continue
            close = get_close_matches(name, annotation.model_fields, n=1)
            remedy = f"did you mean {_join(path, close[0])}?" if close else ""
            problems.append(ConfigError(here, "there is no such option", remedy))
        return
    if _is_uncertain(value):
        return
    result, expectation = coerce(value, annotation)
    if expectation:
        problems.append(ConfigError(f"{path}={_shown(value)}", expectation))
    elif type(result) is not type(value):
        with flag_override(parent, ["readonly", "struct"], [False, False]):
            parent[key] = result


def _refers_to_plan(parent: DictConfig | ListConfig, key: Any) -> bool:
    node = parent._get_node(key)
    return isinstance(node, Node) and str(node._value()).startswith(f"${{{PLANNED_SECTION}.")


def _is_uncertain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_uncertain(item) for item in value.values())
    if isinstance(value, list):
        return any(_is_uncertain(item) for item in value)
    return value is _UNKNOWN


def _is_choice(override: str, groups: Sequence[str]) -> bool:
    return override.lstrip("+").partition("=")[0].partition("@")[0] in groups


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
