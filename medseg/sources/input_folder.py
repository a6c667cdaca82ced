"""The folder a source was given: there, and a folder."""

from __future__ import annotations

from pathlib import Path

from medseg.core.errors import InputError


def existing_path(path: str | None, *, option: str = "folder") -> Path:
    """The given file or folder, `~` expanded.

    Args:
        path: what the user gave; None if nothing.
        option: name of the source's option it was given with.

    Raises:
        InputError: E_NO_FOLDER, none was given or it is not there.
    """
    if path is None or not str(path).strip():
        where, what = f"source.{option}", f"no {option} given"
        raise InputError(where, what, _remedy(option), code="E_NO_FOLDER")
    found = Path(path).expanduser()
    try:
        is_there = found.exists()
    except (OSError, ValueError):
        is_there = False
    if not is_there:
        what = "there is no such file or folder"
        raise InputError(found, what, _remedy(option), code="E_NO_FOLDER")
    return found


def existing_folder(path: str | None) -> Path:
    """The given folder; a file is refused.

    Raises:
        InputError: E_NO_FOLDER.
    """
    found = existing_path(path)
    if not found.is_dir():
        raise InputError(
            found, "is a file, must be a folder", _remedy("folder"), code="E_NO_FOLDER"
        )
    return found


def _remedy(option: str) -> str:
    value = f"source.{option}=<{option}>"
    return f"set data.{value} for training, {value} for prediction"
