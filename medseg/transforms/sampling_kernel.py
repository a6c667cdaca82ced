"""A training patch sampled through an affine map and a displacement, on the CPU: a compiled loop
that never holds the positions of more than a row of voxels.
"""

# mypy: disable-error-code="misc"

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Compiled code is kept beside this file, as Python keeps its own; nowhere else.
_CACHE = os.access(Path(__file__).parent, os.W_OK)


@njit(nogil=True, error_model="numpy", cache=_CACHE)
def fill_patch(
    image: NDArray[np.float32],
    labels: NDArray[np.int32],
    origin: NDArray[np.float64],
    matrix: NDArray[np.float64],
    knots: NDArray[np.float64],
    outside_label: int,
    patch: NDArray[np.float32],
    patch_labels: NDArray[np.int64],
) -> None:
    """Fills a patch: the image linearly, the labels from the nearest voxel (halfway between two
    from the even one), as `grid_sample` does.

    All arrays are contiguous and have three spatial axes; the first has one voxel for 2D.

    Args:
        image: (C, I, J, K), fewer than 2**31 voxels; zero lies beyond.
        labels: (I, J, K).
        origin: index position that the patch's first voxel comes from, (3,).
        matrix: columns are the steps along the patch's axes, (3, 3).
        knots: displacement in voxels of the image, linear between a coarse grid of points over the
            first two axes of the patch, for every voxel along the last: (3, coarse, coarse, P[2]);
            no points means none.
        outside_label: label of what lies beyond.
        patch, patch_labels: (C, *P) and (*P), overwritten.
    """
    num_channels, num_i, num_j, num_k = image.shape
    flat, flat_labels = image.ravel(), labels.ravel()
    voxels = np.uintp(num_i * num_j * num_k)
    # The neighbour along an axis of one voxel is that voxel.
    up_i = np.uintp(num_j * num_k if num_i > 1 else 0)
    up_j = np.uintp(num_k if num_j > 1 else 0)
    up_k = np.uintp(1 if num_k > 1 else 0)
    positions = np.empty((3, patch.shape[3]))
    share = np.empty((3, patch.shape[3]), np.float32)
    place = np.empty(patch.shape[3], np.int32)
    nearest = np.empty(patch.shape[3], np.int32)
    for i in range(patch.shape[1]):
        for j in range(patch.shape[2]):
            for axis in range(3):
                start = origin[axis] + i * matrix[axis, 0] + j * matrix[axis, 1]
                for k in range(patch.shape[3]):
                    positions[axis, k] = start + k * matrix[axis, 2]
            if knots.shape[1]:
                _displace(positions, knots, i, patch.shape[1], j, patch.shape[2])
            num_beyond = _find(positions, labels.shape, place, nearest, share)
            for k in range(patch.shape[3]):
                patch_labels[i, j, k] = flat_labels[np.uintp(nearest[k])]
            for channel in range(num_channels):
                first = np.uintp(channel) * voxels
                for k in range(patch.shape[3]):
                    p = first + np.uintp(place[k])
                    wi, wj, wk = share[0, k], share[1, k], share[2, k]
                    a = flat[p] + wk * (flat[p + up_k] - flat[p])
                    p += up_j
                    b = flat[p] + wk * (flat[p + up_k] - flat[p])
                    a += wj * (b - a)
                    if up_i:
                        p += up_i
                        d = flat[p] + wk * (flat[p + up_k] - flat[p])
                        p -= up_j
                        c = flat[p] + wk * (flat[p + up_k] - flat[p])
                        c += wj * (d - c)
                        a += wi * (c - a)
                    patch[channel, i, j, k] = a
            if num_beyond:
                for k in range(patch.shape[3]):
                    at = (positions[0, k], positions[1, k], positions[2, k])
                    if not _is_within(at, labels.shape):
                        near = (np.rint(at[0]), np.rint(at[1]), np.rint(at[2]))
                        if not _is_within(near, labels.shape):
                            patch_labels[i, j, k] = outside_label
                        for channel in range(num_channels):
                            patch[channel, i, j, k] = _value_at(image, channel, at)


@njit(nogil=True, error_model="numpy", cache=_CACHE)
def _find(positions: Any, shape: Any, place: Any, nearest: Any, share: Any) -> int:
    """The voxel before each position, the nearest one and the shares of the later neighbours, for
    positions moved into the image; returns how many coordinates lay beyond it.
    """
    num_beyond = 0
    place[:] = 0
    nearest[:] = 0
    for axis in range(3):
        last = float(shape[axis] - 1)
        latest = np.int32(max(0, shape[axis] - 2))
        for k in range(positions.shape[1]):
            inside = min(max(positions[axis, k], 0.0), last)
            num_beyond += inside != positions[axis, k]
            before = min(np.int32(inside), latest)
            later = inside - before
            is_later = (later > 0.5) | ((later == 0.5) & (before & 1 == 1))
            place[k] = place[k] * np.int32(shape[axis]) + before
            nearest[k] = nearest[k] * np.int32(shape[axis]) + before + np.int32(is_later)
            share[axis, k] = later
    return num_beyond


@njit(nogil=True, error_model="numpy", cache=_CACHE)
def _displace(positions: Any, knots: Any, i: int, num_i: int, j: int, num_j: int) -> None:
    """Adds the displacement of a row of the patch to its positions."""
    i0, i1, wi = _between(i, num_i, knots.shape[1])
    j0, j1, wj = _between(j, num_j, knots.shape[2])
    for axis in range(3):
        for k in range(positions.shape[1]):
            before = (1 - wj) * knots[axis, i0, j0, k] + wj * knots[axis, i0, j1, k]
            after = (1 - wj) * knots[axis, i1, j0, k] + wj * knots[axis, i1, j1, k]
            positions[axis, k] += (1 - wi) * before + wi * after


@njit(nogil=True, error_model="numpy", cache=_CACHE)
def _between(voxel: int, size: int, num_knots: int) -> tuple[int, int, float]:
    """The knots around a voxel and the share of the later; the outermost coincide."""
    position = voxel * (num_knots - 1) / max(1, size - 1)
    before = int(position)
    return before, min(before + 1, num_knots - 1), position - before


@njit(nogil=True, error_model="numpy", cache=_CACHE)
def _is_within(at: Any, shape: Any) -> bool:
    """Whether a position lies between voxels of the image, or on one."""
    i, j, k = at
    is_early = (i < 0) | (j < 0) | (k < 0)
    return not (is_early | (i > shape[0] - 1) | (j > shape[1] - 1) | (k > shape[2] - 1))


@njit(nogil=True, error_model="numpy", cache=_CACHE)
def _value_at(image: Any, channel: int, at: Any) -> float:
    """Linear, with zeros for neighbours beyond the image."""
    value = 0.0
    for corner in range(8):
        i = np.floor(at[0]) + (corner >> 2)
        j = np.floor(at[1]) + (corner >> 1 & 1)
        k = np.floor(at[2]) + (corner & 1)
        if _is_within((i, j, k), image.shape[1:]):
            weight = (1 - abs(at[0] - i)) * (1 - abs(at[1] - j)) * (1 - abs(at[2] - k))
            value += weight * image[channel, int(i), int(j), int(k)]
    return value
