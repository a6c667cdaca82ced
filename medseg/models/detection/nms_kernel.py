"""Non-maximum suppression on the CPU: a compiled loop over boxes and their neighbours."""

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
def mark_suppressed(
    boxes: NDArray[Any],
    groups: NDArray[np.int64],
    along: NDArray[np.int64],
    axis: int,
    reach: float,
    max_iou: Any,
    is_greedy: bool,
    is_suppressed: NDArray[np.bool_],
) -> None:
    """Marks the boxes whose IoU with a better one of their group is above a limit.

    Args:
        boxes: from the best score to the worst, (n, 2 * dims).
        groups: of the boxes, (n,).
        along: the boxes in the order of their lower sides along an axis, (n,).
        axis: on which boxes lie furthest apart.
        reach: at least the longest box along it.
        max_iou: a number of the boxes' type, so that a limit that is met exactly is met.
        is_greedy: whether boxes that are suppressed suppress none.
        is_suppressed: (n,), all False; overwritten.
    """
    count = len(boxes)
    dims = boxes.shape[1] // 2
    lower = boxes[along, axis]
    sizes = np.ones(count, boxes.dtype)
    for n in range(count):
        for a in range(dims):
            sizes[n] *= max(boxes[n, dims + a] - boxes[n, a], boxes.dtype.type(0))
    for n in range(count):
        if is_greedy and is_suppressed[n]:
            continue
        place = np.searchsorted(lower, boxes[n, axis] - reach)
        while place < count and lower[place] < boxes[n, dims + axis]:
            other = along[place]
            place += 1
            if other <= n or is_suppressed[other] or groups[other] != groups[n]:
                continue
            shared = boxes.dtype.type(1)
            for a in range(dims):
                high = min(boxes[n, dims + a], boxes[other, dims + a])
                side = high - max(boxes[n, a], boxes[other, a])
                if not side > 0:
                    shared = boxes.dtype.type(0)
                    break
                shared *= side
            if shared > 0 and shared > (sizes[n] + sizes[other] - shared) * max_iou:
                is_suppressed[other] = True
