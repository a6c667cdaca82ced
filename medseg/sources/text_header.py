"""Text headers of image files (NRRD, MetaImage): lines, numbers and the file beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.sources.byte_stream import ByteStream

_MAX_HEADER = 1 << 20
# Beyond this an extent is a damaged header, whatever the format; products stay below 2**64.
_MAX_INTEGER = 1 << 40


def split_header(
    path: Path, *, magic: bytes, ends_at_blank_line: bool, last_key: str = ""
) -> tuple[list[str], int]:
    """Lines of the header and the position of the first byte after it.

    Args:
        path: the file.
        magic: bytes it must start with; b"" for none.
        ends_at_blank_line: the header ends at an empty line or at the end of the file.
        last_key: else it ends with the line that starts with this word.

    Raises:
        InputError: E_HEADER, it has another start or no end within a megabyte.
    """
    with ByteStream(path, wrapper="raw") as stream:
        block = stream.read_up_to(_MAX_HEADER)
        is_whole = len(block) == stream.file_size
    if not block.startswith(magic):
        raise _bad(path, f"does not start with {magic.decode()}")
    lines: list[str] = []
    position = 0
    while position < len(block):
        end = block.find(b"\n", position)
        stop = len(block) if end < 0 else end
        line = block[position:stop].decode("utf-8", "replace").rstrip("\r")
        position = stop + (end >= 0)
        if ends_at_blank_line and not line:
            return lines, position
        lines.append(line)
        if last_key and line.split("=")[0].strip() == last_key:
            return lines, position
    if ends_at_blank_line and is_whole:
        return lines, position
    raise _bad(path, "its header has no end")


def integers(text: str, path: Path, *, name: str, least: int) -> list[int]:
    """Whole numbers separated by spaces, at least one.

    Raises:
        InputError: E_HEADER.
    """
    try:
        values = [int(word) for word in text.split()]
    except ValueError:
        values = []
    if not values or min(values) < least or max(values) > _MAX_INTEGER or len(values) > 16:
        raise _bad(path, f"{name} is '{text[:60]}', must be whole numbers from {least}")
    return values


def floats(text: str, path: Path, *, name: str) -> NDArray[np.float64]:
    """Numbers separated by spaces or commas, brackets ignored.

    Raises:
        InputError: E_HEADER.
    """
    words = text.strip("()").replace(",", " ").split()
    try:
        return np.array([float(word) for word in words], dtype=np.float64)
    except ValueError:
        raise _bad(path, f"{name} is '{text[:60]}', must be numbers") from None


def beside(path: Path, name: str) -> Path:
    """The data file that a header names; it must lie in the header's folder or below.

    Raises:
        InputError: E_HEADER, it would lie elsewhere or is a list or pattern of files.
    """
    parts = Path(name).parts
    if name.upper().startswith("LIST") or "%" in name or "\0" in name:
        raise _bad(path, f"keeps its voxels in several files ({name[:60]})")
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise _bad(path, f"names the file {name[:60]!r}, which is not in its own folder")
    return path.parent / name


def _bad(path: Path, what: str) -> InputError:
    return InputError(path, what, "export the file again", code="E_HEADER")
