"""From network space back onto the grid of the input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.geometry import Geometry, Shape3


def turned_shape(source: Geometry, orientation: str | None) -> Shape3:
    """Shape of the source grid in network orientation: what logits are interpolated to."""
    return source.shape if orientation is None else source.reoriented(orientation).shape


def turn_back(array: NDArray[Any], source: Geometry, *, orientation: str | None) -> NDArray[Any]:
    """An array (..., I, J, K) in network orientation, turned to the source's axes; contiguous."""
    if orientation is None:
        return np.ascontiguousarray(array)
    order, flips = source.reorientation(orientation)
    lead = array.ndim - 3
    flipped = np.flip(array, tuple(lead + axis for axis in flips)) if flips else array
    back = np.argsort(order)
    return np.ascontiguousarray(
        flipped.transpose(*range(lead), *(int(axis) + lead for axis in back))
    )
