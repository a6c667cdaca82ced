"""Where the voxels of a NIfTI file lie: sform and qform, checked against each other, in RAS mm."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.sources.placement import (
    NO_THICKNESS_NOTE,
    UNKNOWN_ORIENTATION_NOTE,
    bad_spacing,
    no_orientation,
    placed,
)
from medseg.sources.read_rules import ReadRules

_log = logging.getLogger(__name__)

_MAX_CODE = 5
# Float32 rounding of a half-turn quaternion leaves b2 + c2 + d2 this far above 1.
_QUATERNION_ROUNDING = 1e-5
# sform and qform of one file that differ by less were meant to be the same; float32 offsets of a
# metre are exact to 6e-5 mm, tools that round to three decimals reach a few hundredths.
_SAME_MM = 0.1
_Affine = NDArray[np.float64]


def nifti_affine(
    fields: np.void,
    path: Path,
    *,
    shape: tuple[int, int, int],
    num_axes: int,
    unit_mm: float,
    rules: ReadRules,
    notes: list[str],
) -> _Affine:
    """Affine from voxel indices to RAS mm; choices made are added to `notes`.

    The sform is taken where both are given. They must agree on which side is left.

    Raises:
        GeometryError: no orientation is given, or what is given cannot be right.
    """
    codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
    for name, code in codes.items():
        if not 0 <= code <= _MAX_CODE:
            raise GeometryError(
                path,
                f"{name}_code is {code}, must be 0 to {_MAX_CODE}",
                "the header is damaged; export the file again",
                code="E_HEADER",
            )
    spacing = _spacing(fields, path, num_axes=num_axes, notes=notes)
    if not any(codes.values()):
        affine = _unknown_orientation(path, spacing, rules=rules, notes=notes)
    elif codes["sform"]:
        affine = _sform(fields, path, shape=shape, num_axes=num_axes, notes=notes)
        if codes["qform"]:
            _compare_with_qform(fields, path, affine, shape=shape, spacing=spacing, notes=notes)
        elif _differs(affine, spacing, num_axes=min(num_axes, 3)):
            notes.append("the voxel size follows the sform, which differs from pixdim")
    else:
        affine = _qform(fields, path, spacing=spacing)
    affine[:3] *= unit_mm
    return placed(shape, affine, path).affine


def _differs(affine: _Affine, spacing: NDArray[np.float64], *, num_axes: int) -> bool:
    """True if the voxel sizes of an affine are a hundredth or more away from `spacing`."""
    ratio = np.linalg.norm(affine[:3, :num_axes], axis=0) / spacing[:num_axes]
    return bool(np.abs(ratio - 1).max() > 1e-2)


def _spacing(
    fields: np.void,
    path: Path,
    *,
    num_axes: int,
    notes: list[str],
) -> NDArray[np.float64]:
    """pixdim[1:4]; an axis that a 2D image does not have is 1 mm long."""
    spacing = np.asarray(fields["pixdim"][1:4], dtype=np.float64).copy()
    if num_axes == 2 and not (np.isfinite(spacing[2]) and spacing[2] > 0):
        spacing[2] = 1.0
        notes.append(NO_THICKNESS_NOTE)
    is_negative_with_sform = int(fields["sform_code"]) > 0 and bool((spacing < 0).any())
    if not np.isfinite(spacing).all() or (spacing == 0).any():
        raise bad_spacing(path, tuple(spacing))
    if (spacing < 0).any() and not is_negative_with_sform:
        raise bad_spacing(path, tuple(spacing))
    if is_negative_with_sform:
        notes.append("a negative voxel size in pixdim is ignored, the sform gives the direction")
        spacing = np.abs(spacing)
    return spacing


def _unknown_orientation(
    path: Path, spacing: NDArray[np.float64], *, rules: ReadRules, notes: list[str]
) -> _Affine:
    if not rules.allow_unknown_orientation:
        raise no_orientation(path, "sform_code and qform_code are 0")
    notes.append(UNKNOWN_ORIENTATION_NOTE)
    return np.diag([*spacing, 1.0])


def _sform(
    fields: np.void,
    path: Path,
    *,
    shape: tuple[int, int, int],
    num_axes: int,
    notes: list[str],
) -> _Affine:
    affine = np.eye(4)
    affine[:3] = np.asarray(fields["srow"], dtype=np.float64)
    if num_axes == 2 and np.isfinite(affine).all() and not affine[:3, 2].any():
        affine[:3, 2] = np.cross(*(axis / np.linalg.norm(axis) for axis in affine[:3, :2].T))
        notes.append(NO_THICKNESS_NOTE)
    _geometry(shape, affine, path, name="sform")
    return affine


def _qform(fields: np.void, path: Path, *, spacing: NDArray[np.float64]) -> _Affine:
    """Affine of method 2 in nifti1.h: rotation from a quaternion, and a mirror (qfac)."""
    b, c, d = (float(value) for value in fields["quatern"])
    offset = np.asarray(fields["qoffset"], dtype=np.float64)
    qfac = float(fields["pixdim"][0])
    square = b * b + c * c + d * d
    if (
        not np.isfinite(square)
        or square > 1 + _QUATERNION_ROUNDING
        or not np.isfinite(offset).all()
    ):
        raise _bad_qform(path, f"the qform is not a rotation: quaternion ({b:g}, {c:g}, {d:g})")
    if qfac not in (-1.0, 0.0, 1.0):
        raise _bad_qform(path, f"qfac (pixdim[0]) is {qfac:g}, must be 1 or -1")
    a = np.sqrt(max(1.0 - square, 0.0))
    scale = np.sqrt(a * a + square)
    a, b, c, d = a / scale, b / scale, c / scale, d / scale
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing * [1.0, 1.0, -1.0 if qfac < 0 else 1.0]
    affine[:3, 3] = offset
    return affine


def _bad_qform(path: Path, what: str) -> GeometryError:
    return GeometryError(path, what, "write a right qform or sform", code="E_AFFINE")


def _compare_with_qform(
    fields: np.void,
    path: Path,
    sform: _Affine,
    *,
    shape: tuple[int, int, int],
    spacing: NDArray[np.float64],
    notes: list[str],
) -> None:
    """Notes a difference between the two; refuses one that swaps left and right.

    Raises:
        GeometryError: E_LATERALITY.
    """
    try:
        qform = _qform(fields, path, spacing=spacing)
        by_qform = _geometry(shape, qform, path, name="qform")
    except GeometryError as error:
        notes.append(f"the sform is used; {error.what}")
        return
    by_sform = Geometry(shape, sform)
    if _swaps_sides(by_sform, by_qform):
        raise GeometryError(
            path,
            f"sform ({by_sform.orientation}) and qform ({by_qform.orientation}) swap the sides",
            "find out which is right and set the code of the other to 0",
            code="E_LATERALITY",
        )
    extent_mm = float(np.linalg.norm(np.array(shape) * spacing))
    tolerance_mm = _SAME_MM + _open_angle(fields) * extent_mm
    difference = by_sform.difference(by_qform, tolerance_mm=tolerance_mm)
    if difference:
        notes.append(f"sform and qform differ ({difference}); the sform is used")
        _log.warning("%s: %s", path, notes[-1])


def _open_angle(fields: np.void) -> float:
    """Radians by which a rotation may be off because a file stores three of the quaternion's four
    numbers, rounded: about 0.001 with NIfTI-1's float32 near a half turn, where the fourth is near
    0.
    """
    quaternion = np.asarray(fields["quatern"])
    rounding = 2.0 * float(np.finfo(quaternion.dtype).eps)  # of b2 + c2 + d2, and so of a2
    square = 1.0 - float(np.square(quaternion.astype(np.float64)).sum())
    most, least = max(0.0, square + rounding), max(0.0, square - rounding)
    return float(2 * (np.sqrt(most) - np.sqrt(least)))


def _swaps_sides(first: Geometry, second: Geometry) -> bool:
    """True if one is a mirror image of the other, or their left-right axes point opposite ways."""
    if np.linalg.det(first.affine[:3, :3]) * np.linalg.det(second.affine[:3, :3]) < 0:
        return True
    sideways = [
        next(n for n, code in enumerate(geometry.orientation) if code in "LR")
        for geometry in (first, second)
    ]
    return sideways[0] == sideways[1] and (
        first.orientation[sideways[0]] != second.orientation[sideways[1]]
    )


def _geometry(shape: tuple[int, int, int], affine: _Affine, path: Path, *, name: str) -> Geometry:
    try:
        return Geometry(shape, affine)
    except GeometryError as error:
        raise GeometryError(
            path,
            f"the {name} {error.what}",
            f"write a right {name}, or set its code to 0 if the other form is right",
            code="E_AFFINE",
        ) from error
