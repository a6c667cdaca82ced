"""Resampling onto another number of voxels over the same field of view, as one matrix product per
axis.

A spline zoom is linear and separable, so the zoom of the identity matrix is the operator of an
axis; three products with it give the values of `scipy.ndimage.zoom(mode="nearest", grid_mode=True)`
at a fraction of its time (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NEGLIGIBLE = 1e-9
"""Spline weights below this are set to zero: they are rounding noise, and denormal numbers are
slow.
"""


def resample_image(
    array: NDArray[np.float32], shape: tuple[int, ...], *, order: int = 3
) -> NDArray[np.float32]:
    """Intensities on `shape` voxels, outer edges kept, values clipped to the input's range per
    channel.

    Args:
        array: shape (C, I, J, K).
        shape: wanted (I, J, K).
        order: spline order; 3 for images, 1 for probabilities.
    """
    if array.shape[1:] == tuple(shape):
        return array
    extents = enumerate(zip(array.shape[1:], shape, strict=True), start=1)
    result = along_axes(
        array,
        {
            axis: zoom_matrix(old, new, min(order, 3) if old > 1 else 0)
            for axis, (old, new) in extents
            if old != new
        },
    )
    if order > 1:
        axes = tuple(range(1, array.ndim))
        low = array.min(axis=axes, keepdims=True)
        high = array.max(axis=axes, keepdims=True)
        result = np.clip(result, low, high)
    return np.ascontiguousarray(result, dtype=np.float32)


def resample_labels(array: NDArray[np.integer], shape: tuple[int, ...]) -> NDArray[np.integer]:
    """Label map on `shape` voxels: the class with the largest linearly interpolated share.

    Args:
        array: integers, shape (I, J, K).
        shape: wanted (I, J, K).
    """
    if array.shape == tuple(shape):
        return array
    best = np.zeros(shape, dtype=array.dtype)
    share = np.full(shape, -1.0, dtype=np.float32)
    for value in np.unique(array):
        part = resample_image((array == value)[None].astype(np.float32), shape, order=1)[0]
        wins = part > share
        best[wins] = value
        share[wins] = part[wins]
    return best


def resample_nearest(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The last three axes on `shape` voxels, each taking the voxel its centre lies in.

    For numbers between which there is nothing, such as those of objects; parts thinner than a new
    voxel can vanish.
    """
    result = array
    for axis, new in enumerate(shape, start=array.ndim - 3):
        old = array.shape[axis]
        if old != new:
            nearest = np.floor((np.arange(new) + 0.5) * old / new).astype(int)
            result = np.take(result, np.minimum(nearest, old - 1), axis=axis)
    return result


def along_axes(
    array: NDArray[np.float32], matrices: Mapping[int, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """An array of which some axes are multiplied by a matrix (new, old) each."""
    result = array
    for axis, matrix in matrices.items():
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return result


@lru_cache(maxsize=32)
def zoom_matrix(old: int, new: int, order: int) -> NDArray[np.float32]:
    """Matrix of shape (new, old) that zooms an axis of `old` voxels to `new`, borders repeated."""
    matrix = ndimage.zoom(
        np.eye(old), (new / old, 1.0), order=order, mode="nearest", grid_mode=True
    )
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0.0
    return matrix.astype(np.float32)
