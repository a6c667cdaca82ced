"""Which files to look at: a file, a folder and all below it, ZIP archives, or the folder of a
DICOMDIR.

Only regular files, by lstat: no link is followed and nothing that could block (a FIFO, a device) is
    opened.
"""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError
from medseg.dicom.archives import is_archive, unpack


@dataclass(frozen=True, eq=False)
class Files:
    """Files to read, and what was passed over.

    Args:
        root: the folder that names are relative to.
        paths: regular files, sorted.
        names: what messages call files that were unpacked from an archive.
        skipped: path and reason.
        refused: archives among the files that are broken or hostile.
        unpacked: keeps the temporary folder of an archive alive; it goes when the last holder goes.
    """

    root: Path
    paths: tuple[Path, ...]
    names: dict[Path, str] = field(default_factory=dict)
    skipped: tuple[tuple[Path, str], ...] = ()
    refused: tuple[InputError, ...] = ()
    unpacked: tempfile.TemporaryDirectory[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process reads the unpacked files but does not own them.
        return {**self.__dict__, "unpacked": None}


def find_files(path: Path) -> Files:
    """All regular files at or below `path`, and the members of ZIP archives among them.

    Raises:
        InputError: there is nothing, or the archive is hostile or broken.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(
            path, f"cannot be opened ({error.strerror})", "check the path", code="E_NO_FILE"
        ) from error
    if stat.S_ISDIR(mode):
        return _walk(path)
    if not stat.S_ISREG(mode):
        raise InputError(
            path, "is neither a file nor a folder", "give a file or a folder", code="E_NO_FILE"
        )
    if path.name.upper() == "DICOMDIR":
        return _walk(path.resolve().parent)
    if is_archive(path):
        found = unpack([path])
        if found.refused:
            raise found.refused[0]
        return Files(
            Path(found.holder.name),
            tuple(sorted(found.names)),
            found.names,
            tuple(found.skipped),
            unpacked=found.holder,
        )
    return Files(path.parent, (path,))


def _walk(root: Path) -> Files:
    paths: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            skipped.append((folder, f"cannot be listed ({error.strerror})"))
            continue
        for entry in found:
            path = Path(entry.path)
            try:
                mode = entry.stat(follow_symlinks=False).st_mode
            except OSError as error:
                skipped.append((path, f"cannot be examined ({error.strerror})"))
                continue
            if stat.S_ISDIR(mode):
                pending.append(path)
            elif stat.S_ISREG(mode):
                paths.append(path)
            else:
                kind = (
                    "a link, and links are not followed"
                    if stat.S_ISLNK(mode)
                    else "no regular file"
                )
                skipped.append((path, f"is {kind}"))
    paths.sort()
    archives = [path for path in paths if is_archive(path)]
    if not archives:
        return Files(root, tuple(paths), skipped=tuple(skipped))
    unpacked = unpack(archives)
    return Files(
        root,
        (*sorted(set(paths) - set(archives)), *sorted(unpacked.names)),
        unpacked.names,
        (*skipped, *unpacked.skipped),
        tuple(unpacked.refused),
        unpacked.holder,
    )
