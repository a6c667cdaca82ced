"""Distances between the surfaces of two masks in mm: surface Dice, Hausdorff and average distance.

Both directions are computed once and serve all three numbers. Overlap and volume are in overlap.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree

from medseg.core.errors import GeometryError
from medseg.metrics.surface_elements import corner_codes, element_sizes, is_on_surface

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
SurfaceKind = Literal["elements", "border_voxels"]

# Neighbours looked at before the k-d tree takes over: all of them if few elements are still open,
# so that no tree is built for the sake of these; else the first ones. On blobs of 40 to 220 voxels
# a side (benchmarks/metrics.py) any numbers from 60 to 500 took the same time within a third.
_NUM_PROBES = 300
_NUM_FIRST_PROBES = 80
_FEW = 0.05

# Spacing from a float32 header is off by up to 1e-7; an element at the tolerance must still count.
_TOLERANCE_SLACK = 1e-6


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance from every element of each surface to the nearest element of the other.

    Args:
        reference_mm: per element of the reference's surface; inf if the prediction has no surface.
        prediction_mm: per element of the prediction's surface; inf if the reference has no surface.
        reference_sizes, prediction_sizes: what each element stands for: mm2 (3D) or mm (2D) for
            surface elements, 1 for border voxels.
        kind: how the surface was taken; see `surface_distances`.
    """

    reference_mm: Floats
    prediction_mm: Floats
    reference_sizes: Floats
    prediction_sizes: Floats
    kind: SurfaceKind

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces lying within a tolerance of the other.

        Args:
            tolerance_mm: accepted deviation, usually the disagreement between two readers.

        Returns:
            Value in [0, 1]; nan if both masks are empty, 0.0 if exactly one is.

        Source: Nikolov et al. 2021, J Med Internet Res 23(7):e26151.
        """
        limit_mm = tolerance_mm * (1 + _TOLERANCE_SLACK)
        total = self.reference_sizes.sum() + self.prediction_sizes.sum()
        within = (
            self.reference_sizes[self.reference_mm <= limit_mm].sum()
            + self.prediction_sizes[self.prediction_mm <= limit_mm].sum()
        )
        return float(within / total) if total > 0 else float("nan")

    def hausdorff_mm(self, percentile: float = 95.0) -> float:
        """Larger of the two directed percentiles of the distances; 100 is the Hausdorff distance.

        For surface elements the percentile is the smallest distance within which that share of the
        surface's area lies; for border voxels it is interpolated as in `numpy.quantile`.

        Returns:
            Distance in mm; nan if one of the masks is empty, as there is no distance then.

        Source: Huttenlocher et al. 1993, IEEE PAMI 15(9):850; percentile as in Nikolov et al. 2021.
        """
        if not self._is_measurable:
            return float("nan")
        directed_mm = [
            _percentile(distances_mm, sizes, percentile=percentile, kind=self.kind)
            for distances_mm, sizes in (
                (self.reference_mm, self.reference_sizes),
                (self.prediction_mm, self.prediction_sizes),
            )
        ]
        return max(directed_mm)

    def average_mm(self) -> float:
        """Mean distance over both surfaces together (ASSD).

        Every mm2 (or border voxel) counts the same, whichever surface it belongs to; the mean of
        the two directed means is another number.

        Returns:
            Distance in mm; nan if one of the masks is empty.

        Source: Heimann et al. 2009, IEEE TMI 28(8):1251, section III.B.
        """
        if not self._is_measurable:
            return float("nan")
        summed = (
            self.reference_mm @ self.reference_sizes + self.prediction_mm @ self.prediction_sizes
        )
        return float(summed / (self.reference_sizes.sum() + self.prediction_sizes.sum()))

    @property
    def _is_measurable(self) -> bool:
        if not len(self.reference_mm) or not len(self.prediction_mm):
            return False
        return bool(np.isfinite(self.reference_mm[0]) and np.isfinite(self.prediction_mm[0]))


def surface_distances(
    reference: Mask,
    prediction: Mask,
    *,
    spacing_mm: ArrayLike,
    kind: SurfaceKind = "elements",
    ignored: Mask | None = None,
) -> SurfaceDistances:
    """Distances between the surfaces of two masks, both ways, exact.

    What lies outside the array is background, so a mask that reaches the edge has a surface there.
    Arrays with one voxel along an axis are measured as 2D images in the other two.

    Args:
        reference: bool, shape (I, J, K) or (I, J).
        prediction: bool, same shape and grid.
        spacing_mm: centre-to-centre distance along each axis; for a sheared grid the matrix
            (3, axes) whose columns are the steps along the axes, such as `affine[:3, :3]`.
        kind: "elements": the surface passes between voxel centres and is cut into one element per
            2x2x2 voxels that are not all alike, weighted by the area that marching cubes give it,
            so thin slices do not count more. "border_voxels": the centres of mask voxels that
            share a face with the outside, each counting 1, as MedPy and MONAI measure.
        ignored: bool, same shape; these voxels belong to neither mask, and parts of a surface that
            touch them are not measured, though distances to them are.

    Raises:
        GeometryError: the shapes differ, or the spacing does not fit them.

    Source: Nikolov et al. 2021, J Med Internet Res 23(7):e26151 (elements).
    """
    _check_shapes(reference, prediction, ignored)
    steps_mm = _steps(spacing_mm, num_axes=reference.ndim)
    if reference.ndim == 3 and 1 in reference.shape:
        axis = max(n for n, extent in enumerate(reference.shape) if extent == 1)
        reference, prediction = np.squeeze(reference, axis), np.squeeze(prediction, axis)
        ignored = None if ignored is None else np.squeeze(ignored, axis)
        steps_mm = np.delete(steps_mm, axis, axis=1)
    if ignored is not None and ignored.any():
        reference, prediction = reference & ~ignored, prediction & ~ignored
    else:
        ignored = None
    shells = _nearest_shells(_hashable(steps_mm))
    box = bounding_box(reference | prediction)
    if ignored is not None:
        box = grown_box(box, reference.shape)
    margin = np.max([np.abs(shell.offsets).max(axis=0) for shell in shells], axis=0) + 1
    surfaces = [
        _surface(
            _padded(mask[box], margin),
            steps_mm,
            kind=kind,
            ignored=None if ignored is None else _padded(ignored[box], margin),
        )
        for mask in (reference, prediction)
    ]
    return SurfaceDistances(
        reference_mm=_distances(surfaces[0], surfaces[1], shells, steps_mm=steps_mm),
        prediction_mm=_distances(surfaces[1], surfaces[0], shells, steps_mm=steps_mm),
        reference_sizes=surfaces[0].sizes,
        prediction_sizes=surfaces[1].sizes,
        kind=kind,
    )


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Smallest box around the true voxels; empty slices if there are none."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        inner = mask[tuple(box)]  # what the axes before leave, so that each pass reads less
        hits = np.flatnonzero(inner.any(axis=tuple(n for n in range(mask.ndim) if n != axis)))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0))
    return tuple(box)


def grown_box(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The box with one voxel more on each side, as far as the array goes."""
    return tuple(
        slice(max(part.start - 1, 0), min(part.stop + 1, extent))
        for part, extent in zip(box, shape, strict=True)
    )


@dataclass(frozen=True, eq=False)
class _Shell:
    """Lattice offsets of one length, shape (n, axes)."""

    offsets: NDArray[np.intp]
    length_mm: float


@dataclass(frozen=True, eq=False)
class _Surface:
    """Elements of one surface on a padded lattice.

    `is_element` holds all elements, to be found from the other side; `positions` are the flat
    lattice positions of those that are measured, `sizes` their sizes.
    """

    is_element: Mask
    positions: NDArray[np.intp]
    sizes: Floats


def _surface(mask: Mask, steps_mm: Floats, *, kind: SurfaceKind, ignored: Mask | None) -> _Surface:
    codes: NDArray[np.uint8] | None = None
    if kind == "border_voxels":
        is_element = mask & ~_all_face_neighbours(mask)
        touched = None if ignored is None else ~_all_face_neighbours(~ignored)
    else:
        codes = corner_codes(mask)
        is_element = is_on_surface(codes, num_axes=mask.ndim)
        touched = None if ignored is None else corner_codes(ignored) != 0
    positions = np.flatnonzero(is_element if touched is None else is_element & ~touched)
    if codes is None:
        sizes = np.ones(len(positions))
    else:
        sizes = element_sizes(_hashable(steps_mm))[codes.ravel()[positions]]
    return _Surface(is_element, positions, sizes)


def _all_face_neighbours(mask: Mask) -> Mask:
    """True where a voxel and all that share a face with it are true; beyond the edge is false."""
    inner = np.zeros_like(mask)
    core = tuple(slice(1, -1) for _ in range(mask.ndim))
    kept = mask[core].copy()
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            kept &= mask[tuple(side if n == axis else slice(1, -1) for n in range(mask.ndim))]
    inner[core] = kept
    return inner


def _distances(
    start: _Surface,
    goal: _Surface,
    shells: Sequence[_Shell],
    *,
    steps_mm: Floats,
) -> Floats:
    """Distance from the measured elements of `start` to the nearest element of `goal`.

    Looks at lattice neighbours from near to far, which settles most elements of a fair segmentation
    within a few looks; a k-d tree settles the rest.
    """
    distances = np.full(len(start.positions), np.inf)
    if not goal.is_element.any():
        return distances
    shape = goal.is_element.shape
    strides = np.array(goal.is_element.strides) // goal.is_element.itemsize
    is_goal = goal.is_element.ravel()
    positions, open_elements = start.positions, np.arange(len(start.positions))
    num_looked = 0
    most_open = _FEW * np.count_nonzero(is_goal)
    for shell in shells:
        if num_looked > _NUM_FIRST_PROBES and len(positions) > most_open:
            break
        num_looked += len(shell.offsets)
        hit = np.zeros(len(positions), dtype=bool)
        for jump in (shell.offsets @ strides).tolist():
            hit |= is_goal[positions + jump]
        distances[open_elements[hit]] = shell.length_mm
        missed = ~hit
        open_elements, positions = open_elements[missed], positions[missed]
        if not len(positions):
            return distances
    tree = KDTree(
        _points_mm(np.flatnonzero(is_goal), shape, steps_mm),
        leafsize=32,
        compact_nodes=False,
        balanced_tree=False,
    )
    distances[open_elements] = tree.query(_points_mm(positions, shape, steps_mm))[0]
    return distances


def _points_mm(positions: NDArray[np.intp], shape: tuple[int, ...], steps_mm: Floats) -> Floats:
    indices = np.stack(np.unravel_index(positions, shape), axis=-1).astype(np.float64)
    return indices @ steps_mm.T


@lru_cache(maxsize=32)
def _nearest_shells(steps: tuple[tuple[float, ...], ...]) -> tuple[_Shell, ...]:
    """About `_NUM_PROBES` lattice offsets by length, shortest first; none shorter is left out."""
    steps_mm = np.array(steps)
    num_axes = steps_mm.shape[1]
    cell = float(np.sqrt(np.linalg.det(steps_mm.T @ steps_mm)))
    ball = 4 / 3 * np.pi if num_axes == 3 else np.pi
    radius_mm = (_NUM_PROBES * cell / ball) ** (1 / num_axes)
    # The distance between neighbouring lattice planes bounds the indices within the radius.
    heights_mm = 1 / np.linalg.norm(np.linalg.pinv(steps_mm), axis=1)
    reach = np.floor(radius_mm / heights_mm).astype(int)
    axes = [np.arange(-extent, extent + 1) for extent in reach]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, num_axes)
    lengths_mm = np.linalg.norm(offsets @ steps_mm.T, axis=1)
    order = np.argsort(lengths_mm, kind="stable")
    order = order[lengths_mm[order] <= radius_mm]
    # Lengths that differ by rounding alone are one.
    starts = np.flatnonzero(np.diff(lengths_mm[order]) > 1e-9 * radius_mm) + 1
    return tuple(
        _Shell(offsets[members].astype(np.intp), float(lengths_mm[members[0]]))
        for members in np.split(order, starts)
    )


def _hashable(steps_mm: Floats) -> tuple[tuple[float, ...], ...]:
    """The matrix as a key for tables that are kept."""
    return tuple(map(tuple, steps_mm.tolist()))


def _percentile(
    distances_mm: Floats, sizes: Floats, *, percentile: float, kind: SurfaceKind
) -> float:
    if kind == "border_voxels":
        return float(np.quantile(distances_mm, percentile / 100))
    order = np.argsort(distances_mm, kind="stable")  # faster here: most values come in runs
    shares = np.cumsum(sizes[order])
    first = int(np.searchsorted(shares / shares[-1], percentile / 100))
    return float(distances_mm[order[min(first, len(order) - 1)]])


def _padded(mask: Mask, margin: NDArray[Any]) -> Mask:
    padded = np.zeros(np.array(mask.shape) + 2 * margin, dtype=bool)
    padded[tuple(slice(m, m + n) for m, n in zip(margin, mask.shape, strict=True))] = mask
    return padded


def _steps(spacing_mm: ArrayLike, *, num_axes: int) -> Floats:
    """The (3 or axes, axes) matrix of steps in mm from spacings or such a matrix."""
    steps_mm = np.asarray(spacing_mm, dtype=np.float64)
    if steps_mm.ndim == 1:
        steps_mm = np.diag(steps_mm)
    if steps_mm.ndim != 2 or steps_mm.shape[1] != num_axes or not np.isfinite(steps_mm).all():
        raise GeometryError(
            "spacing_mm",
            f"{np.asarray(spacing_mm).tolist()} does not fit masks of {num_axes} axes",
            "give one distance in mm per axis",
        )
    if np.linalg.matrix_rank(steps_mm) < num_axes:
        raise GeometryError(
            "spacing_mm",
            "has an axis of length zero or axes in one plane",
            "give a positive distance in mm per axis, or a matrix of independent steps",
        )
    return steps_mm


def _check_shapes(reference: Mask, prediction: Mask, ignored: Mask | None) -> None:
    others = {"prediction": prediction, "ignored": ignored}
    for name, mask in others.items():
        if mask is not None and mask.shape != reference.shape:
            raise GeometryError(
                name,
                f"has shape {mask.shape}, the reference {reference.shape}",
                "bring both to one grid before measuring",
            )
    if reference.ndim not in (2, 3):
        raise GeometryError("reference", f"has {reference.ndim} axes", "give a mask of 2 or 3 axes")
