"""The header of a NIfTI-1 or NIfTI-2 file: parsed, checked and turned into facts; no voxels.

Field positions and rules are those of nifti1.h and nifti2.h; what is refused stands in
docs/input_errors.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import Geometry
from medseg.sources.nifti_affine import nifti_affine
from medseg.sources.read_rules import ReadRules

HEADER_BYTES = 348
HEADER_2_BYTES = 540


def _layout(size: int, **fields: tuple[str, int]) -> dict[str, np.dtype[Any]]:
    """Header fields (type and position) as a structured type, for both byte orders."""
    names, places = list(fields), list(fields.values())
    dtype = np.dtype(
        {
            "names": names,
            "formats": [kind for kind, _ in places],
            "offsets": [offset for _, offset in places],
            "itemsize": size,
        }
    )
    return {"<": dtype.newbyteorder("<"), ">": dtype.newbyteorder(">")}


_NIFTI_1 = _layout(
    348,
    sizeof_hdr=("i4", 0), dim=("(8,)i2", 40), datatype=("i2", 70), bitpix=("i2", 72),
    pixdim=("(8,)f4", 76), vox_offset=("f4", 108), scl_slope=("f4", 112), scl_inter=("f4", 116),
    xyzt_units=("u1", 123), qform_code=("i2", 252), sform_code=("i2", 254),
    quatern=("(3,)f4", 256), qoffset=("(3,)f4", 268), srow=("(3,4)f4", 280),
)  # fmt: skip
_NIFTI_2 = _layout(
    540,
    sizeof_hdr=("i4", 0), datatype=("i2", 12), bitpix=("i2", 14), dim=("(8,)i8", 16),
    pixdim=("(8,)f8", 104), vox_offset=("i8", 168), scl_slope=("f8", 176), scl_inter=("f8", 184),
    qform_code=("i4", 344), sform_code=("i4", 348), quatern=("(3,)f8", 352),
    qoffset=("(3,)f8", 376), srow=("(3,4)f8", 400), xyzt_units=("i4", 500),
)  # fmt: skip

_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
_OTHER_DTYPES = {
    1: "1-bit voxels", 32: "complex numbers", 128: "RGB colours", 1536: "128-bit floats",
    1792: "complex numbers", 2048: "complex numbers", 2304: "RGBA colours",
}  # fmt: skip

# xyzt_units & 7: millimetres per unit; files that name no unit are in mm by long-standing use.
_UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True)
class NiftiHeader:
    """What is needed to read the voxels.

    Args:
        dtype: of the stored numbers, with byte order.
        geometry: grid of one channel, RAS mm.
        num_channels: extent beyond the third axis.
        voxel_offset: position of the first voxel in the (decompressed) file.
        slope, intercept: value = slope * stored + intercept; None if stored numbers are the values.
        is_pair: the voxels are in a separate .img file.
        is_bitpix_right: the header's bits per voxel agree with its data type.
        notes: corrections and choices, as sentences.
    """

    dtype: np.dtype[Any]
    geometry: Geometry
    num_channels: int
    voxel_offset: int
    slope: float | None
    intercept: float
    is_pair: bool
    is_bitpix_right: bool
    notes: tuple[str, ...]

    @property
    def num_voxels(self) -> int:
        i, j, k = self.geometry.shape
        return i * j * k * self.num_channels


def looks_like_nifti(block: bytes) -> bool:
    """True if the first bytes of a file are those of a NIfTI header."""
    return block[344:347] in (b"n+1", b"ni1") or block[4:7] in (b"n+2", b"ni2")


def parse_nifti_header(block: bytes, path: Path, *, rules: ReadRules) -> NiftiHeader:
    """Facts from the first 540 bytes (348 are enough for NIfTI-1) of a file.

    Raises:
        InputError: the header is damaged, of another format or not supported.
        GeometryError: it does not say where the voxels lie, or contradicts itself.
    """
    fields, is_pair = _fields(block, path)
    notes: list[str] = []
    shape, num_channels, num_axes = _extents(fields, path, notes)
    dtype = _dtype(fields, path)
    slope, intercept = _scaling(fields, path, notes)
    unit = int(fields["xyzt_units"]) & 7
    if unit not in _UNITS_MM:
        raise GeometryError(
            path,
            f"the unit of length has the number {unit}, known are 1 (m), 2 (mm) and 3 (micrometre)",
            "set xyzt_units to 2 if the file is in mm",
            code="E_UNITS",
        )
    if unit in (1, 3):
        notes.append(
            f"positions given in {'metres' if unit == 1 else 'micrometres'} were turned into mm"
        )
    # A NaN that signals warns when it is widened, an overflow when it is squared; both are refused.
    with np.errstate(invalid="ignore", over="ignore"):
        affine = nifti_affine(
            fields,
            path,
            shape=shape,
            num_axes=num_axes,
            unit_mm=_UNITS_MM[unit],
            rules=rules,
            notes=notes,
        )
    order = fields.dtype["dim"].base.byteorder
    bitpix = int(fields["bitpix"])
    return NiftiHeader(
        dtype=np.dtype(dtype).newbyteorder(order),
        geometry=Geometry(shape, affine),
        num_channels=num_channels,
        voxel_offset=_voxel_offset(
            fields, path, header_bytes=len(fields.tobytes()), is_pair=is_pair
        ),
        slope=slope,
        intercept=intercept,
        is_pair=is_pair,
        is_bitpix_right=bitpix == np.dtype(dtype).itemsize * 8,
        notes=tuple(notes),
    )


def _fields(block: bytes, path: Path) -> tuple[np.void, bool]:
    """Header fields in their own byte order, and whether the voxels are in another file."""
    if len(block) < HEADER_BYTES:
        raise InputError(
            path,
            f"has {len(block)} bytes, a NIfTI header has {HEADER_BYTES}",
            "the file is cut off; copy or export it again",
            code="E_TRUNCATED",
        )
    for order in "<>":
        size = int(np.frombuffer(block[:4], f"{order}i4")[0])
        if size == HEADER_BYTES:
            magic, layout, version = block[344:348], _NIFTI_1, 1
        elif size == HEADER_2_BYTES:
            magic, layout, version = block[4:12], _NIFTI_2, 2
        else:
            continue
        if version == 1 and magic[:3] not in (b"n+1", b"ni1"):
            raise InputError(
                path,
                "has an ANALYZE 7.5 header, which does not tell left from right, or a damaged "
                "NIfTI header (its signature 'n+1' or 'ni1' is missing)",
                "convert it to NIfTI with a tool that knows its orientation",
                code="E_ANALYZE",
            )
        if version == 2 and len(block) < HEADER_2_BYTES:
            raise InputError(
                path,
                f"has {len(block)} bytes, a NIfTI-2 header has {HEADER_2_BYTES}",
                "the file is cut off; copy or export it again",
                code="E_TRUNCATED",
            )
        wanted = b"\0" if version == 1 else b"\0\r\n\x1a\n"
        if (version == 2 and magic[:3] not in (b"n+2", b"ni2")) or magic[3:] != wanted:
            raise _bad_header(path, f"the header's signature is {magic!r}")
        return np.frombuffer(block[:size], layout[order])[0], magic[1:2] == b"i"
    raise _bad_header(path, "the header's length field is neither 348 nor 540")


def _bad_header(path: Path, what: str) -> InputError:
    return InputError(
        path, f"{what}: not a NIfTI file, or a damaged one", "export it again", code="E_HEADER"
    )


def _extents(
    fields: np.void, path: Path, notes: list[str]
) -> tuple[tuple[int, int, int], int, int]:
    """Spatial shape, number of channels and number of axes that the header announces."""
    dim = [int(extent) for extent in fields["dim"]]
    num_axes = dim[0]
    if not 1 <= num_axes <= 7:
        raise _bad_dimensions(path, f"announces {num_axes} axes, must be 2 to 5")
    extents = dim[1 : num_axes + 1]
    if min(extents) < 1:
        raise _bad_dimensions(path, f"has the extents {extents}, each must be at least 1")
    if num_axes == 1:
        raise _bad_dimensions(path, "has a single axis, an image has at least two")
    full = extents + [1] * (7 - len(extents))
    beyond = [extent for extent in full[3:] if extent > 1]
    if len(beyond) > 1 or max(full[5:]) > 1:
        raise _bad_dimensions(
            path,
            f"has the extents {extents}; at most one axis beyond the third may be longer than 1",
        )
    if beyond:
        notes.append(f"axis {full.index(beyond[0], 3) + 1} is read as {beyond[0]} channels")
    return (full[0], full[1], full[2]), (beyond[0] if beyond else 1), num_axes


def _bad_dimensions(path: Path, what: str) -> InputError:
    return InputError(path, what, "split or convert it to 3D volumes", code="E_DIMENSIONS")


def _dtype(fields: np.void, path: Path) -> str:
    code = int(fields["datatype"])
    if code in _DTYPES:
        return _DTYPES[code]
    raise InputError(
        path,
        f"holds {_OTHER_DTYPES.get(code, 'an unknown kind of number')} (data type {code})",
        "convert it to integers or to 32-bit or 64-bit floats",
        code="E_DTYPE",
    )


def _scaling(fields: np.void, path: Path, notes: list[str]) -> tuple[float | None, float]:
    """Slope (None without scaling) and intercept; by nifti1.h a slope of 0 means no scaling."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0.0 or isnan(slope):
        if slope == 0.0 and intercept != 0.0 and not isnan(intercept):
            notes.append(f"the intercept {intercept:g} is ignored because the slope is 0")
        return None, 0.0
    if not isfinite(slope) or not isfinite(intercept):
        raise InputError(
            path,
            f"the values are scaled by {slope:g} and moved by {intercept:g}, which is not a number",
            "set scl_slope and scl_inter to what the values need",
            code="E_SCALING",
        )
    return (None, 0.0) if (slope, intercept) == (1.0, 0.0) else (slope, intercept)


def _voxel_offset(fields: np.void, path: Path, *, header_bytes: int, is_pair: bool) -> int:
    offset = float(fields["vox_offset"])
    least = 0 if is_pair else header_bytes + 4
    if not isfinite(offset) or offset != int(offset) or offset < least:
        raise InputError(
            path,
            f"the voxels are said to start at byte {offset:g}, must be a whole number from {least}",
            "the header is damaged; export the file again",
            code="E_HEADER",
        )
    return int(offset)
