"""Where an array of voxels lies in the patient: shape and affine, in RAS millimetres.

`Geometry.affine` maps voxel-centre indices (i, j, k) to RAS mm. This file holds no pixel data and
no DICOM.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.core.errors import GeometryError

Shape3 = tuple[int, int, int]
Spacing3 = tuple[float, float, float]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_POSITIVE = "RAS"
_NEGATIVE = "LPI"

ALL_ORIENTATIONS: tuple[str, ...] = tuple(
    "".join(
        (_POSITIVE if sign else _NEGATIVE)[axis] for axis, sign in zip(axes, signs, strict=True)
    )
    for axes in permutations(range(3))
    for signs in product((True, False), repeat=3)
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Shape and position of a voxel grid.

    Args:
        shape: voxels along (i, j, k); a 2D image has one voxel along k.
        affine: 4x4, maps voxel-centre indices (i, j, k, 1) to RAS mm.

    Raises:
        GeometryError: the shape is not three positive numbers, or the affine is not finite and
            invertible.
    """

    shape: Shape3
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(extent) for extent in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(
                "shape",
                f"must be three positive numbers, got {shape}",
                "give the voxels along i, j and k",
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(
                "affine",
                f"must be a finite 4x4 matrix, got {affine.tolist()}",
                "write the image again with the positions of its voxels",
            )
        if not _spans_space(affine[:3, :3]):
            raise GeometryError(
                "affine",
                "has an axis of length zero or axes in one plane",
                "write the image again with the distances of its voxels",
            )
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_spacing(
        cls,
        shape: Shape3,
        *,
        spacing_mm: Spacing3,
        orientation: str = "RAS",
        origin_mm: Spacing3 = (0.0, 0.0, 0.0),
    ) -> Geometry:
        """Geometry of an axis-aligned grid whose voxel (0, 0, 0) has its centre at `origin_mm`."""
        axes, signs = _parse_orientation(orientation)
        affine = np.eye(4)
        affine[:3, :3] = 0.0
        for index_axis, (world_axis, sign) in enumerate(zip(axes, signs, strict=True)):
            affine[world_axis, index_axis] = sign * spacing_mm[index_axis]
        affine[:3, 3] = origin_mm
        return cls(shape, affine)

    @property
    def spacing_mm(self) -> Spacing3:
        """Centre-to-centre distance along i, j and k."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(lengths[0]), float(lengths[1]), float(lengths[2]))

    @property
    def directions(self) -> NDArray[np.float64]:
        """Unit vectors of the i, j and k axes in RAS, as columns, shape (3, 3)."""
        return np.asarray(self.affine[:3, :3] / np.array(self.spacing_mm))

    @property
    def voxel_volume_mm3(self) -> float:
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def orientation(self) -> str:
        """Nearest axis codes, such as "RAS": the direction in which each index grows."""
        axes, signs = _nearest_axes(self.directions)
        return "".join(
            (_POSITIVE if sign > 0 else _NEGATIVE)[axis]
            for axis, sign in zip(axes, signs, strict=True)
        )

    @property
    def is_orthogonal(self) -> bool:
        """True if the three axes are at right angles (to 1e-3)."""
        gram = self.directions.T @ self.directions
        return bool(np.abs(gram - np.eye(3)).max() < 1e-3)

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """RAS position of the middle of the grid, shape (3,)."""
        return self.to_world_mm((np.array(self.shape) - 1) / 2)

    def to_world_mm(self, indices: ArrayLike) -> NDArray[np.float64]:
        """RAS positions of voxel indices; both have shape (..., 3)."""
        points = np.asarray(indices, dtype=np.float64)
        return np.asarray(points @ self.affine[:3, :3].T + self.affine[:3, 3])

    def to_index(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Continuous voxel indices of RAS positions; both have shape (..., 3)."""
        points = np.asarray(points_mm, dtype=np.float64) - self.affine[:3, 3]
        return np.asarray(np.linalg.solve(self.affine[:3, :3], points[..., None])[..., 0])

    def difference(self, other: Geometry, *, tolerance_mm: float = 1e-2) -> str | None:
        """How the two grids differ, in words; None if corners agree within `tolerance_mm`."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        corners = np.array(list(product(*((0, extent - 1) for extent in self.shape))))
        distance = np.linalg.norm(
            self.to_world_mm(corners) - other.to_world_mm(corners), axis=1
        ).max()
        # A single slice has no extent along its normal, so its thickness is compared by itself.
        spacing = np.abs(np.subtract(self.spacing_mm, other.spacing_mm)).max()
        if distance <= tolerance_mm and spacing <= tolerance_mm:
            return None
        if self.orientation != other.orientation:
            return f"orientation {self.orientation} against {other.orientation}"
        return f"voxel positions up to {max(distance, spacing):.3g} mm apart"

    def reorientation(self, orientation: str) -> tuple[Shape3, tuple[int, ...]]:
        """Axis permutation and axes to flip (after permuting) that give this grid `orientation`."""
        wanted_axes, wanted_signs = _parse_orientation(orientation)
        axes, signs = _nearest_axes(self.directions)
        order = tuple(axes.index(axis) for axis in wanted_axes)
        flips = tuple(
            n
            for n, (old, sign) in enumerate(zip(order, wanted_signs, strict=True))
            if signs[old] != sign
        )
        return (order[0], order[1], order[2]), flips

    def permuted(self, order: tuple[int, ...], flips: tuple[int, ...]) -> Geometry:
        """The same voxels with axes reordered, then flipped."""
        shape = np.array(self.shape)[list(order)]
        change = np.zeros((4, 4))
        change[3, 3] = 1.0
        for new, old in enumerate(order):
            change[old, new] = -1.0 if new in flips else 1.0
            change[old, 3] = shape[new] - 1 if new in flips else 0.0
        return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), self.affine @ change)

    def reoriented(self, orientation: str) -> Geometry:
        """The same voxels with axes permuted and flipped to the nearest `orientation`."""
        return self.permuted(*self.reorientation(orientation))

    def cropped(self, start: tuple[int, ...], shape: Shape3) -> Geometry:
        """The grid of `shape` voxels that begins at voxel `start` of this one (may lie outside)."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world_mm(start)
        return Geometry(shape, affine)

    def resized(self, shape: Shape3) -> Geometry:
        """A grid of `shape` voxels over the same field of view.

        Outer voxel edges coincide, as in `torch.nn.functional.interpolate(align_corners=False)`.
        """
        scale = np.array(self.shape) / np.array(shape)
        affine = self.affine.copy()
        affine[:3, :3] = self.affine[:3, :3] * scale
        affine[:3, 3] = self.to_world_mm((scale - 1) / 2)
        return Geometry(shape, affine)


def _spans_space(axes: NDArray[np.float64]) -> bool:
    """True if three columns have a volume; relative to their lengths, so that micrometres count."""
    with np.errstate(over="ignore", invalid="ignore"):
        volume = abs(np.linalg.det(axes))
        box = np.linalg.norm(axes, axis=0).prod()
    return bool(np.isfinite(box) and volume > 1e-6 * box)


def _parse_orientation(orientation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if orientation not in ALL_ORIENTATIONS:
        raise GeometryError(
            "orientation",
            f"'{orientation}' is not an axis code",
            "use three letters such as RAS or LPS",
        )
    axes = tuple(_POSITIVE.find(c) if c in _POSITIVE else _NEGATIVE.find(c) for c in orientation)
    signs = tuple(1 if c in _POSITIVE else -1 for c in orientation)
    return axes, signs


def _nearest_axes(directions: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """World axis and sign for each index axis; the assignment with the largest summed cosine."""
    best = max(
        permutations(range(3)),
        key=lambda axes: sum(abs(directions[axis, n]) for n, axis in enumerate(axes)),
    )
    return best, tuple(1 if directions[axis, n] >= 0 else -1 for n, axis in enumerate(best))
