"""Painting with level functions: the grid a phantom is drawn on, shapes, smooth random fields.

Distances are in millimetres of the anatomy, negative inside, exact for tubes and close to the
surface for the rest. Nothing in this file knows anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32 throughout; the wider type spares casts where numpy's own types lose the precision.
Array = NDArray[Any]
Point = tuple[float, float, float]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Region:
    """A box of the canvas: its place in the array, and its voxels' anatomical coordinates in mm."""

    slices: Slices
    x: Array
    y: Array
    z: Array


@dataclass(eq=False)
class Canvas:
    """Hounsfield units on a grid whose voxels know their place in the anatomy.

    Args:
        x, y, z: anatomical coordinates (right, anterior, superior) of the voxels in mm, all of
            shape (I, J, K).
        softness_mm: width of the zone over which a boundary is mixed, about one voxel.
    """

    x: Array
    y: Array
    z: Array
    softness_mm: float
    hu: Array = field(init=False)

    def __post_init__(self) -> None:
        self.hu = np.full(self.x.shape, -1000.0, np.float32)
        # Lowest and highest coordinate per index plane, from which `near` finds its box.
        self._bounds = tuple(
            (values.min(axis=others), values.max(axis=others))
            for values, others in ((self.x, (1, 2)), (self.y, (0, 2)), (self.z, (0, 1)))
        )

    @property
    def everywhere(self) -> Region:
        return Region((slice(None), slice(None), slice(None)), self.x, self.y, self.z)

    def near(self, points: Sequence[Point], reach_mm: float) -> Region:
        """The smallest box that holds every voxel within `reach_mm` of the points' bounding box."""
        low = np.min(points, axis=0) - reach_mm
        high = np.max(points, axis=0) + reach_mm
        slices = []
        for axis, (lowest, highest) in enumerate(self._bounds):
            inside = np.flatnonzero((highest >= low[axis]) & (lowest <= high[axis]))
            slices.append(slice(inside[0], inside[-1] + 1) if inside.size else slice(0, 0))
        box = (slices[0], slices[1], slices[2])
        return Region(box, self.x[box], self.y[box], self.z[box])

    def occupancy(self, distance: Array, *, softness_mm: float | None = None) -> Array:
        """Share of each voxel inside the shape, 0 to 1, from its signed distance."""
        share = 0.5 - distance / np.float32(softness_mm or self.softness_mm)
        return np.clip(share, 0.0, 1.0, out=share)

    def paint(
        self, distance: Array, hu: Array | float, *, at: Region, softness_mm: float | None = None
    ) -> Array:
        """Lays `hu` over what is there, mixed at the boundary, and returns the occupancy."""
        share = self.occupancy(distance, softness_mm=softness_mm)
        self.blend(share, hu, at=at)
        return share

    def blend(self, share: Array, hu: Array | float, *, at: Region) -> None:
        """Lays `hu` over what is there with weight `share`."""
        view = self.hu[at.slices]
        view += share * (hu - view)


def ellipsoid(
    at: Region, centre: Point, radii: Point, *, axes: NDArray[np.float64] | None = None
) -> Array:
    """Signed distance to an ellipsoid, first order at the surface.

    Args:
        at: voxels to evaluate.
        centre: middle in mm.
        radii: half axes in mm; infinity makes a cylinder.
        axes: rows are the directions of the half axes, shape (3, 3); x, y, z if not given.
    """
    offset = (
        at.x - np.float32(centre[0]),
        at.y - np.float32(centre[1]),
        at.z - np.float32(centre[2]),
    )
    if axes is not None:
        turn = axes.astype(np.float32)
        x, y, z = offset
        offset = tuple(row[0] * x + row[1] * y + row[2] * z for row in turn)
    level = np.full(at.x.shape, 1e-6, np.float32)
    slope = np.full(at.x.shape, 1e-8, np.float32)
    for values, radius in zip(offset, radii, strict=True):
        if np.isfinite(radius):
            scaled = values / np.float32(radius)
            scaled *= scaled
            level += scaled
            slope += scaled / np.float32(radius * radius)
    # f = |p/r|, grad f = |p/r^2| / f; distance = (f - 1) / |grad f|.
    np.sqrt(level, out=level)
    np.sqrt(slope, out=slope)
    return (level - 1.0) * level / slope


def tube(at: Region, points: Sequence[Point], radii: Sequence[float]) -> Array:
    """Signed distance to a chain of round cones through `points` with the radii given there."""
    nearest = np.full(at.x.shape, np.inf, np.float32)
    for n in range(len(points) - 1):
        start = np.array(points[n], np.float32)
        along = np.array(points[n + 1], np.float32) - start
        dx, dy, dz = at.x - start[0], at.y - start[1], at.z - start[2]
        t = (dx * along[0] + dy * along[1] + dz * along[2]) / np.float32(
            max(np.sum(along * along), 1e-6)
        )
        np.clip(t, 0.0, 1.0, out=t)
        dx -= t * along[0]
        dy -= t * along[1]
        dz -= t * along[2]
        distance = np.sqrt(dx * dx + dy * dy + dz * dz)
        distance -= np.float32(radii[n]) + t * np.float32(radii[n + 1] - radii[n])
        np.minimum(nearest, distance, out=nearest)
    return nearest


def union(first: Array, second: Array, *, blend_mm: float) -> Array:
    """Distance to both shapes together, the crease between them filled over `blend_mm`."""
    share = np.clip(0.5 + (second - first) / np.float32(2 * blend_mm), 0.0, 1.0)
    return second + share * (first - second) - np.float32(blend_mm) * share * (1.0 - share)


def overlap(first: Array, second: Array, *, blend_mm: float) -> Array:
    """Distance to what both shapes share, its edge rounded over `blend_mm`."""
    return -union(-first, -second, blend_mm=blend_mm)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, ...], *, knots: Sequence[int]
) -> Array:
    """Random cubic B-spline of about unit standard deviation with `knots` weights per axis.

    The weights are normal and cut at two standard deviations, so the field is bounded.
    """
    weights = np.clip(rng.standard_normal(tuple(knots)), -2.0, 2.0)
    # Each axis leaves 0.479 of the variance of independent weights: the mean of the squared basis.
    values = (weights / 0.479 ** (len(shape) / 2)).astype(np.float32)
    for axis in reversed(range(len(shape))):
        values = _interpolated(values, shape[axis], axis=axis)
    return values


def wave_field(
    rng: np.random.Generator, at: Region, *, wavelength_mm: float, num_waves: int = 8
) -> Array:
    """Random field of unit standard deviation in anatomical coordinates: a sum of plane waves.

    Wavelengths lie within 0.6 and 1.6 times `wavelength_mm`; meant for small regions.
    """
    total = np.zeros(at.x.shape, np.float32)
    for _ in range(num_waves):
        direction = rng.standard_normal(3)
        length = wavelength_mm * rng.uniform(0.6, 1.6)
        k = (direction / np.linalg.norm(direction) * 2 * np.pi / length).astype(np.float32)
        total += np.cos(k[0] * at.x + k[1] * at.y + k[2] * at.z + np.float32(rng.uniform(0, 6.283)))
    return total * np.float32(np.sqrt(2 / num_waves))


def rotation(
    *, about_x: float = 0.0, about_y: float = 0.0, about_z: float = 0.0
) -> NDArray[np.float64]:
    """Rotation matrix from angles in degrees, about x first."""
    matrix = np.eye(3)
    for axis, degrees in enumerate((about_x, about_y, about_z)):
        cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn[first, first] = turn[second, second] = cos
        turn[second, first], turn[first, second] = sin, -sin
        matrix = turn @ matrix
    return matrix


def _interpolated(values: Array, extent: int, *, axis: int) -> Array:
    """Cubic B-spline with the coefficients `values` along `axis`, at `extent` even positions.

    Plain sums in a fixed order: a matrix product depends on the number of threads.
    """
    position = np.linspace(0.0, values.shape[axis] - 3, extent)
    first = np.minimum(position.astype(int), values.shape[axis] - 4)
    t = position - first
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    view = tuple(-1 if n == axis else 1 for n in range(values.ndim))
    total: Array | None = None
    for n, weight in enumerate(basis):
        term = np.take(values, first + n, axis=axis)
        term *= (weight / 6).astype(np.float32).reshape(view)
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total
