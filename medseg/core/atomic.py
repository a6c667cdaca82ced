"""Writes files so that a reader never sees half of one, whenever the program is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medseg.core.errors import OutputError


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yields a path beside `path` to write to; on leaving without error it takes the name `path`.

    The new content is flushed to disk before it replaces the old. The yielded name starts with a
    dot and ends with the name of `path`, so extensions stay as they are. Missing folders are made.
    On an error the unfinished file is removed and `path` is left as it was.

    Args:
        path: the file.
        durable: wait until the disk holds the content; False for what can be made again, where a
            power cut may leave an empty or cut-off file.

    Raises:
        OutputError: the folder or file cannot be written, or the disk is full.
    """
    target = Path(path)
    unfinished = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _output_error(target, error) from error
    try:
        yield unfinished
        if durable:
            _flush(unfinished)
        unfinished.replace(target)
        if durable:
            _flush(target.parent)
    except OSError as error:
        # The caller may read other files meanwhile; only trouble with our own file is ours to tell.
        if error.filename not in (None, str(unfinished), unfinished, str(target.parent)):
            raise
        raise _output_error(target, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes, *, durable: bool = True) -> None:
    """Replaces the content of `path` in one step; see `atomic_path`."""
    with atomic_path(path, durable=durable) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Replaces the content of `path` with UTF-8 text in one step; line ends stay as given."""
    write_bytes(path, text.encode("utf-8"))


def _flush(path: Path) -> None:
    """Has the operating system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(
        target,
        f"cannot be written ({reason})",
        "check the folder's permissions and its free space",
    )
