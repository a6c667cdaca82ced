"""Builders of NIfTI files for the tests, each with its known answer.

Headers are written with nibabel, which the reader under test does not use, and bent field by field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (5, 4, 3)
SPACING_MM = (1.5, 2.0, 3.25)
ORIGIN_MM = (-31.0, 17.5, 203.25)


@dataclass
class Made:
    """A file (or pair) and what reading it must give.

    `code` is the refusal; else `values` are (I, J, K) or (C, I, J, K), `affine` in RAS mm, and
    `note` a part of one of the volume's notes ("" for no note at all).
    """

    name: str
    files: dict[str, bytes]
    code: str | None = None
    values: NDArray[Any] | None = None
    affine: NDArray[np.float64] | None = None
    note: str = ""
    dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder / next(iter(self.files))


def voxels(dtype: str = "i2", *, shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    """Different in every voxel and negative where the type allows it."""
    count = int(np.prod(shape))
    start = -7 if np.dtype(dtype).kind in "if" else 0
    return np.arange(start, start + count).astype(dtype).reshape(shape, order="F")


def affine_of(orientation: str = "RAS", spacing: tuple[float, ...] = SPACING_MM) -> NDArray[Any]:
    """Axis-aligned affine with the origin away from zero, by nibabel."""
    turn = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(orientation)
        ),
        SHAPE,
    )
    affine = np.diag([*np.ones(3), 1.0]) @ turn
    affine[:3, :3] = affine[:3, :3] * spacing
    affine[:3, 3] = ORIGIN_MM
    return affine


def oblique_affine() -> NDArray[Any]:
    """Rotated about two axes, right-handed."""
    a, b = np.deg2rad(20), np.deg2rad(-35)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * SPACING_MM
    affine[:3, 3] = ORIGIN_MM
    return affine


def header(
    array: NDArray[Any],
    *,
    sform: NDArray[Any] | None = None,
    qform: NDArray[Any] | None = None,
    version: int = 1,
    order: str = "<",
    is_pair: bool = False,
    **fields: Any,
) -> Any:
    """A header by nibabel, with `fields` put in as they are."""
    kind = {
        (1, False): nib.nifti1.Nifti1Header,
        (1, True): nib.nifti1.Nifti1PairHeader,
        (2, False): nib.nifti2.Nifti2Header,
        (2, True): nib.nifti2.Nifti2PairHeader,
    }[version, is_pair]
    made = kind(endianness=order)
    made.set_data_dtype(array.dtype)
    made.set_data_shape(array.shape)
    made.set_zooms([*SPACING_MM, 1.0, 1.0, 1.0, 1.0][: array.ndim])
    made.set_xyzt_units("mm")
    made["scl_slope"], made["scl_inter"] = 1.0, 0.0
    made["magic"] = made.pair_magic if is_pair else made.single_magic
    made["vox_offset"] = 0 if is_pair else {1: 352, 2: 544}[version]
    if sform is not None:
        made.set_sform(sform, code=1)
    if qform is not None:
        made.set_qform(qform, code=1)
    for name, value in fields.items():
        if isinstance(value, dict):
            for index, number in value.items():
                made[name][index] = number
        else:
            made[name] = value
    return made


def content(array: NDArray[Any], *, extension: bytes = b"\0\0\0\0", **options: Any) -> bytes:
    """A whole .nii file; bytes up to vox_offset are zero."""
    made = header(array, **options)
    offset = made["vox_offset"]
    start = int(offset) if np.isfinite(offset) and 0 < offset < 1e5 else 352
    head = made.binaryblock + extension
    order = made.endianness
    return head.ljust(start, b"\0") + array.astype(array.dtype.newbyteorder(order)).tobytes("F")
