"""Whether the folders that a command writes to can be written to, asked before the work begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from medseg.config.compose import Composition
from medseg.core.errors import ConfigError, OutputError
from medseg.training.checkpoint_files import COARSE_FOLDER


def require_usable(composition: Composition, *, command: str) -> None:
    """Raises an error if a command cannot write to its folder, or would spoil an earlier run there.

    Nothing is left behind.

    Raises:
        OutputError: the folder cannot be created or written to.
        ConfigError: a training would overwrite the checkpoints or the bundle of another.
    """
    paths = composition.config.paths
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # a further process of one training; the first has asked
    if command == "train":
        folder = Path(str(composition.hydra.run.dir))
        _require_writable(folder, option="paths.runs")
        require_fresh(folder, resume=bool(composition.config.resume))
    elif command in ("predict", "batch", "serve", "evaluate", "ensemble", "export", "phantom"):
        _require_writable(Path(str(paths.output)), option="paths.output")


def require_fresh(folder: Path, *, resume: bool) -> None:
    """Raises an error if a training would overwrite the checkpoints or the bundle of another."""
    places = (folder / "checkpoints", folder / COARSE_FOLDER / "checkpoints")
    has_checkpoints = any(path for place in places for path in place.glob("*"))
    if has_checkpoints and not resume:
        raise ConfigError(
            folder,
            "holds the checkpoints of an earlier training",
            "set resume=true to go on with it, or name=<name> to start another",
        )
    if (folder / "bundle").exists() and not has_checkpoints:
        raise ConfigError(
            folder,
            "holds the bundle of an earlier training, but no checkpoint to go on from",
            "set name=<name> to start another, or move the bundle away",
        )


def _require_writable(folder: Path, *, option: str) -> None:
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".medseg_"):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(
            folder, f"cannot be written to ({reason})", f"set {option} to a folder that can"
        ) from error
    finally:
        created = folder.absolute()
        while created != existing and created.is_dir():
            if any(created.iterdir()):
                break
            created.rmdir()
            created = created.parent
