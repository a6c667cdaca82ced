"""Bytes to stored values: one frame at a time, checked against the header before anything is
decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames, get_frame
from pydicom.pixels import apply_color_lut, get_decoder

from medseg.core.errors import InputError
from medseg.dicom.codec_pool import decode_in_child
from medseg.dicom.codestream import check_codestream
from medseg.dicom.parse import DOUBLE_PIXELS, FLOAT_PIXELS, Header, open_pixels
from medseg.dicom.syntaxes import ACCEPTED, NATIVE
from medseg.dicom.values import bad_value, missing

# Largest frame: 16384 x 8192 pixels covers mammography and radiography; whole slide images are not
# read.
_MAX_FRAME_PIXELS = 1 << 27
_COLOURS = frozenset(
    {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT"}
)


@dataclass(frozen=True)
class PixelFormat:
    """How the pixels of a file are stored; checked against each other."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    is_float: bool
    num_frames: int
    photometric: str
    is_planar: bool

    @property
    def channels(self) -> int:
        """Channels once read: three for colour, palettes included."""
        return 3 if self.samples == 3 or self.photometric == "PALETTE COLOR" else 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame; YBR_FULL_422 shares its colours between two pixels."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.bits_allocated // 8

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value that the stored bits can hold."""
        if self.is_signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def check_pixels(header: Header) -> PixelFormat:
    """The pixel format, once syntax, sizes and byte counts agree; reads no pixels.

    Raises:
        InputError: unknown transfer syntax or format, no pixels, too many, or bytes missing.
    """
    where = header.name
    if header.transfer_syntax not in ACCEPTED:
        raise InputError(
            where,
            f"transfer syntax {header.transfer_syntax or 'not stated'} is not supported",
            "export it uncompressed (explicit VR little endian) or as JPEG, JPEG-LS, JPEG 2000 "
            "or RLE",
            code="E_TRANSFER_SYNTAX",
        )
    if not header.pixel_tag:
        raise _broken(where, "has no pixel data")
    form = _format(header)
    if form.rows * form.columns > _MAX_FRAME_PIXELS or form.frame_bytes > 1 << 30:
        raise InputError(
            where,
            f"declares {form.columns} x {form.rows} pixels, more than the limit of "
            f"{_MAX_FRAME_PIXELS}",
            "the header is corrupt, or the image is not a medical slice",
            code="E_TOO_LARGE",
        )
    if header.transfer_syntax in NATIVE:
        needed = form.frame_bytes * form.num_frames
        if header.pixel_length < 0:
            raise _broken(where, "has encapsulated pixels under an uncompressed transfer syntax")
        if header.available < header.pixel_length or header.pixel_length < needed:
            found = min(header.available, header.pixel_length)
            raise _broken(
                where,
                f"holds {found} bytes of pixels, {max(needed, header.pixel_length)} are needed",
            )
        excess = header.pixel_length - needed
        if excess > needed % 2 and not _is_zero_fill(header, needed, excess, form):
            raise _broken(
                where,
                f"holds {header.pixel_length} bytes of pixels, the header describes {needed}",
            )
    elif header.pixel_length >= 0:
        raise _broken(where, "has unencapsulated pixels under a compressed transfer syntax")
    return form


def _is_zero_fill(header: Header, start: int, count: int, form: PixelFormat) -> bool:
    """True if less than a frame follows the pixels and all of it is zero, as some archives pad
    their blocks.
    """
    if count >= form.frame_bytes:
        return False
    with open_pixels(header) as stream:
        stream.seek(header.pixel_offset + start)
        return not stream.read(count).strip(b"\0")


def _format(header: Header) -> PixelFormat:
    where = header.name
    is_float = header.pixel_tag in (FLOAT_PIXELS, DOUBLE_PIXELS)
    rows, columns = header.integer("Rows"), header.integer("Columns")
    for keyword, value in (("Rows", rows), ("Columns", columns)):
        if value < 1:
            raise bad_value(where, keyword, value, "must be at least 1")
    samples = header.integer("SamplesPerPixel", 1)
    photometric = header.text("PhotometricInterpretation")
    if not photometric:
        raise missing(where, "PhotometricInterpretation")
    allocated = header.integer("BitsAllocated")
    # Float pixels have neither; without them whole numbers could be signed or not.
    stored = header.integer("BitsStored", allocated if is_float else None)
    high = header.integer("HighBit", stored - 1)
    representation = header.integer("PixelRepresentation", 0 if is_float else None)
    num_frames = header.integer("NumberOfFrames", 1)
    if num_frames < 1:
        raise bad_value(where, "NumberOfFrames", num_frames, "must be at least 1")
    if is_float:
        wanted = 32 if header.pixel_tag == FLOAT_PIXELS else 64
        if allocated != wanted:
            raise bad_value(
                where, "BitsAllocated", allocated, f"must be {wanted} for this pixel element"
            )
    elif (
        allocated not in (8, 16, 32)
        or not 1 <= stored <= allocated
        or not stored - 1 <= high < allocated
    ):
        raise InputError(
            where,
            f"stores {stored} of {allocated} bits up to bit {high}, which is not supported",
            "export it with 8, 16 or 32 bits allocated",
            code="E_PIXEL_FORMAT",
        )
    if representation not in (0, 1):
        raise bad_value(where, "PixelRepresentation", representation, "must be 0 or 1")
    known = (
        photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") or photometric in _COLOURS
    )
    if not known or samples != (3 if photometric in _COLOURS else 1):
        raise InputError(
            where,
            f"has {samples} samples per pixel as '{photometric}', which is not supported",
            "export it as MONOCHROME2 or RGB",
            code="E_PIXEL_FORMAT",
        )
    return PixelFormat(
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        is_signed=representation == 1,
        is_float=is_float,
        num_frames=num_frames,
        photometric=photometric,
        is_planar=samples > 1 and header.integer("PlanarConfiguration", 0) == 1,
    )


def read_frames(header: Header, form: PixelFormat, numbers: list[int]) -> Iterator[NDArray[Any]]:
    """Stored values of frames, in the order of `numbers` (0-based).

    Yields:
        Integers (sign-extended) or floats, shape (rows, columns) or, in colour, (rows, columns, 3).
    """
    is_native = header.transfer_syntax in NATIVE
    for values in (_native_frames if is_native else _encapsulated_frames)(header, form, numbers):
        yield _apply_palette(values, header) if form.photometric == "PALETTE COLOR" else values


def _native_frames(header: Header, form: PixelFormat, numbers: list[int]) -> Iterator[NDArray[Any]]:
    order = "<" if header.is_little_endian else ">"
    dtype = np.dtype(f"{order}{'f' if form.is_float else 'u'}{form.bits_allocated // 8}")
    swaps_bytes = form.bits_allocated == 8 and not header.is_little_endian and _is_words(header)
    with open_pixels(header) as stream:
        for number in numbers:
            buffer = bytearray(form.frame_bytes)
            start = number * form.frame_bytes
            if swaps_bytes:
                buffer = _read_words(stream, header, start, form.frame_bytes)
            else:
                stream.seek(header.pixel_offset + start)
                if stream.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
                    raise _broken(header.name, "ends before its last pixel")
            if form.samples == 3:
                yield _decode(bytes(buffer), header, form)
                continue
            yield _finish(np.frombuffer(buffer, dtype).reshape(form.rows, form.columns), form)


def _is_words(header: Header) -> bool:
    with header.path.open("rb") as file:
        file.seek(max(0, header.pixel_offset - 8))
        return file.read(2) == b"OW"


def _read_words(stream: Any, header: Header, start: int, count: int) -> bytearray:
    """8-bit pixels in OW of a big-endian file come in swapped pairs (PS3.5 section 8.1.1 and annex
    A.3).
    """
    first = start - start % 2
    length = start + count - first
    length += length % 2
    stream.seek(header.pixel_offset + first)
    pairs = np.frombuffer(stream.read(length), np.uint8)
    if pairs.size != length:
        raise _broken(header.name, "ends before its last pixel")
    unswapped = pairs.reshape(-1, 2)[:, ::-1].reshape(-1)
    return bytearray(unswapped[start - first : start - first + count].tobytes())


def _encapsulated_frames(
    header: Header, form: PixelFormat, numbers: list[int]
) -> Iterator[NDArray[Any]]:
    with header.path.open("rb") as file:
        file.seek(header.pixel_offset)
        encapsulated = file.read(header.available)
    try:
        if form.num_frames == 1:
            codes = {0: next(generate_frames(encapsulated, number_of_frames=1))}
        else:
            codes = _frame_codes(encapsulated, header, form, numbers)
    except (InputError, MemoryError):
        raise
    except Exception:
        raise _broken(header.name, "has encapsulated frames that cannot be told apart") from None
    for number in numbers:
        code = codes[number]
        check_codestream(code, header.transfer_syntax, form, where=header.name)
        yield _finish(_decode(code, header, form), form)


def _frame_codes(
    encapsulated: bytes, header: Header, form: PixelFormat, numbers: list[int]
) -> dict[int, bytes]:
    if header.has("ExtendedOffsetTable") and header.has("ExtendedOffsetTableLengths"):
        table = (header.dataset.ExtendedOffsetTable, header.dataset.ExtendedOffsetTableLengths)
        return {
            n: get_frame(encapsulated, n, extended_offsets=table, number_of_frames=form.num_frames)
            for n in numbers
        }
    wanted = set(numbers)
    codes: dict[int, bytes] = {}
    count = 0
    for n, code in enumerate(generate_frames(encapsulated, number_of_frames=form.num_frames)):
        count += 1
        if n in wanted:
            codes[n] = code
    if count != form.num_frames:
        raise _broken(
            header.name, f"holds {count} encapsulated frames, {form.num_frames} are declared"
        )
    return codes


def _decode(data: bytes, header: Header, form: PixelFormat) -> NDArray[Any]:
    """One frame, colours as RGB; compressed ones are decoded in a child process."""
    options = {
        "rows": form.rows,
        "columns": form.columns,
        "samples_per_pixel": form.samples,
        "bits_allocated": form.bits_allocated,
        "bits_stored": form.bits_stored,
        "photometric_interpretation": form.photometric,
        "pixel_representation": int(form.is_signed),
        "planar_configuration": int(form.is_planar),
    }
    syntax = header.transfer_syntax
    if syntax in NATIVE:
        array = _native_colours(data, syntax, options, header.name)
    else:
        decoded = decode_in_child(data, syntax, options, where=header.name)
        if isinstance(decoded, str):
            raise _broken(header.name, f"cannot be decoded ({decoded})")
        array = decoded
    if array.shape != _shape(form):
        raise _broken(header.name, f"decodes to {array.shape}, the header says {_shape(form)}")
    return array


def _native_colours(data: bytes, syntax: str, options: dict[str, Any], where: str) -> NDArray[Any]:
    """One uncompressed frame in colour as RGB, shape (rows, columns, 3)."""
    decoder: Any = get_decoder(syntax)
    try:
        array, _ = decoder.as_array(
            data, index=0, raw=False, number_of_frames=1, pixel_keyword="PixelData", **options
        )
    except Exception as error:
        raise _broken(where, f"cannot be decoded ({type(error).__name__})") from None
    return np.ascontiguousarray(array)


def _finish(values: NDArray[Any], form: PixelFormat) -> NDArray[Any]:
    """Native byte order, unused bits removed, sign extended."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if form.is_float or form.samples == 3:
        return values
    unsigned = values.view(f"u{values.dtype.itemsize}")
    # A codec may return fewer bits than are allocated, never fewer than are used.
    bits = 8 * values.dtype.itemsize
    shift = form.high_bit + 1 - form.bits_stored if bits == form.bits_allocated else 0
    unused_high = max(0, bits - form.bits_stored - shift)
    if not form.is_signed:
        if shift:
            unsigned = unsigned >> shift
        if unused_high or shift:
            unsigned = unsigned & unsigned.dtype.type(
                min((1 << form.bits_stored) - 1, (1 << bits) - 1)
            )
        return unsigned
    signed = unsigned.view(f"i{unsigned.dtype.itemsize}")
    if unused_high or shift:
        # Shifting to the top and arithmetically back drops overlay bits and extends the sign.
        signed = (signed << unused_high) >> (unused_high + shift)
    return signed


def _apply_palette(indices: NDArray[Any], header: Header) -> NDArray[Any]:
    """Colours of palette indices, shape (rows, columns, 3)."""
    try:
        return np.asarray(apply_color_lut(indices, header.dataset))
    except Exception as error:
        raise InputError(
            header.name,
            f"has a colour palette that cannot be applied ({type(error).__name__})",
            "export it as RGB",
            code="E_PIXEL_FORMAT",
        ) from None


def _shape(form: PixelFormat) -> tuple[int, ...]:
    return (
        (form.rows, form.columns) if form.samples == 1 else (form.rows, form.columns, form.samples)
    )


def _broken(where: str, what: str) -> InputError:
    return InputError(where, what, "export or send the file again", code="E_PIXEL_DATA")
