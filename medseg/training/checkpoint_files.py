"""Where a training keeps its checkpoints; apart from Lightning, which takes seconds to import."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT_NAME = "checkpoints/last.ckpt"
"""Relative to the run folder."""
COARSE_FOLDER = "coarse"
"""Where the coarse network of a cascade is trained, relative to the run folder."""


def previous_path(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(path.stem + ".previous" + path.suffix)


def has_checkpoint(path: Path) -> bool:
    """Whether there is something to go on from: `path`, or the one before it."""
    return path.exists() or previous_path(path).exists()
