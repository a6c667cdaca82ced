"""Which files to look at: a file, a folder and all below it, a ZIP archive, or the folder of a
DICOMDIR.

Only regular files, by lstat: no link is followed and nothing that could block (a FIFO, a device) is
    opened.
"""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.errors import InputError

# Of a ZIP archive: bytes once unpacked, and how many times its packed size (deflate of images
# reaches about 10).
_MAX_UNPACKED = 64 << 30
_MAX_RATIO = 100
_RATIO_FREE = 1 << 24
_MAX_MEMBERS = 200_000


@dataclass(frozen=True, eq=False)
class Files:
    """Files to read, and what was passed over.

    Args:
        root: the folder that names are relative to.
        paths: regular files, sorted.
        names: what messages call files that were unpacked from an archive.
        skipped: path and reason.
        unpacked: keeps the temporary folder of an archive alive; it goes when the last holder goes.
    """

    root: Path
    paths: tuple[Path, ...]
    names: dict[Path, str] = field(default_factory=dict)
    skipped: tuple[tuple[Path, str], ...] = ()
    unpacked: tempfile.TemporaryDirectory[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process reads the unpacked files but does not own them.
        return {**self.__dict__, "unpacked": None}


def find_files(path: Path) -> Files:
    """All regular files at or below `path`.

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
    if zipfile.is_zipfile(path):
        return _unpack(path)
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
    return Files(root, tuple(sorted(paths)), skipped=tuple(skipped))


def _unpack(archive: Path) -> Files:
    """Members copied to a temporary folder under numbers: no member's name becomes a path."""
    packed_size = archive.stat().st_size
    limit = min(_MAX_UNPACKED, _MAX_RATIO * packed_size + _RATIO_FREE)
    holder = tempfile.TemporaryDirectory(prefix="medseg-", ignore_cleanup_errors=True)
    root = Path(holder.name)
    names: dict[Path, str] = {}
    skipped: list[tuple[Path, str]] = []
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > _MAX_MEMBERS:
                raise _hostile(archive, f"holds {len(members)} members, more than {_MAX_MEMBERS}")
            for member in members:
                _check_member(archive, member)
            if sum(member.file_size for member in members) > limit:
                raise _hostile(archive, f"unpacks to more than {limit >> 20} MiB")
            left = limit
            folders: dict[str, Path] = {}
            for n, member in enumerate(members):
                if member.is_dir():
                    continue
                if stat.S_ISLNK(member.external_attr >> 16):
                    skipped.append((archive / member.filename, "is a link in an archive"))
                    continue
                parent = str(Path(member.filename).parent)
                folder = folders.setdefault(parent, root / f"{len(folders):04d}")
                folder.mkdir(exist_ok=True)
                target = folder / f"{n:06d}{_safe_suffix(member.filename)}"
                left -= _copy_member(opened, member, target, left, archive)
                names[target] = f"{archive}/{member.filename}"
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile raises many types on broken archives
        raise InputError(
            archive,
            f"is a ZIP archive that cannot be read ({type(error).__name__})",
            "pack it again without a password",
            code="E_ARCHIVE",
        ) from None
    return Files(root, tuple(sorted(names)), names, tuple(skipped), holder)


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    parts = member.filename.replace("\\", "/").split("/")
    if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise _hostile(archive, "has a member whose name points outside the archive")


def _safe_suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if suffix[1:].isalnum() and len(suffix) <= 8 else ""


def _copy_member(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, left: int, archive: Path
) -> int:
    """Copies at most `left` bytes, whatever the member's header says; returns the bytes copied."""
    copied = 0
    with opened.open(member) as source, target.open("wb") as sink:
        while chunk := source.read(1 << 20):
            copied += len(chunk)
            if copied > left:
                raise _hostile(archive, "unpacks to more than it declares")
            sink.write(chunk)
    return copied


def _hostile(archive: Path, what: str) -> InputError:
    return InputError(
        archive, what, "the archive is corrupt or hostile; pack it again", code="E_ARCHIVE"
    )
