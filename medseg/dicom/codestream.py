"""What a compressed frame says about itself, compared with the header before a codec sees it.

Codecs allocate what the codestream declares; a few changed bytes can make that gigabytes.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Protocol

from medseg.core.errors import InputError
from medseg.dicom.syntaxes import JPEG_2000, RLE

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
# By the first byte of a run: bytes it takes and bytes it stands for (literal, nothing, repeated).
_RUN_STEP = (*range(2, 130), 1, *[2] * 127)
_RUN_LENGTH = (*range(1, 129), 0, *range(128, 1, -1))
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


class _Expected(Protocol):
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def bits_allocated(self) -> int: ...


def check_codestream(code: bytes, syntax: str, form: _Expected, *, where: str) -> None:
    """Refuses a frame whose own size, samples or precision contradict the header.

    Args:
        code: one compressed frame.
        syntax: transfer syntax UID.
        form: size, samples and bits as the header has them.
        where: what messages call the file.
    """
    if syntax == RLE:
        _check_rle(code, form, where)
        return
    facts = _j2k_facts(code) if syntax in JPEG_2000 else _jpeg_facts(code)
    if facts is None:
        raise _broken(where, "has a compressed frame without a readable start")
    columns, rows, samples, precision = facts
    if (columns, rows, samples) != (form.columns, form.rows, form.samples):
        raise _broken(
            where,
            f"has a compressed frame of {columns} x {rows} with {samples} samples, the header says "
            f"{form.columns} x {form.rows} with {form.samples}",
        )
    if precision > form.bits_allocated:
        raise _broken(
            where, f"has {precision}-bit samples compressed, {form.bits_allocated} are allocated"
        )


def _j2k_facts(code: bytes) -> tuple[int, int, int, int] | None:
    """Columns, rows, samples and precision from the SIZ marker (ISO 15444-1 A.5.1)."""
    start = _j2k_start(code)
    if code[start : start + 4] != b"\xff\x4f\xff\x51" or len(code) < start + 46:
        return None
    width, height, left, top, tile_w, tile_h, _, _, samples = struct.unpack(
        ">8LH", code[start + 8 : start + 42]
    )
    if not tile_w or not tile_h or left >= width or top >= height:
        return None
    tiles = -(-width // tile_w) * -(-height // tile_h)
    if tiles > 65535:
        return None
    for sample in range(samples):
        entry = code[start + 42 + 3 * sample : start + 45 + 3 * sample]
        # Subsampled components do not occur in DICOM but for YBR_PARTIAL_420, which is not read.
        if len(entry) < 3 or entry[1] != 1 or entry[2] != 1:
            return None
    return width - left, height - top, samples, (code[start + 42] & 0x7F) + 1


def _j2k_start(code: bytes) -> int:
    """Where the codestream starts: at once, or in the jp2c box of a JP2 file; the end if nowhere.

    A box of length 0 would keep pydicom's own search from ever ending.
    """
    if not code.startswith(b"\0\0\0\x0cjP  "):
        return 0
    position = 12
    while position + 8 <= len(code):
        if code[position + 4 : position + 8] == b"jp2c":
            return position + 8
        length = int.from_bytes(code[position : position + 4], "big")
        if length < 8:
            break
        position += length
    return len(code)


def _jpeg_facts(code: bytes) -> tuple[int, int, int, int] | None:
    """Columns, rows, samples and precision from the start of frame (ISO 10918-1 B.2.2)."""
    position = 2
    if code[:2] != b"\xff\xd8":
        return None
    while position + 4 <= len(code):
        if code[position] != 0xFF:
            return None
        marker = code[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        if marker in _START_OF_FRAME:
            if position + 10 > len(code):
                return None
            precision, rows, columns, samples = struct.unpack(
                ">BHHB", code[position + 4 : position + 10]
            )
            return columns, rows, samples, precision
        position += 2 + int.from_bytes(code[position + 2 : position + 4], "big")
    return None


def _check_rle(code: bytes, form: _Expected, where: str) -> None:
    """The header of 64 bytes: number of segments and where each starts (PS3.5 annex G.5)."""
    if len(code) < 64:
        raise _broken(where, "has an RLE frame without its header")
    count, *offsets = struct.unpack("<16L", code[:64])
    wanted = form.samples * form.bits_allocated // 8
    starts = offsets[:count] if count <= 15 else []
    bounds = [*starts, len(code)]
    if count != wanted or any(b <= a for a, b in pairwise([63, *bounds])):
        raise _broken(
            where, f"has an RLE frame of {count} segments where {wanted} are needed in order"
        )
    for start, end in pairwise(bounds):
        unpacked = _unpacked_length(code[start:end], form.rows * form.columns)
        if unpacked != form.rows * form.columns:
            raise _broken(
                where,
                f"has an RLE segment of {unpacked} bytes where {form.rows * form.columns} are "
                "needed",
            )


def _unpacked_length(segment: bytes, wanted: int) -> int:
    """Bytes that a segment unpacks to; stops once there are too many (PS3.5 annex G.3)."""
    position, length = _unpacked(segment, 0, wanted)
    # Runs of nothing, then zeros up to an even length, may follow.
    if length == wanted and segment[position:].lstrip(b"\x80").strip(b"\0"):
        length += _unpacked(segment, position, 1)[1]
    return length


def _unpacked(segment: bytes, position: int, wanted: int) -> tuple[int, int]:
    """Where the run ends with which `wanted` bytes are reached, and the bytes so far."""
    length, end = 0, len(segment)
    last = end - 1
    while position < last and length < wanted:
        head = segment[position]
        position += _RUN_STEP[head]
        length += _RUN_LENGTH[head]
    return position, length - max(0, position - end)


def _broken(where: str, what: str) -> InputError:
    return InputError(where, what, "export or send the file again", code="E_PIXEL_DATA")
