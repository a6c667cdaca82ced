"""ZIP archives to files: unpacked under numbers into a temporary folder, within stated bounds.

No member's name becomes a path, links are not made, and an archive inside an archive stays packed.
"""

from __future__ import annotations

import stat
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.errors import InputError

# Bytes of all archives once unpacked, and how many times their packed size (deflate of images
# reaches about 10).
_MAX_UNPACKED = 64 << 30
_MAX_RATIO = 100
_RATIO_FREE = 1 << 24
_MAX_MEMBERS = 200_000
_MARK = b"PK\x03\x04"


@dataclass
class Unpacked:
    """What came out of one or several archives.

    Args:
        holder: the temporary folder; it goes when the last holder goes.
        names: what messages call each file: archive and member.
        skipped: path and reason.
        refused: one error per archive that is broken or hostile.
    """

    holder: tempfile.TemporaryDirectory[str]
    names: dict[Path, str] = field(default_factory=dict)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    refused: list[InputError] = field(default_factory=list)


def is_archive(path: Path) -> bool:
    """True for a ZIP archive; false for a DICOM file whose preamble looks like one."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return _is_packed(head) and zipfile.is_zipfile(path)


def unpack(archives: list[Path]) -> Unpacked:
    """The regular members of all archives, together within the bounds that one archive has."""
    packed = {archive: archive.stat().st_size for archive in archives}
    left = min(_MAX_UNPACKED, _MAX_RATIO * sum(packed.values()) + _RATIO_FREE)
    left_members = _MAX_MEMBERS
    found = Unpacked(tempfile.TemporaryDirectory(prefix="medseg-", ignore_cleanup_errors=True))
    for number, archive in enumerate(archives):
        root = Path(found.holder.name, f"{number:04d}")
        limit = min(left, _MAX_RATIO * packed[archive] + _RATIO_FREE)
        try:
            names, skipped, used = _unpack_one(archive, root, limit, left_members)
        except InputError as error:
            found.refused.append(error)
            # What it has written before it was found out counts too.
            left -= sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
            continue
        found.names |= names
        found.skipped += skipped
        left -= used
        left_members -= len(names)
    return found


def _unpack_one(
    archive: Path, root: Path, limit: int, max_members: int
) -> tuple[dict[Path, str], list[tuple[Path, str]], int]:
    """Names of the files written, members passed over, and bytes written."""
    names: dict[Path, str] = {}
    skipped: list[tuple[Path, str]] = []
    used = 0
    try:
        root.mkdir()
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > max_members:
                raise _hostile(archive, f"holds {len(members)} members, more than {max_members}")
            for member in members:
                _check_member(archive, member)
            if sum(member.file_size for member in members) > limit:
                raise _hostile(archive, f"unpacks to more than {limit >> 20} MiB")
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
                copied = _copy_member(opened, member, target, limit - used, archive)
                if copied is None:
                    reason = "is a ZIP archive inside a ZIP archive, which stays packed"
                    skipped.append((archive / member.filename, reason))
                    continue
                used += copied
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
    return names, skipped, used


def _is_packed(head: bytes) -> bool:
    return head.startswith(_MARK) and head[128:132] != b"DICM"


def _copy_member(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, left: int, archive: Path
) -> int | None:
    """Copies at most `left` bytes, whatever the member's header says.

    Returns:
        The bytes copied; None if the member is an archive itself and so was not copied.
    """
    copied = 0
    with opened.open(member) as source:
        chunk = source.read(1 << 20)
        if _is_packed(chunk[:132]):
            return None
        with target.open("wb") as sink:
            while chunk:
                copied += len(chunk)
                if copied > left:
                    raise _hostile(archive, "unpacks to more than it declares")
                sink.write(chunk)
                chunk = source.read(1 << 20)
    return copied


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    parts = member.filename.replace("\\", "/").split("/")
    if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise _hostile(archive, "has a member whose name points outside the archive")


def _safe_suffix(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return suffix if suffix[1:].isalnum() and len(suffix) <= 8 else ""


def _hostile(archive: Path, what: str) -> InputError:
    return InputError(
        archive, what, "the archive is corrupt or hostile; pack it again", code="E_ARCHIVE"
    )
