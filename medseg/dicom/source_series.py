"""The series that a result was made from, as the objects that refer to it need it.

Reads headers only: which SOP instance and frame lies where, and the patient and study to copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from medseg.core.errors import GeometryError, InputError, OutputError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case, SeriesRef
from medseg.core.segmentation import LabelMap
from medseg.dicom.headers import found_volume
from medseg.dicom.lattice import Lattice
from medseg.dicom.parse import quiet
from medseg.dicom.tilt import restore_labels, upright_geometry

# What no derived object can do without; the rest may be empty (PS3.3 type 2).
_NEEDED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
)


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """One volume of a series on disk, without its pixels.

    Args:
        header: every element but the pixels of the first file.
        lattice: its frames in the order of k, and their grid.
        slots: k of each frame; with slices missing from the series these are not 0, 1, 2, ...
    """

    header: Dataset
    lattice: Lattice
    slots: tuple[int, ...]

    @property
    def is_projection(self) -> bool:
        """True for an X-ray, ultrasound or photograph, which has no place in the patient."""
        return self.lattice.frames[0].is_projection

    @property
    def sop_instance_uids(self) -> list[str]:
        """UIDs of all files, sorted."""
        return sorted({frame.header.text("SOPInstanceUID") for frame in self.lattice.frames})


def source_of(case: Case, *, writer: str) -> SeriesRef:
    """The case's series.

    Raises:
        OutputError: the case does not come from DICOM.
    """
    if case.series is None:
        raise OutputError(
            case.key,
            f"is no DICOM series, so {writer} has no patient and no images to refer to",
            "use output=nifti, or give the DICOM series as input",
        )
    return case.series


def read_source_series(series: SeriesRef, *, where: str) -> SourceSeries:
    """Headers of all files of a series.

    Args:
        series: as a source found it.
        where: what messages call it, such as the case key.

    Raises:
        InputError: a file cannot be read, or the slices form no grid.
        OutputError: an identifier that a derived object must repeat is missing.
    """
    # Reading has already decided on gaps and frames of reference; here only positions matter.
    lattice = found_volume(series, on_gap="resample", trust_positions=True).lattice
    slots, missing = [], dict(lattice.missing)
    position = 0
    for number in range(len(lattice.frames)):
        slots.append(position)
        position += 1 + missing.get(number, 0)
    first = lattice.frames[0].header.path
    try:
        with quiet():
            header = dcmread(first, stop_before_pixels=True)
    except (OSError, ValueError) as error:
        raise InputError(
            where,
            f"the first file cannot be read ({type(error).__name__})",
            "send the series again",
            code="E_HEADER",
        ) from error
    needed = _NEEDED if lattice.frames[0].is_projection else (*_NEEDED, "FrameOfReferenceUID")
    lacking = [keyword for keyword in needed if not header.get(keyword)]
    if lacking:
        raise OutputError(
            where,
            f"the source series has no {', '.join(lacking)}, which every result must repeat",
            "send the series again from its archive; nothing is made up here",
        )
    return SourceSeries(header, lattice, tuple(slots))


def on_slices(
    array: NDArray[Any], geometry: Geometry, source: SourceSeries, *, where: str
) -> NDArray[Any]:
    """A result's voxels on the slices of the series, shape (..., columns, rows, slices).

    The last three axes of `array` lie on `geometry`, in any order and direction. A result on the
    upright grid of a leaning series is put back onto the slices as acquired, by nearest neighbour.
    Otherwise nothing is resampled.

    Raises:
        GeometryError: the result lies on neither grid.
    """
    slices = source.lattice.geometry
    reason = "its axes are not parallel to theirs"
    targets = [slices, upright_geometry(slices)] if source.lattice.is_tilted else [slices]
    for target in targets:
        axes = _axes_between(target, geometry)
        if axes is None:
            continue
        difference = target.difference(geometry.permuted(*axes))
        if difference is not None:
            reason = difference
            continue
        voxels = _permuted(array, *axes)
        if target is not slices:
            voxels = _leaning(voxels, target, slices)
        return voxels[..., list(source.slots)] if source.lattice.missing else voxels
    raise GeometryError(
        where,
        f"the result does not lie on the slices of the source series: {reason}",
        "write the result of predict as it is, without resampling it",
    )


def _axes_between(
    slices: Geometry, grid: Geometry
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Permutation and flips from `grid` to `slices`; None if the axes are not parallel."""
    cosines = np.linalg.solve(slices.directions, grid.directions)
    signs: NDArray[np.float64] = np.rint(cosines)
    ones = np.abs(signs)
    is_permutation = (ones.sum(axis=0) == 1).all() and (ones.sum(axis=1) == 1).all()
    if np.abs(cosines - signs).max() > 0.01 or not is_permutation:
        return None
    order = tuple(int(np.abs(signs[axis]).argmax()) for axis in range(3))
    flips = tuple(axis for axis in range(3) if signs[axis, order[axis]] < 0)
    return order, flips


def _permuted(array: NDArray[Any], order: tuple[int, ...], flips: tuple[int, ...]) -> NDArray[Any]:
    """The last three axes reordered, then flipped; a view."""
    lead = array.ndim - 3
    moved = array.transpose(*range(lead), *(lead + axis for axis in order))
    return np.flip(moved, tuple(lead + axis for axis in flips)) if flips else moved


def _leaning(array: NDArray[Any], upright: Geometry, slices: Geometry) -> NDArray[Any]:
    """Values of an upright grid at the voxels of leaning slices; 0 outside."""
    numbers = np.arange(1, np.prod(upright.shape) + 1).reshape(upright.shape)
    nearest = restore_labels(LabelMap(numbers, upright), slices).array
    flat = array.reshape(*array.shape[:-3], -1)
    return np.where(nearest > 0, flat[..., np.maximum(nearest, 1) - 1], array.dtype.type(0))
