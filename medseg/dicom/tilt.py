"""Leaning stacks (gantry tilt) and stacks with holes: onto an orthogonal, gapless grid, and results
back.

The slices keep their plane, so only shifts within it are needed: a slice's pixels move by the
    sideways part of
the stacking step. Nothing is interpolated across slices but where a whole slice is missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry
from medseg.core.segmentation import LabelMap


def upright_geometry(native: Geometry) -> Geometry:
    """The smallest orthogonal grid around a leaning one: same i and j axes and spacing, k along the
    normal.
    """
    affine = native.affine
    shifts = _shifts(native)
    last = native.shape[2] - 1
    low = np.floor(np.minimum(0.0, shifts * last) + 1e-6).astype(int)
    high = np.ceil(np.maximum(0.0, shifts * last) - 1e-6).astype(int)
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    upright = affine.copy()
    upright[:3, 2] = (affine[:3, 2] @ normal) * normal
    upright[:3, 3] = native.to_world_mm((low[0], low[1], 0))
    shape = (
        native.shape[0] + int(high[0] - low[0]),
        native.shape[1] + int(high[1] - low[1]),
        last + 1,
    )
    return Geometry(shape, upright)


def straighten(
    array: NDArray[np.generic], native: Geometry, upright: Geometry, *, outside: float
) -> NDArray[np.generic]:
    """Values of a leaning stack on its upright grid, by linear interpolation within each slice.

    Args:
        array: shape (C, I, J, K) on `native`.
        native: grid as acquired.
        upright: from `upright_geometry`.
        outside: value where no slice reaches.
    """
    channels = array.shape[0]
    columns, rows, num_slices = upright.shape
    # Stored as slices, like every array that comes from DICOM.
    result = np.full((channels, num_slices, rows, columns), outside, array.dtype)
    result = result.transpose(0, 3, 2, 1)
    for k in range(num_slices):
        offset = upright.to_index(native.to_world_mm((0, 0, k)))[:2]
        first_i, low_i, part_i = _neighbours(columns, offset[0], native.shape[0])
        first_j, low_j, part_j = _neighbours(rows, offset[1], native.shape[1])
        for channel in range(channels):
            plane = array[channel, :, :, k].astype(np.float32)
            for axis, low, part in ((0, low_i, part_i), (1, low_j, part_j)):
                high = np.minimum(low + 1, plane.shape[axis] - 1)
                weight = part[:, None] if axis == 0 else part[None, :]
                plane = plane.take(low, axis) * (1 - weight) + plane.take(high, axis) * weight
            if array.dtype.kind in "iu":
                plane = np.rint(plane)
            result[channel, first_i : first_i + low_i.size, first_j : first_j + low_j.size, k] = (
                plane
            )
    return result


def _neighbours(
    extent: int, offset: float, size: int
) -> tuple[int, NDArray[np.intp], NDArray[np.float32]]:
    """For the outputs that lie on a slice's pixels: the first, their lower neighbours, and their
    weights.

    An output belongs to the slice if its centre lies within a pixel; half a pixel beyond the
    outermost centres takes the outermost value.
    """
    positions = np.arange(extent) - offset
    inside = np.flatnonzero((positions >= -0.5) & (positions <= size - 0.5))
    clamped = positions[inside].clip(0, size - 1)
    low = np.minimum(np.floor(clamped + 1e-6), size - 1).astype(np.intp)
    return int(inside[0]), low, (clamped - low).clip(0, 1).astype(np.float32)


def restore_labels(label_map: LabelMap, native: Geometry) -> LabelMap:
    """A label map on the grid of the slices as acquired, by nearest neighbour; unchanged if it is
    there already.

    Args:
        label_map: on any grid that covers the slices.
        native: grid of the slices as acquired; its k axis may lean.
    """
    if label_map.geometry.difference(native) is None:
        return label_map
    ijk = np.linalg.inv(label_map.geometry.affine) @ native.affine
    result = np.zeros(native.shape, label_map.array.dtype)
    is_shift = np.allclose(ijk[:3, :2], np.eye(3)[:, :2], atol=1e-6)
    for k in range(native.shape[2]):
        origin = ijk[:3, 2] * k + ijk[:3, 3]
        if is_shift:
            _copy_shifted(label_map.array, result[:, :, k], np.rint(origin).astype(int))
        else:
            _copy_nearest(label_map.array, result[:, :, k], origin, ijk)
    return LabelMap(result, native, label_map.labels)


def _copy_shifted(labels: NDArray[Any], plane: NDArray[Any], offset: NDArray[np.int_]) -> None:
    """Fills `plane` (I, J) from the labels that lie `offset` voxels further, if there are any."""
    if not 0 <= offset[2] < labels.shape[2]:
        return
    first = np.maximum(0, -offset[:2])
    last = np.minimum(plane.shape, np.array(labels.shape[:2]) - offset[:2])
    if (last <= first).any():
        return
    (i0, j0), (i1, j1) = first, last
    moved_i, moved_j, k = offset
    plane[i0:i1, j0:j1] = labels[i0 + moved_i : i1 + moved_i, j0 + moved_j : j1 + moved_j, k]


def _copy_nearest(
    labels: NDArray[Any], plane: NDArray[Any], origin: NDArray[np.float64], ijk: NDArray[np.float64]
) -> None:
    """Fills `plane` (I, J) from the nearest labels, for grids whose axes differ."""
    i, j = np.meshgrid(*map(np.arange, plane.shape), indexing="ij")
    points = i[..., None] * ijk[:3, 0] + j[..., None] * ijk[:3, 1] + origin
    nearest = np.rint(points).astype(int)
    inside = ((nearest >= 0) & (nearest < np.array(labels.shape))).all(axis=-1)
    found = nearest[inside]
    plane[inside] = labels[found[:, 0], found[:, 1], found[:, 2]]


def _shifts(native: Geometry) -> NDArray[np.float64]:
    """Sideways part of the stacking step, in pixels along i and j."""
    axes = native.affine[:3, :2]
    return np.asarray(np.linalg.lstsq(axes, native.affine[:3, 2], rcond=None)[0])
