"""The series that a result was made from, as the objects that refer to it need it.

Reads headers only: which SOP instance and frame lies where, and the patient and study to copy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from medseg.core.errors import GeometryError, InputError, OutputError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case, SeriesRef
from medseg.dicom.frames import Frame, frames_of
from medseg.dicom.lattice import Lattice, build_lattice
from medseg.dicom.parse import quiet, read_header
from medseg.dicom.partition import partition

# What no derived object can do without; the rest may be empty (PS3.3 type 2).
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """A series on disk, without its pixels.

    Args:
        header: every element but the pixels of the first file.
        lattices: the volumes that its frames form, each in the order of k.
    """

    header: Dataset
    lattices: tuple[Lattice, ...]

    @property
    def sop_instance_uids(self) -> list[str]:
        """UIDs of all files, sorted."""
        uids = {
            frame.header.text("SOPInstanceUID")
            for lattice in self.lattices
            for frame in lattice.frames
        }
        return sorted(uids)


@dataclass(frozen=True, eq=False)
class Alignment:
    """How an array lies on the slices of a series.

    Args:
        lattice: the slices.
        order, flips: bring the array's axes to column, row and slice, as in `permute_array`.
        frames: for each slice all frames at its place: several if the file holds several phases.
    """

    lattice: Lattice
    order: tuple[int, ...]
    flips: tuple[int, ...]
    frames: tuple[tuple[Frame, ...], ...]


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
        InputError: a file cannot be read, or the slices form no regular grid.
        OutputError: an identifier that a derived object must repeat is missing.
    """
    headers = [read_header(path) for path in series.paths]
    frames = [frame for header in headers for frame in frames_of(header)]
    parts = partition(frames, where=where)
    lattices = tuple(build_lattice(part.frames, where=where) for part in parts)
    try:
        with quiet():
            first = dcmread(series.paths[0], stop_before_pixels=True)
    except (OSError, ValueError) as error:
        raise InputError(
            where, f"the first file cannot be read ({type(error).__name__})", code="E_HEADER"
        ) from error
    lacking = [keyword for keyword in _NEEDED if not first.get(keyword)]
    if not first.get("FrameOfReferenceUID"):
        lacking.append("FrameOfReferenceUID")
    if lacking:
        raise OutputError(
            where,
            f"the source series has no {', '.join(lacking)}, which every result must repeat",
            "send the series again from its archive; nothing is made up here",
        )
    return SourceSeries(first, lattices)


def align(source: SourceSeries, geometry: Geometry, *, where: str) -> Alignment:
    """Finds the slices that a grid lies on: exactly, up to the order and direction of its axes.

    Raises:
        GeometryError: the grid is none of the series'.
    """
    found: list[tuple[Lattice, tuple[int, ...], tuple[int, ...]]] = []
    reason = ""
    for lattice in source.lattices:
        order, flips = _axes_between(lattice.geometry, geometry)
        if order is None:
            reason = reason or "its axes are not parallel to theirs"
            continue
        difference = lattice.geometry.difference(geometry.permuted(order, flips))
        if difference is None:
            found.append((lattice, order, flips))
        reason = reason or (difference or "")
    if not found:
        raise GeometryError(
            where,
            f"the result does not lie on the slices of the source series: {reason}",
            "write the result of predict as it is, without resampling it",
        )
    lattice, order, flips = found[0]
    frames = tuple(zip(*(other.frames for other, _, _ in found), strict=True))
    return Alignment(lattice, order, flips, frames)


def _axes_between(
    slices: Geometry, grid: Geometry
) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """Permutation and flips from `grid` to `slices`; None if the axes are not parallel."""
    cosines = np.linalg.solve(slices.directions, grid.directions)
    signs: NDArray[np.float64] = np.rint(cosines)
    if np.abs(cosines - signs).max() > 0.01 or not _is_signed_permutation(signs):
        return None, ()
    order = tuple(int(np.abs(signs[axis]).argmax()) for axis in range(3))
    flips = tuple(axis for axis in range(3) if signs[axis, order[axis]] < 0)
    return order, flips


def _is_signed_permutation(matrix: NDArray[np.float64]) -> bool:
    ones = np.abs(matrix)
    return bool((ones.sum(axis=0) == 1).all() and (ones.sum(axis=1) == 1).all())
