"""Frames to a regular grid: order along the normal, even spacing, shear; or a refusal that names
the place.

Geometry comes from ImagePositionPatient and ImageOrientationPatient only. InstanceNumber, file
names, SliceThickness (but for a single slice) and SpacingBetweenSlices are never used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.core.geometry import LPS_TO_RAS, Geometry
from medseg.dicom.frames import Frame
from medseg.dicom.values import missing

# Chosen so that positions rounded to 0.01 mm pass and a spacing that drifts by 0.04 mm per slice
# does not.
_TOLERANCE_MM, _TOLERANCE_OF_SPACING = 0.01, 0.005
# Below this, a sideways shift is a gantry tilt only if GantryDetectorTilt says the same.
_MIN_UNSTATED_TILT_DEGREES = 3.0
_MAX_TILT_DEGREES = 45.0


@dataclass(frozen=True, eq=False)
class Lattice:
    """A regular stack of frames.

    Args:
        frames: in the order of k, which grows along row x column.
        geometry: the grid of the frames as acquired (RAS); its k axis leans where the gantry was
            tilted.
        tilt_degrees: angle between the stacking direction and the frames' normal; 0.0 if none.
        notes: what a person should know.
        missing: positions along k without a frame, as (index of the frame before the hole, frames
            missing).
    """

    frames: tuple[Frame, ...]
    geometry: Geometry
    tilt_degrees: float = 0.0
    notes: tuple[str, ...] = ()
    missing: tuple[tuple[int, int], ...] = ()

    @property
    def is_tilted(self) -> bool:
        return self.tilt_degrees > 0.0


def tolerance_mm(spacing_mm: float) -> float:
    """Accepted distance of a frame from its place on the regular grid."""
    return _TOLERANCE_MM + _TOLERANCE_OF_SPACING * spacing_mm


def sorted_along_normal(frames: Sequence[Frame]) -> tuple[list[Frame], NDArray[np.float64]]:
    """Frames by position along the common normal, and these positions in mm."""
    normal = frames[0].normal_lps
    positions = np.array([frame.position_lps @ normal for frame in frames])
    order = np.argsort(positions, kind="stable")
    return [frames[n] for n in order], positions[order]


def same_position_mm(gaps: NDArray[np.float64]) -> float:
    """Frames closer than this lie at one position: 0.01 mm, or a tenth of the usual distance if
    that is less.
    """
    apart = gaps[gaps > 1e-4]
    return 1e-4 if apart.size == 0 else float(min(0.01, 0.1 * np.median(apart)))


def build_lattice(frames: Sequence[Frame], *, where: str, allow_gaps: bool = False) -> Lattice:
    """The regular grid that the frames form.

    Args:
        frames: of one volume, any order, same orientation, pixel spacing and matrix.
        where: what messages call the series.
        allow_gaps: accept whole missing slices, to be interpolated; otherwise refused.

    Raises:
        GeometryError: a gap, uneven spacing, repeated positions or an unexplained sideways drift.
        InputError: a single slice without thickness.
    """
    ordered, along = sorted_along_normal(frames)
    first = ordered[0]
    rows, columns = first.header.integer("Rows"), first.header.integer("Columns")
    if len(ordered) == 1:
        return _single(first, (columns, rows))
    gaps = np.diff(along)
    spacing = float(np.median(gaps))
    if gaps.min() <= same_position_mm(gaps):
        raise _repeated(ordered, gaps, where)
    holes: tuple[tuple[int, int], ...] = ()
    steps = np.arange(len(ordered), dtype=np.float64)
    if allow_gaps:
        spacing = float(gaps.min())
        multiples = np.rint(gaps / spacing).astype(int)
        steps = np.concatenate([[0.0], np.cumsum(multiples)])
        holes = tuple((n, int(m) - 1) for n, m in enumerate(multiples) if m > 1)
    origin, step = _fit_line(ordered, steps)
    positions = np.array([frame.position_lps for frame in ordered])
    deviations = np.linalg.norm(positions - (origin + steps[:, None] * step), axis=1)
    accepted = tolerance_mm(spacing)
    uneven = (
        np.abs(gaps - spacing * np.diff(steps)).max()
        if allow_gaps
        else np.abs(gaps - spacing).max()
    )
    if deviations.max() > accepted or uneven > 2 * accepted:
        raise _uneven(ordered, along, where)
    normal = first.normal_lps
    forward = float(step @ normal)
    sideways = step - forward * normal
    total_shift = float(np.linalg.norm(sideways)) * (steps[-1] - steps[0])
    tilt, notes = 0.0, []
    if total_shift > accepted:
        tilt = float(np.degrees(np.arctan2(np.linalg.norm(sideways), forward)))
        _check_tilt(tilt, first, sideways, where)
        notes.append(f"slices lean by {tilt:.1f} degrees (gantry tilt)")
    else:
        step = forward * normal
    if holes:
        total = sum(count for _, count in holes)
        notes.append(f"{total} missing slices interpolated (on_gap=resample)")
    num_slices = round(float(steps[-1])) + 1
    geometry = _geometry(first, origin, step, (columns, rows, num_slices))
    return Lattice(tuple(ordered), geometry, tilt, tuple(notes), holes)


def _single(frame: Frame, matrix: tuple[int, int]) -> Lattice:
    if frame.thickness_mm is None:
        raise missing(frame.name, "SliceThickness (the only measure of a single slice)")
    step = frame.normal_lps * frame.thickness_mm
    geometry = _geometry(frame, frame.position_lps, step, (*matrix, 1))
    return Lattice((frame,), geometry, notes=("one slice: extent along k is its SliceThickness",))


def _geometry(
    frame: Frame,
    origin: NDArray[np.float64],
    step: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> Geometry:
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = frame.row_lps * frame.spacing_mm[0]
    affine_lps[:3, 1] = frame.column_lps * frame.spacing_mm[1]
    affine_lps[:3, 2] = step
    affine_lps[:3, 3] = origin
    return Geometry(shape, LPS_TO_RAS @ affine_lps)


def _fit_line(
    frames: Sequence[Frame], steps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares origin and step of positions over slice numbers."""
    positions = np.array([frame.position_lps for frame in frames])
    centred = steps - steps.mean()
    step = (centred[:, None] * positions).sum(axis=0) / (centred**2).sum()
    return positions.mean(axis=0) - steps.mean() * step, step


def _repeated(frames: list[Frame], gaps: NDArray[np.float64], where: str) -> InputError:
    n = int(np.argmin(gaps))
    return GeometryError(
        where,
        f"{frames[n].header.path.name} and {frames[n + 1].header.path.name} lie at the same "
        "position, "
        "and nothing in the headers says which volume each belongs to",
        "send one of them, or separate the volumes into series of their own",
        code="E_DUPLICATE_POSITION",
    )


def _uneven(frames: list[Frame], along: NDArray[np.float64], where: str) -> InputError:
    gaps = np.diff(along)
    spacing = float(np.median(gaps))
    n = int(np.argmax(np.abs(gaps - spacing)))
    before, after = along[n], along[n + 1]
    ratio = gaps[n] / spacing
    if ratio > 1.5:
        what = (
            f"slice missing between {before:.3f} and {after:.3f} mm along the normal (spacing "
            f"{spacing:.3f} mm), "
            f"after {frames[n].header.path.name}"
        )
    else:
        what = (
            f"slices do not lie on a regular grid: the distance is {gaps[n]:.3f} mm after "
            f"{frames[n].header.path.name}, {spacing:.3f} mm elsewhere; accepted is a deviation of "
            f"{tolerance_mm(spacing):.3f} mm"
        )
    return GeometryError(
        where,
        what,
        "send the missing slices again, or set on_gap=resample to interpolate whole missing slices",
        code="E_SLICE_GAP",
    )


def _check_tilt(tilt: float, frame: Frame, sideways: NDArray[np.float64], where: str) -> None:
    try:
        stated = abs(frame.header.number("GantryDetectorTilt", 0.0))
    except InputError:
        stated = 0.0
    if tilt > _MAX_TILT_DEGREES or (tilt < _MIN_UNSTATED_TILT_DEGREES and abs(stated - tilt) > 0.5):
        raise GeometryError(
            where,
            f"each slice is shifted sideways by {np.linalg.norm(sideways):.3f} mm against the one "
            "before "
            f"({tilt:.2f} degrees), which GantryDetectorTilt ({stated:g}) does not explain",
            "export the series again with correct positions",
            code="E_SLICE_DRIFT",
        )
