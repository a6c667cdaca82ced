"""The pieces of surface between 2x2(x2) voxels: which there are and how large they are."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import marching_cubes

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def corner_codes(mask: Mask) -> NDArray[np.uint8]:
    """Which of the 2x2(x2) voxels from each voxel on are true, as one number.

    Args:
        mask: bool, shape (I, J, K) or (I, J).

    Returns:
        uint8, one smaller along each axis; bit x + 2 y + 4 z is the voxel at offset (x, y, z).
    """
    codes: NDArray[Any] = mask.view(np.uint8)
    for axis in range(mask.ndim):
        low = tuple(slice(None, -1) if n == axis else slice(None) for n in range(mask.ndim))
        high = tuple(slice(1, None) if n == axis else slice(None) for n in range(mask.ndim))
        codes = codes[low] | (codes[high] << np.uint8(1 << axis))
    return codes


def is_on_surface(codes: NDArray[np.uint8], *, num_axes: int) -> Mask:
    """True where the corners are neither all outside nor all inside."""
    all_inside = (1 << (1 << num_axes)) - 1
    return np.asarray((codes != 0) & (codes != all_inside))


@lru_cache(maxsize=32)
def element_sizes(steps: tuple[tuple[float, ...], ...]) -> Floats:
    """Area in mm2 (3D) or length in mm (2D) of the surface element of each corner code.

    Args:
        steps: rows of the matrix whose columns are the steps in mm from voxel to voxel along each
            axis.

    Returns:
        Shape (256,) in 3D, (16,) in 2D; kept for the next call, so not to be changed.
    """
    steps_mm = np.array(steps)
    if steps_mm.shape[1] == 2:
        return _segment_lengths(steps_mm)
    triangles, codes = _element_triangles()
    first, second, third = np.moveaxis(triangles @ steps_mm.T, 1, 0)
    areas = np.linalg.norm(np.cross(second - first, third - first), axis=1) / 2
    return np.asarray(np.bincount(codes, areas, minlength=256), dtype=np.float64)


def _segment_lengths(steps_mm: Floats) -> Floats:
    """Length of the contour through 2x2 pixels for each of the 16 corner codes.

    The contour joins middles of pixel edges; two opposite corners are cut off one by one.
    """
    along_i, along_j = steps_mm.T
    diagonals = {
        0b0001: along_i - along_j,
        0b1000: along_i - along_j,
        0b0010: along_i + along_j,
        0b0100: along_i + along_j,
    }
    lengths = np.zeros(16)
    for code in range(1, 15):
        inside = [bit for bit in diagonals if code & bit]
        if len(inside) == 3:
            inside = [bit for bit in diagonals if not code & bit]
        if code in (0b0011, 0b1100):
            lengths[code] = np.linalg.norm(along_i)
        elif code in (0b0101, 0b1010):
            lengths[code] = np.linalg.norm(along_j)
        else:
            lengths[code] = sum(np.linalg.norm(diagonals[bit]) / 2 for bit in inside)
    return lengths


@cache
def _element_triangles() -> tuple[Floats, NDArray[np.intp]]:
    """Triangles of all 3D corner codes in voxel steps, (T, 3, 3), and the code each belongs to.

    Marching cubes (Lorensen and Cline 1987) with corners at the middles of edges. A code and its
    complement get the same element: the one that cuts off the at most four corners that are alike.
    """
    triangles, codes = [], []
    for code in range(1, 255):
        corners = (code >> np.arange(8) & 1).reshape(2, 2, 2).transpose(2, 1, 0)
        if corners.sum() > 4:
            corners = 1 - corners
        vertices, faces, _, _ = marching_cubes(corners.astype(np.float32), 0.5, method="lorensen")
        triangles.append(vertices[faces].astype(np.float64))
        codes.append(np.full(len(faces), code))
    return np.concatenate(triangles), np.concatenate(codes)
