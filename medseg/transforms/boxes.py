"""Boxes around voxels, with a margin and no smaller than a patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, ...]


def grown_box(
    low: NDArray[Any], high: NDArray[Any], shape: Sequence[int], *, least: Sequence[int]
) -> Box:
    """The voxels from `low` up to `high`, within an image and no smaller than a patch where the
    image is not.

    Args:
        low, high: first position and the one after the last, may lie between voxels or outside.
        shape: of the image.
        least: voxels along each axis.
    """
    extent = np.array(shape)
    start = np.clip(np.floor(low), 0, extent - 1).astype(int)
    stop = np.clip(np.ceil(high), start + 1, extent).astype(int)
    size = np.maximum(stop - start, np.minimum(least, extent))
    start = np.clip(start - (size - (stop - start)) // 2, 0, extent - size)
    return tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))


def box_around(
    voxels: Sequence[NDArray[np.integer]],
    shape: Sequence[int],
    *,
    margin: Sequence[float] | NDArray[np.floating],
    least: Sequence[int],
) -> Box:
    """The box around voxels with a margin; the whole image if there are none.

    Args:
        voxels: indices, arrays of shape (n, dims).
        shape: of the image.
        margin: voxels along each axis.
        least: voxels along each axis that the box has where the image has.
    """
    present = [rows for rows in voxels if len(rows)]
    if not present:
        return tuple(slice(0, extent) for extent in shape)
    low = np.min([rows.min(axis=0) for rows in present], axis=0)
    high = np.max([rows.max(axis=0) for rows in present], axis=0) + 1
    return grown_box(low - np.array(margin), high + np.array(margin), shape, least=least)
