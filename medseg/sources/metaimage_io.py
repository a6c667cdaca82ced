"""MetaImage files (.mha, and .mhd with its data file) to Volumes: read right or refused.

Positions in the file are LPS, and each row of TransformMatrix is the direction of one axis, as ITK
writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.errors import InputError
from medseg.core.geometry import LPS_TO_RAS, Geometry
from medseg.core.volume import Volume
from medseg.sources.byte_stream import ByteStream, Wrapper, file_size
from medseg.sources.placement import (
    UNKNOWN_ORIENTATION_NOTE,
    bad_spacing,
    flat_geometry,
    no_orientation,
    placed,
)
from medseg.sources.read_rules import ReadRules
from medseg.sources.text_header import beside, floats, integers, split_header
from medseg.sources.voxels import not_finite_note, read_voxels, refuse_too_large

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_SYNONYMS = {
    "Orientation": "TransformMatrix", "Rotation": "TransformMatrix", "Position": "Offset",
    "Origin": "Offset", "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}  # fmt: skip


@dataclass(frozen=True)
class _Header:
    fields: dict[str, str]
    data_start: int
    sizes: tuple[int, ...]
    num_channels: int
    geometry: Geometry
    notes: tuple[str, ...]


def read_metaimage(path: Path, *, rules: ReadRules | None = None) -> Volume:
    """The volume in a MetaImage file; a fourth axis or several numbers per voxel become the
    channels.

    Raises:
        InputError: the file is damaged, not supported or over the size limit.
        GeometryError: the header does not say for certain where the voxels lie.
    """
    rules = rules or ReadRules()
    header = _read_header(path, rules=rules)
    fields = header.fields
    dtype = _dtype(fields, path)
    shape = (header.num_channels, *header.sizes)
    num_bytes = prod(shape) * dtype.itemsize
    refuse_too_large(path, num_bytes, rules=rules)
    is_compressed = _truth(fields, "CompressedData")
    name = fields["ElementDataFile"]
    is_local = name.upper() == "LOCAL"
    data_path = path if is_local else beside(path, name)
    start = header.data_start if is_local else 0
    skipped = integers(fields.get("HeaderSize", "0"), path, name="HeaderSize", least=-1)[0]
    if skipped == -1 and not is_compressed:
        start = max(file_size(data_path) - num_bytes, 0)
    elif skipped > 0:
        start += skipped
    wrapper: Wrapper = "zlib" if is_compressed else "raw"
    with ByteStream(data_path, start=start, wrapper=wrapper) as stream:
        array = read_voxels(stream, shape=shape, dtype=dtype, rules=rules)
        excess = stream.finish() + stream.trailing_bytes
    notes = list(header.notes)
    if excess:
        notes.append(f"{excess} bytes after the voxels are ignored")
    notes.extend(not_finite_note(array))
    if len(header.sizes) == 4:
        array = np.moveaxis(array[0], 3, 0)
    elif len(header.sizes) == 2:
        array = array[..., None]
    return Volume(array, header.geometry, notes=tuple(notes))


def read_metaimage_geometry(path: Path, *, rules: ReadRules | None = None) -> Geometry:
    """The grid of a MetaImage file, from its header alone."""
    return _read_header(path, rules=rules or ReadRules()).geometry


def _read_header(path: Path, *, rules: ReadRules) -> _Header:
    lines, start = split_header(
        path, magic=b"", ends_at_blank_line=False, last_key="ElementDataFile"
    )
    fields: dict[str, str] = {}
    for line in lines:
        name, separator, value = line.partition("=")
        if separator:
            key = name.strip()
            fields[_SYNONYMS.get(key, key)] = value.strip()
    if fields.get("ObjectType", "Image") != "Image":
        raise _bad(path, f"holds an object of type {fields['ObjectType']}, not an image")
    sizes = integers(fields.get("DimSize", ""), path, name="DimSize", least=1)
    num_axes = integers(fields.get("NDims", ""), path, name="NDims", least=1)[0]
    if num_axes != len(sizes):
        raise _bad(path, f"announces {num_axes} axes and the sizes {sizes}")
    channels = integers(
        fields.get("ElementNumberOfChannels", "1"), path, name="ElementNumberOfChannels", least=1
    )[0]
    if num_axes not in (2, 3, 4) or (num_axes == 4 and channels > 1):
        raise InputError(
            path,
            f"has {num_axes} axes and {channels} numbers per voxel",
            "split it into 3D volumes",
            code="E_DIMENSIONS",
        )
    notes: list[str] = []
    if num_axes == 4:
        notes.append(f"axis 4 is read as {sizes[3]} channels")
    geometry = _geometry(fields, path, sizes=sizes, rules=rules, notes=notes)
    return _Header(fields, start, tuple(sizes), channels, geometry, tuple(notes))


def _geometry(
    fields: dict[str, str], path: Path, *, sizes: list[int], rules: ReadRules, notes: list[str]
) -> Geometry:
    num_axes = len(sizes)
    shape3 = [*sizes, 1][:3]
    shape = (shape3[0], shape3[1], shape3[2])
    spacing = floats(
        fields.get("ElementSpacing", fields.get("ElementSize", "")), path, name="ElementSpacing"
    )
    if len(spacing) != num_axes or not (np.isfinite(spacing) & (spacing > 0))[:3].all():
        raise bad_spacing(path, tuple(spacing))
    if num_axes == 2:
        notes.append("the place of the 2D image is unknown; it is put into an axial plane")
        return flat_geometry(shape, (float(spacing[0]), float(spacing[1])))
    missing = [name for name in ("TransformMatrix", "Offset") if name not in fields]
    if missing:
        if not rules.allow_unknown_orientation:
            raise no_orientation(path, f"{' and '.join(missing)} not given")
        notes.append(UNKNOWN_ORIENTATION_NOTE)
        return placed(shape, np.diag([*spacing[:3], 1.0]), path, name="ElementSpacing")
    matrix = floats(fields["TransformMatrix"], path, name="TransformMatrix")
    offset = floats(fields["Offset"], path, name="Offset")
    if len(matrix) != num_axes**2 or len(offset) != num_axes:
        raise _bad(path, f"TransformMatrix and Offset do not have {num_axes} axes")
    affine_lps = np.eye(4)
    affine_lps[:3, :3] = matrix.reshape(num_axes, num_axes)[:3, :3].T * spacing[:3]
    affine_lps[:3, 3] = offset[:3]
    return placed(shape, LPS_TO_RAS @ affine_lps, path, name="TransformMatrix")


def _dtype(fields: dict[str, str], path: Path) -> np.dtype[Any]:
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise InputError(
            path,
            f"holds numbers of type '{kind}'",
            "save it as integers, float or double",
            code="E_DTYPE",
        )
    if not _truth(fields, "BinaryData", default="True"):
        raise _bad(path, "keeps its voxels as text")
    return np.dtype((">" if _truth(fields, "BinaryDataByteOrderMSB") else "<") + _TYPES[kind])


def _truth(fields: dict[str, str], name: str, *, default: str = "False") -> bool:
    return fields.get(name, default).strip()[:1] in ("T", "t", "1")


def _bad(path: Path, what: str) -> InputError:
    return InputError(path, what, "export the file again", code="E_HEADER")
