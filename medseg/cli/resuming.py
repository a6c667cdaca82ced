"""Whether a training that goes on is still the one that began, and whether another is at work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from medseg.core.errors import MAX_LISTED, ConfigError, OutputError
from medseg.data.split import Split

# What a checkpoint depends on: the network, its input, and what an optimizer's state stands for.
_COMPARED = (
    "seed", "fold", "data", "plan", "task", "model", "loss", "optimizer", "schedule", "augment",
    "loader",
)  # fmt: skip
# Data may have moved (its cases are compared instead), and these change no step.
_FREE = (
    "data.source",
    "data.name",
    "plan.reasons",
    "plan.memory_budget_gib",
    "loader.num_workers",
    "loader.validation_cases",
)
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def require_same_training(config: Mapping[str, Any], split: Split, *, folder: Path) -> None:
    """Compares a training with the one that left its `config.yaml` and `split.yaml` in a folder.

    Without this, cases that were trained on could come to be validated on, and options that a
    checkpoint overrides would be ignored.

    Args:
        config: resolved, with the finished plan.
        split: of the training that wants to go on.
        folder: run folder; it passes if there are no such files.

    Raises:
        ConfigError: an option that matters differs, or the cases do.
    """
    earlier = _load(folder / "config.yaml")
    stored = _load(folder / "split.yaml")
    if not earlier:
        return
    before, now = _flat(earlier), _flat(config)
    changes = [
        f"{key} was {_shown(before, key)}, is {_shown(now, key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    wanted = split.to_dict()
    for part in ("train", "validation", "test"):
        if stored and list(stored.get(part) or ()) != list(wanted[part]):  # type: ignore[call-overload]
            changes.append(f"the cases of the {part} set differ")
    if not changes:
        return
    more = f" and {len(changes) - MAX_LISTED} more" if len(changes) > MAX_LISTED else ""
    raise ConfigError(
        folder,
        "holds a training with other settings, which cannot go on with these: "
        f"{'; '.join(changes[:MAX_LISTED])}{more}",
        "give resume=true with the settings it began with, or name=<name> to start another",
        code="E_RESUME",
    )


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of a run folder; the operating system ends it when we are killed.

    Raises:
        OutputError: another training is at work there.
    """
    if not is_first_process():
        yield  # a further process of one training; the first holds the folder
        return
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            # Unlike flock, this is not passed on to loader processes, which may outlive us a while.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise OutputError(
                folder,
                "is in use by another training",
                "wait for its end, or start this one with name=<name>",
                code="E_IN_USE",
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


def is_first_process() -> bool:
    """False in the further processes of a training on several devices or machines."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def _load(path: Path) -> dict[str, Any]:
    with suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Compared values by dotted path, as YAML would give them back."""
    values: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if path in _FREE:
            return
        if isinstance(value, Mapping) and value:
            for key, item in value.items():
                add(f"{path}.{key}", item)
        elif value is not None:
            values[path] = _plain(value)

    for section in _COMPARED:
        add(section, config.get(section))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "not set"
