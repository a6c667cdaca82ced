"""NRRD files (.nrrd, and .nhdr with its data file) to Volumes: read right or refused.

Format: teem.sourceforge.net/nrrd/format.html. Encodings raw and gzip; directions in one of the
three anatomical spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import LPS_TO_RAS, Geometry
from medseg.core.volume import Volume
from medseg.sources.byte_stream import ByteStream, Wrapper, file_size
from medseg.sources.placement import (
    NO_THICKNESS_NOTE,
    UNKNOWN_ORIENTATION_NOTE,
    bad_spacing,
    flat_geometry,
    no_orientation,
    placed,
)
from medseg.sources.read_rules import ReadRules
from medseg.sources.text_header import beside, floats, integers, split_header
from medseg.sources.voxels import not_finite_note, read_voxels, refuse_too_large

_NAMES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, "
    "int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_TYPES = {name: kind for kind, names in _NAMES.items() for name in names.split(", ")}
_TO_RAS = {
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]), "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS,
}  # fmt: skip
_WRAPPERS: dict[str, Wrapper] = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
_UNITS_MM = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "m": 1000.0, "um": 0.001, "": 1.0}
_SPATIAL_KINDS = {"domain", "space"}


@dataclass(frozen=True)
class _Header:
    fields: dict[str, str]
    data_start: int
    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    channel_axis: int | None
    geometry: Geometry
    notes: tuple[str, ...]


def read_nrrd(path: Path, *, rules: ReadRules | None = None) -> Volume:
    """The volume in a NRRD file; one axis without a direction becomes the channels.

    Raises:
        InputError: the file is damaged, not supported or over the size limit.
        GeometryError: the header does not say for certain where the voxels lie.
    """
    rules = rules or ReadRules()
    header = _read_header(path, rules=rules)
    fields = header.fields
    encoding = fields.get("encoding", "").lower()
    if encoding not in _WRAPPERS:
        raise InputError(
            path,
            f"its encoding is '{encoding}', accepted are raw and gzip",
            "save it with one of these",
            code="E_COMPRESSION",
        )
    data_path, start = _data_place(path, header)
    num_bytes = prod(header.sizes) * header.dtype.itemsize
    refuse_too_large(path, num_bytes, rules=rules)
    byte_skip = integers(fields.get("byte skip", "0"), path, name="byte skip", least=-1)[0]
    if byte_skip == -1:
        start = max(file_size(data_path) - num_bytes, 0)
    with ByteStream(data_path, start=start, wrapper=_WRAPPERS[encoding]) as stream:
        stream.skip(max(byte_skip, 0))
        array = read_voxels(stream, shape=header.sizes, dtype=header.dtype, rules=rules)
        excess = stream.finish() + stream.trailing_bytes
    notes = list(header.notes)
    if excess:
        notes.append(f"{excess} bytes after the voxels are ignored")
    notes.extend(not_finite_note(array))
    axis = header.channel_axis
    array = array[None] if axis is None else np.moveaxis(array, axis, 0)
    if array.ndim == 3:
        array = array[..., None]
    return Volume(array, header.geometry, notes=tuple(notes))


def read_nrrd_geometry(path: Path, *, rules: ReadRules | None = None) -> Geometry:
    """The grid of a NRRD file, from its header alone."""
    return _read_header(path, rules=rules or ReadRules()).geometry


def _read_header(path: Path, *, rules: ReadRules) -> _Header:
    lines, start = split_header(path, magic=b"NRRD", ends_at_blank_line=True)
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if not separator or line.startswith("#") or value.startswith("="):
            continue
        fields[name.strip().lower()] = value.strip()
    sizes = integers(fields.get("sizes", ""), path, name="sizes", least=1)
    if len(sizes) != integers(fields.get("dimension", ""), path, name="dimension", least=1)[0]:
        raise _bad(path, f"announces {fields['dimension']} axes and the sizes {sizes}")
    kind = fields.get("type", "").lower()
    if kind not in _TYPES:
        raise InputError(
            path,
            f"holds numbers of type '{kind}'",
            "save it as integers of up to 64 bits, float or double",
            code="E_DTYPE",
        )
    dtype = np.dtype(_TYPES[kind])
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big") and dtype.itemsize > 1:
        raise _bad(path, f"does not say its byte order (endian is '{endian}')")
    directions = _vectors(fields.get("space directions"), path, count=len(sizes))
    spatial = _spatial_axes(fields, directions, path, sizes=sizes)
    notes: list[str] = []
    beyond = [axis for axis in range(len(sizes)) if axis not in spatial]
    shape3 = [sizes[axis] for axis in spatial] + [1] * (3 - len(spatial))
    shape = (shape3[0], shape3[1], shape3[2])
    return _Header(
        fields,
        start,
        tuple(sizes),
        dtype.newbyteorder("<" if endian == "little" else ">"),
        beyond[0] if beyond else None,
        _geometry(fields, directions, path, spatial=spatial, shape=shape, rules=rules, notes=notes),
        tuple(notes),
    )


def _data_place(path: Path, header: _Header) -> tuple[Path, int]:
    """File and position of the first (encoded) byte of the voxels."""
    fields = header.fields
    name = fields.get("data file", fields.get("datafile"))
    data_path, start = (path, header.data_start) if name is None else (beside(path, name), 0)
    lines = integers(fields.get("line skip", "0"), path, name="line skip", least=0)[0]
    if lines:
        with ByteStream(data_path, start=start, wrapper="raw") as stream:
            head = stream.read_up_to(1 << 20)
        for _ in range(min(lines, len(head) + 1)):
            end = head.find(b"\n")
            if end < 0:
                raise _bad(path, f"says to skip {lines} lines, which are not there")
            start, head = start + end + 1, head[end + 1 :]
    return data_path, start


def _vectors(
    text: str | None, path: Path, *, count: int
) -> list[NDArray[np.float64] | None] | None:
    """`(1,0,0) none (0,1,0)` as arrays and None; None if there is no such field."""
    if text is None:
        return None
    vectors: list[NDArray[np.float64] | None] = []
    for word in text.replace("(", " (").replace(", ", ",").split():
        vectors.append(None if word.lower() == "none" else floats(word, path, name="vector"))
    if len(vectors) != count:
        raise _bad(path, f"has {len(vectors)} space directions for {count} axes")
    return vectors


def _spatial_axes(
    fields: dict[str, str],
    directions: Sequence[NDArray[np.float64] | None] | None,
    path: Path,
    *,
    sizes: Sequence[int],
) -> list[int]:
    """The two or three axes that are directions in space."""
    kinds = fields.get("kinds", "").lower().split()
    if directions is not None:
        spatial = [axis for axis, vector in enumerate(directions) if vector is not None]
    elif len(kinds) == len(sizes):
        spatial = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    else:
        spatial = list(range(len(sizes)))
    if len(spatial) not in (2, 3) or len(sizes) - len(spatial) > 1:
        raise InputError(
            path,
            f"has {len(spatial)} axes in space and {len(sizes) - len(spatial)} others; accepted "
            "are two or three in space and at most one other",
            "split it into 3D volumes",
            code="E_DIMENSIONS",
        )
    return spatial


def _geometry(
    fields: dict[str, str],
    directions: Sequence[NDArray[np.float64] | None] | None,
    path: Path,
    *,
    spatial: Sequence[int],
    shape: tuple[int, int, int],
    rules: ReadRules,
    notes: list[str],
) -> Geometry:
    space = fields.get("space", "").lower()
    columns = [directions[axis] for axis in spatial] if directions is not None else []
    vectors = [vector for vector in columns if vector is not None]
    if space in _TO_RAS and vectors:
        if any(len(vector) != 3 for vector in vectors):
            raise _bad(path, f"its directions in the space {space} must have three numbers each")
        affine = np.eye(4)
        affine[:3, : len(vectors)] = np.transpose(vectors)
        if len(vectors) == 2:
            normal = np.cross(vectors[0], vectors[1])
            affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-12)
            notes.append(NO_THICKNESS_NOTE)
        if "space origin" not in fields:
            raise GeometryError(
                path, "has no space origin", "write it into the header", code="E_NO_ORIENTATION"
            )
        origin = floats(fields["space origin"], path, name="space origin")
        if len(origin) != 3:
            raise _bad(path, f"its space origin {fields['space origin']} must have three numbers")
        affine[:3, 3] = origin
        affine[:3] *= _unit_mm(fields, path)
        with np.errstate(invalid="ignore"):
            affine = _TO_RAS[space] @ affine
        return placed(shape, affine, path, name="space directions")
    spacing = _spacing(fields, vectors, path, spatial=spatial)
    if len(spatial) == 2:
        notes.append("the place of the 2D image is unknown; it is put into an axial plane")
        return flat_geometry(shape, (spacing[0], spacing[1]))
    if not rules.allow_unknown_orientation:
        raise no_orientation(path, f"its space is '{space or 'not given'}'")
    notes.append(UNKNOWN_ORIENTATION_NOTE)
    return placed(shape, np.diag([*spacing, 1.0]), path, name="spacings")


def _spacing(
    fields: dict[str, str],
    vectors: Sequence[NDArray[np.float64]],
    path: Path,
    *,
    spatial: Sequence[int],
) -> list[float]:
    """Distance of voxels along the spatial axes, from directions in a nameless space or
    `spacings`."""
    if vectors:
        spacing = [float(np.linalg.norm(vector)) for vector in vectors]
    elif "spacings" in fields:
        words = fields["spacings"].split()
        if len(words) <= max(spatial):
            raise _bad(path, f"its spacings are {fields['spacings']}, one for each axis is needed")
        spacing = [float(floats(words[axis], path, name="spacings")[0]) for axis in spatial]
    else:
        spacing = [1.0] * len(spatial)
    if not all(np.isfinite(value) and value > 0 for value in spacing):
        raise bad_spacing(path, tuple(spacing))
    return spacing


def _unit_mm(fields: dict[str, str], path: Path) -> float:
    units = set(fields.get("space units", '""').lower().replace('"', " ").split()) or {""}
    known = {_UNITS_MM[unit] for unit in units if unit in _UNITS_MM}
    if len(known) != 1 or not units <= set(_UNITS_MM):
        raise GeometryError(
            path,
            f"its space units are {fields['space units']}, accepted are mm, m and um",
            "write it in mm",
            code="E_UNITS",
        )
    return known.pop()


def _bad(path: Path, what: str) -> InputError:
    return InputError(path, what, "export the file again", code="E_HEADER")
