"""The folder a source was given: there, and a folder."""

from __future__ import annotations

from pathlib import Path

from medseg.core.errors import InputError

_REMEDY = "set data.source.folder=<folder> for training, source.folder=<folder> for prediction"


def existing_path(path: str | None) -> Path:
    """The given file or folder, `~` expanded.

    Raises:
        InputError: E_NO_FOLDER, none was given or it is not there.
    """
    if path is None or not str(path).strip():
        raise InputError("source.folder", "no folder given", _REMEDY, code="E_NO_FOLDER")
    found = Path(path).expanduser()
    try:
        is_there = found.exists()
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        raise InputError(found, "there is no such folder", _REMEDY, code="E_NO_FOLDER")
    return found


def existing_folder(path: str | None) -> Path:
    """The given folder; a file is refused.

    Raises:
        InputError: E_NO_FOLDER.
    """
    found = existing_path(path)
    if not found.is_dir():
        raise InputError(found, "is a file, must be a folder", _REMEDY, code="E_NO_FOLDER")
    return found
