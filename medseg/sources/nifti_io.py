"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz, .hdr with .img) to Volumes: read right or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.sources.byte_stream import ByteStream
from medseg.sources.nifti_header import HEADER_2_BYTES, NiftiHeader, parse_nifti_header
from medseg.sources.read_rules import ReadRules
from medseg.sources.voxels import not_finite_note, read_voxels, scaled

_HEADER_SUFFIXES = (".hdr.gz", ".hdr")
_VOXEL_SUFFIXES = (".img.gz", ".img")


def read_nifti(path: Path, *, rules: ReadRules | None = None) -> Volume:
    """The volume in a NIfTI file, with every byte counted and the checksum verified.

    Stored numbers keep their type unless the header scales them: then they become float32, or
    float64 for integers of 32 bits and more. An axis beyond the third becomes the channels. NaN is
    kept and noted. The array is a view in Fortran order.

    Args:
        path: the file; of a pair, the .hdr or the .img.
        rules: what to accept.

    Raises:
        InputError: the file is damaged, not supported or over the size limit.
        GeometryError: the header does not say for certain where the voxels lie.
    """
    rules = rules or ReadRules()
    header, header_path = _read_header(path, rules=rules)
    if header_path == path and not header.is_pair and _split(path, _HEADER_SUFFIXES):
        raise InputError(
            path,
            "is named as one half of a pair, but its header says the voxels are in the same file",
            "rename it to .nii",
            code="E_HEADER",
        )
    voxel_path = _voxel_path(header_path) if header.is_pair else header_path
    return _read(voxel_path, header, rules=rules)


def read_nifti_geometry(path: Path, *, rules: ReadRules | None = None) -> Geometry:
    """The grid of a NIfTI file, from its header alone."""
    return _read_header(path, rules=rules or ReadRules())[0].geometry


def _read_header(path: Path, *, rules: ReadRules) -> tuple[NiftiHeader, Path]:
    header_path = _header_path(path)
    with ByteStream(header_path) as stream:
        block = stream.read_up_to(HEADER_2_BYTES)
        header = parse_nifti_header(block, header_path, rules=rules)
        if header.is_pair:
            stream.finish()
    return header, header_path


def _read(path: Path, header: NiftiHeader, *, rules: ReadRules) -> Volume:
    shape = (*header.geometry.shape, header.num_channels)
    with ByteStream(path) as stream:
        stream.skip(header.voxel_offset)
        array = read_voxels(stream, shape=shape, dtype=header.dtype, rules=rules)
        excess = stream.finish()
        notes = list(header.notes)
        if excess or stream.trailing_bytes:
            notes.append(f"{excess + stream.trailing_bytes} bytes after the voxels are ignored")
        if not header.is_bitpix_right and excess:
            raise InputError(
                path,
                "the header's data type and bits per voxel disagree, and the file is too long",
                "export it again",
                code="E_HEADER",
            )
    if not header.is_bitpix_right:
        notes.append("bits per voxel in the header are wrong; the data type fits the file's length")
    if header.slope is not None:
        array = scaled(array, slope=header.slope, intercept=header.intercept, path=path)
    notes.extend(not_finite_note(array))
    return Volume(np.moveaxis(array, 3, 0), header.geometry, notes=tuple(notes))


def _header_path(path: Path) -> Path:
    """The file with the header: the .hdr beside an .img, else the file itself."""
    stem = _split(path, _VOXEL_SUFFIXES)
    return path if stem is None else _partner(path, stem, _HEADER_SUFFIXES)


def _voxel_path(header_path: Path) -> Path:
    stem = _split(header_path, _HEADER_SUFFIXES)
    if stem is None:
        raise InputError(
            header_path,
            "its header says that the voxels are in an .img file, but it is not named .hdr",
            "rename the pair to .hdr and .img, or convert it to .nii.gz",
            code="E_HEADER",
        )
    return _partner(header_path, stem, _VOXEL_SUFFIXES)


def _split(path: Path, suffixes: tuple[str, ...]) -> str | None:
    """The name without one of the suffixes; None if it has none of them."""
    name = path.name.lower()
    for suffix in suffixes:
        if name.endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def _partner(path: Path, stem: str, suffixes: tuple[str, ...]) -> Path:
    for suffix in (*suffixes, *(suffix.upper() for suffix in suffixes)):
        partner = path.with_name(stem + suffix)
        if partner.exists():
            return partner
    raise InputError(
        path,
        f"is one half of a pair, and {stem}{suffixes[1]} is not beside it",
        "keep .hdr and .img together",
        code="E_NO_FILE",
    )
