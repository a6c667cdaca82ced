"""Hydra's complaints about typed options, as errors that say what to type instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from medseg.config.build import allowed_packages, resolve_target, signature_of
from medseg.core.errors import ConfigError

# Code of an option that was not found: what it would have set is missing from the composition.
CHOICE = "E_CHOICE"

Compose = Callable[[Sequence[str]], HydraException | None]


def culprit(failure: HydraException, overrides: Sequence[str], compose: Compose) -> str | None:
    """The option that a failed composition is about; None if no option is at fault.

    Args:
        failure: what composing all of `overrides` raised.
        overrides: options as typed.
        compose: composes other options and returns what that raised, None if nothing.
    """
    if isinstance(failure, OverrideParseException):
        return next((text for text in overrides if text == failure.override), None)
    named = [text for text in overrides if _is_named(_key(text), str(failure))]
    others = [text for text in overrides if text not in named]
    for text in named + others:
        left = list(overrides)
        left.remove(text)
        remainder = compose(left)
        if remainder is None or (text in named and str(remainder) != str(failure)):
            return text
    return named[0] if named else None


def explain(
    failure: HydraException,
    *,
    override: str | None = None,
    config: DictConfig | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> ConfigError:
    """An error with a remedy for one failed composition.

    Args:
        failure: what Hydra raised.
        override: the option at fault, as typed.
        config: the configuration composed without that option, for suggestions.
        groups: all option groups with their options.
    """
    if override is None:
        return ConfigError("configuration", _one_line(failure))
    if isinstance(failure, OverrideParseException):
        return _explain_syntax(override)
    key, _, value = override.lstrip("+~").partition("=")
    group = key.partition("@")[0]
    options = (groups or {}).get(group)
    text = str(failure)
    if text.startswith(("Ambiguous value", "Sweep parameters")):
        return ConfigError(
            override,
            "has several values",
            f"write {key}=[{value}] for a list, or put -m before the options to run once for each",
        )
    if options is not None and "." not in group:
        return _explain_group(failure, override, group=group, value=value, options=options)
    if "Could not append to config" in text:
        return ConfigError(override, "is there already", f"write it without +: {key}={value}")
    if text.startswith("Error merging override"):
        return ConfigError(override, _one_line(failure.__cause__ or failure))
    return unknown_option(key, value, config=config, groups=groups or {}, typed=override)


def unknown_option(
    key: str,
    value: str,
    *,
    config: DictConfig | None,
    groups: Mapping[str, Sequence[str]],
    typed: str,
) -> ConfigError:
    """The error for an option that a command does not have, with the nearest one that it has."""
    parent_path, _, name = key.rpartition(".")
    parent = OmegaConf.select(config, parent_path) if config is not None and parent_path else config
    siblings = [str(k) for k in parent] if isinstance(parent, DictConfig) else []
    arguments = _arguments(parent)
    prefix = f"{parent_path}." if parent_path else ""
    sign = "+" if typed.startswith("+") else ""
    if name in siblings:
        return ConfigError(
            key,
            "holds entries already, and new ones would be mixed with them",
            f"to replace all of them write '~{key}' '+{key}={value}'",
        )
    if name in arguments:
        return ConfigError(key, "is left to its default and not listed", f"write +{key}={value}")
    known = siblings + [argument for argument in arguments if argument not in siblings]
    if not parent_path:
        known += [group for group in groups if group not in known]
    close = get_close_matches(name, known, n=1)
    if close:
        added = "+" if close[0] not in siblings and (parent_path or close[0] in groups) else ""
        return ConfigError(
            f"{sign}{key}", "there is no such option", f"did you mean {added}{prefix}{close[0]}?"
        )
    everywhere = list(_dotted(config)) if config is not None else []
    everywhere = [path for path in everywhere if path != parent_path]
    close = get_close_matches(key, everywhere, n=1) or [
        path for path in everywhere if path.rpartition(".")[2] == name
    ]
    if close:
        return ConfigError(f"{sign}{key}", "there is no such option", f"did you mean {close[0]}?")
    names = ", ".join(known) if len(known) <= 24 else ""
    where = parent_path or "this command"
    return ConfigError(
        f"{sign}{key}", "there is no such option", f"{where} has: {names}" if names else ""
    )


def _explain_syntax(override: str) -> ConfigError:
    if "=" not in override:
        return ConfigError(
            override, "is not an option", "options are written name=value, such as trainer=cpu"
        )
    return ConfigError(
        override,
        "cannot be read",
        "put quotes around lists and paths with spaces or brackets: 'output=[nifti,dicom_seg]', "
        "'source.folder=\"/data/my scans\"'",
    )


def _explain_group(
    failure: HydraException, override: str, *, group: str, value: str, options: Sequence[str]
) -> ConfigError:
    if isinstance(failure, MissingConfigException) or value not in options:
        missing = str(getattr(failure, "missing_cfg_file", "") or value)
        wanted = missing.removeprefix(f"{group}/")
        close = get_close_matches(wanted, options, n=1)
        listed = f"there are: {', '.join(options)}" if options else "the group is empty"
        remedy = f"did you mean '{close[0]}'? {listed}" if close else listed
        if f"{group}/{wanted}" != missing and "/" in missing:
            return ConfigError(override, f"needs {missing}, which does not exist", code=CHOICE)
        return ConfigError(override, f"there is no {group} '{wanted}'", remedy, code=CHOICE)
    if "No match in the defaults list" in str(failure):
        remedy = f"write +{group}={value}"
        return ConfigError(override, f"{group} is not set yet", remedy, code=CHOICE)
    if override.startswith("+"):
        return ConfigError(override, f"{group} is set already", f"write {group}={value}")
    return ConfigError(override, _one_line(failure))


def _arguments(node: Any) -> tuple[str, ...]:
    """Arguments of a node's target, none if it has none or cannot be imported."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return ()
    try:
        target = resolve_target(node["_target_"], where="", packages=allowed_packages())
    except Exception:  # the check of the whole configuration reports it
        return ()
    return signature_of(target).parameters


def _dotted(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in config:
        path = f"{prefix}{key!s}"
        yield path
        child = config._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from _dotted(child, f"{path}.")


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _is_named(key: str, message: str) -> bool:
    return bool(key) and re.search(rf"(?<![\w./]){re.escape(key)}(?![\w.])", message) is not None


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key", "object_type"))]
    return "; ".join(kept[:3]) or type(error).__name__
