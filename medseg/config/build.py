"""The one place where a configuration node becomes an object, and the packages it may name.

A node is a mapping with `_target_`, the dotted name of a class or function; its other keys are the
arguments. `_partial_: true` gives a functools.partial. Nodes inside a node are built first.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medseg.config.values import coerce
from medseg.core.errors import ConfigError, MedsegError

# Where the class or function itself must be defined, however it was named. Whole third-party
# packages are not listed, because they hold functions that load code or unpickle files (torch.hub,
# torch.load, monai.bundle).
ALLOWED_PACKAGES: tuple[str, ...] = (
    "medseg.baselines", "medseg.core", "medseg.data", "medseg.dicom.deidentify",
    "medseg.inference", "medseg.losses",
    "medseg.metrics", "medseg.models", "medseg.reports", "medseg.services", "medseg.sources",
    "medseg.tasks",
    "medseg.training", "medseg.transforms", "medseg.writers",
    "monai.inferers", "monai.losses", "monai.metrics", "monai.networks", "monai.optimizers",
    "torch.nn", "torch.optim",
    "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "lightning.pytorch.plugins",
    "lightning.pytorch.profilers", "lightning.pytorch.strategies", "lightning.pytorch.trainer",
)  # fmt: skip
# Lightning's short names, which resolve to a class in one of its packages above.
_SHORT_NAMES = ("lightning.pytorch.Trainer",)
SPECIAL_KEYS = frozenset({"_target_", "_partial_"})


@dataclass(frozen=True)
class Signature:
    """What a target accepts.

    Args:
        parameters: named arguments in order, with their annotations.
        annotations: evaluated annotation by argument, of those that have one.
        required: arguments without a default.
        is_open: True if any other keyword is accepted as well.
    """

    parameters: tuple[str, ...]
    annotations: Mapping[str, Any]
    required: frozenset[str]
    is_open: bool


def build(node: Any, **extra: Any) -> Any:
    """The object that a node describes; None for an empty node.

    Args:
        node: mapping with `_target_`, from a composed configuration or plain.
        extra: arguments that the caller adds or replaces, such as in_channels.

    Raises:
        ConfigError: the target is not allowed, or an argument does not fit.
    """
    if not node:
        return None
    path, plain = _plain(node)
    return _build_node(path, plain, extra, allowed_packages())


def build_all(node: Any) -> Any:
    """A list or dict of nodes with each node built; an empty node gives an empty list."""
    if not node:
        return []
    path, plain = _plain(node)
    return _build_value(path, plain, allowed_packages())


def accepts(node: Any, argument: str) -> bool:
    """Whether the target of a node takes an argument that its configuration leaves open."""
    path, plain = _plain(node)
    target = resolve_target(plain["_target_"], where=path, packages=allowed_packages())
    return argument in signature_of(target).parameters and plain.get(argument) is None


def build_restricted(
    node: Mapping[str, Any], *, packages: tuple[str, ...], extra: Mapping[str, Any]
) -> Any:
    """The object that a node from a file of others describes, such as the model of a bundle.

    Only `packages` count: $MEDSEG_ALLOWED_TARGETS adds nothing.
    """
    path, plain = _plain(node)
    return _build_node(path, plain, extra, packages)


def allowed_packages() -> tuple[str, ...]:
    """Packages of medseg's own list and of $MEDSEG_ALLOWED_TARGETS (separated by commas)."""
    return ALLOWED_PACKAGES + environment_packages()


def environment_packages() -> tuple[str, ...]:
    """Packages that the user allows by $MEDSEG_ALLOWED_TARGETS."""
    added = os.environ.get("MEDSEG_ALLOWED_TARGETS", "")
    return tuple(name.strip() for name in added.split(",") if name.strip())


def is_node(value: Any) -> bool:
    return isinstance(value, Mapping | DictConfig) and "_target_" in value


def resolve_target(target: Any, *, where: str, packages: tuple[str, ...]) -> Callable[..., Any]:
    """The class or function named by `target`, if it is defined in one of `packages`.

    The name is checked before anything is imported, and the object that was found is checked again:
    a name such as `medseg.module.os.system` reaches an object that is defined elsewhere.

    Raises:
        ConfigError: the name is not allowed, or there is no such class or function.
    """
    name = str(target)
    parts = name.split(".")
    if not all(part.isidentifier() and not part.startswith("_") for part in parts):
        raise _refused(where, name, "is not the dotted name of a public class or function")
    if name not in _SHORT_NAMES and not _lies_in(name, packages):
        raise _refused(where, name, "is not in a package that configurations may name")
    found = _import(name, where=where)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise _refused(where, name, "is neither a class nor a function of a module")
    home = f"{found.__module__}.{found.__qualname__}"
    defined = getattr(sys.modules.get(str(found.__module__)), str(found.__qualname__), None)
    if defined is not found or not _lies_in(home, packages):
        raise _refused(where, name, f"is {home}, which lies outside the allowed packages")
    return found


def signature_of(target: Callable[..., Any]) -> Signature:
    """Arguments of a class or function, with evaluated annotations where possible."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except Exception:  # names that exist only for type checkers
        signature = inspect.signature(target)
    named = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return Signature(
        parameters=tuple(parameter.name for parameter in named),
        annotations={
            parameter.name: parameter.annotation
            for parameter in named
            if parameter.annotation is not parameter.empty
            and not isinstance(parameter.annotation, str)
        },
        required=frozenset(p.name for p in named if p.default is p.empty),
        is_open=any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()),
    )


def _plain(node: Any) -> tuple[str, Any]:
    """Path of a node in its configuration, and its content with all references resolved."""
    if not isinstance(node, DictConfig | ListConfig):
        return "", node
    path = str(node._get_full_key(None))
    try:
        return path, OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(path, str(error).splitlines()[0]) from error


def _build_node(
    path: str, node: Mapping[str, Any], extra: Mapping[str, Any], packages: tuple[str, ...]
) -> Any:
    if not is_node(node):
        raise ConfigError(
            path or "node",
            "has no _target_, so it is not known what to build",
            "name a class there",
        )
    target = resolve_target(node["_target_"], where=path, packages=packages)
    annotations = signature_of(target).annotations
    arguments = {
        key: _build_value(_join(path, key), value, packages, annotations.get(key, Any))
        for key, value in node.items()
        if key not in SPECIAL_KEYS and key not in extra
    }
    arguments.update(extra)
    if node.get("_partial_", False):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments)
    except MedsegError:
        raise
    except Exception as error:
        label = f"{path} ({node['_target_']})" if path else str(node["_target_"])
        raise ConfigError(label, f"cannot be built: {error}") from error


def _build_value(path: str, value: Any, packages: tuple[str, ...], annotation: Any = Any) -> Any:
    """A value with the nodes inside it built, or a plain value as its annotation wants it."""
    if is_node(value):
        return _build_node(path, value, {}, packages)
    if holds_node(value):
        if isinstance(value, Mapping):
            return {k: _build_value(_join(path, k), v, packages) for k, v in value.items()}
        return [_build_value(f"{path}[{n}]", v, packages) for n, v in enumerate(value)]
    result, expectation = coerce(value, annotation)
    if expectation:
        raise ConfigError(f"{path}={value!r}", expectation)
    return result


def holds_node(value: Any) -> bool:
    """Whether a plain value is a node or holds one at any depth."""
    if isinstance(value, Mapping):
        return is_node(value) or any(holds_node(item) for item in value.values())
    return isinstance(value, list | tuple) and any(holds_node(item) for item in value)


def _import(name: str, *, where: str) -> Callable[..., Any]:
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            is_part = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
            if is_part and error.name != parts[0]:
                continue
            raise ConfigError(
                f"{where}._target_={name}",
                f"needs the package '{error.name}', which is not installed",
                f"install it with: pip install {error.name}",
            ) from error
        for part in parts[length:]:
            found = getattr(found, part, None)
        if callable(found):
            return found
        break
    raise ConfigError(
        f"{where}._target_={name}", "there is no such class or function", "correct the name"
    )


def _lies_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages)


def _refused(where: str, name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{where}._target_={name}" if where else name,
        reason,
        "for classes of your own package, set MEDSEG_ALLOWED_TARGETS=<package>",
        code="E_TARGET",
    )


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
