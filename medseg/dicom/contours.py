"""Masks to closed contours and back, in pixel coordinates; voxel centres lie at whole numbers.

A contour runs along the edges between voxels, so its area is exactly that of the voxels, and a
reader that fills by voxel centres gets every voxel back. Holes are joined to their outline by a
channel of no width (the keyhole of PS3.3 C.8.8.6.3), which never touches a voxel centre.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


def fill_contour(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Voxels whose centre lies inside a closed contour, by the even-odd rule.

    Args:
        points: shape (N, 2), positions along the first and second axis; not closed by repetition.
        shape: of the mask.
    """
    mask = np.zeros(shape, np.bool_)
    first, second = points[:, 0], points[:, 1]
    low = max(0, int(np.ceil(second.min())))
    high = min(shape[1] - 1, int(np.floor(second.max())))
    next_first, next_second = np.roll(first, -1), np.roll(second, -1)
    rise = next_second - second
    for line in range(low, high + 1):
        # Half-open, so that a line through a corner crosses its two edges once.
        crossed = (second <= line) != (next_second <= line)
        if not crossed.any():
            continue
        share = (line - second[crossed]) / rise[crossed]
        crossings = first[crossed] + share * (next_first[crossed] - first[crossed])
        # A voxel is inside if an odd number of crossings lies before its centre.
        starts = np.clip(np.ceil(crossings), 0, shape[0]).astype(int)
        flips = np.bincount(starts, minlength=shape[0] + 1)[: shape[0]]
        mask[:, line] = np.cumsum(flips) % 2 == 1
    return mask


def trace_contours(mask: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Closed contours of a mask, holes included by keyholes.

    Args:
        mask: shape (I, J); voxels that touch at a corner alone belong to separate contours.

    Returns:
        Arrays of shape (N, 2) in pixel coordinates, corners only, at half-integers.
    """
    loops = [_corners(loop) for loop in _loops(mask)]
    outlines = [loop for loop in loops if _signed_area(loop) > 0]
    holes = sorted((loop for loop in loops if _signed_area(loop) < 0), key=min)
    for hole in holes:
        _join(outlines, hole)
    return [np.array(loop, np.float64) for loop in outlines]


def _loops(mask: NDArray[Any]) -> list[list[Point]]:
    """Boundaries as loops of unit steps with the inside on the left."""
    padded = np.pad(np.asarray(mask, np.bool_), 1)
    # Steps by the corner where they start; a corner has two where voxels touch diagonally.
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    inside = padded[1:-1, 1:-1]
    for axis, side, start, step in (
        (1, -1, (0, 0), (1, 0)),
        (0, 1, (1, 0), (0, 1)),
        (1, 1, (1, 1), (-1, 0)),
        (0, -1, (0, 1), (0, -1)),
    ):
        neighbour = np.roll(padded, -side, axis)[1:-1, 1:-1]
        for i, j in np.argwhere(inside & ~neighbour):
            steps.setdefault((int(i) + start[0], int(j) + start[1]), []).append(step)
    loops = []
    while steps:
        corner = first = min(steps)
        loop, heading = [], (0, 0)
        while True:
            loop.append((corner[0] - 0.5, corner[1] - 0.5))
            choices = steps[corner]
            # Turning left keeps to the same voxel where two touch at this corner.
            left = (-heading[1], heading[0])
            heading = left if left in choices else choices[0]
            choices.remove(heading)
            if not choices:
                del steps[corner]
            corner = (corner[0] + heading[0], corner[1] + heading[1])
            if corner == first:
                break
        loops.append(loop)
    return loops


def _corners(loop: list[Point]) -> list[Point]:
    """The points at which a loop turns."""
    return [
        point
        for before, point, after in zip(
            loop[-1:] + loop[:-1], loop, loop[1:] + loop[:1], strict=True
        )
        if (point[0] - before[0]) * (after[1] - point[1])
        != (point[1] - before[1]) * (after[0] - point[0])
    ]


def _signed_area(loop: list[Point]) -> float:
    points = np.array(loop)
    following = np.roll(points, -1, axis=0)
    return float((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum() / 2)


def _join(outlines: list[list[Point]], hole: list[Point]) -> None:
    """Joins a hole to the contour next to it, by a channel from its lowest corner downwards."""
    start = hole.index(min(hole))
    first, second = hole[start]
    best: tuple[float, int, int] | None = None
    for number, loop in enumerate(outlines):
        for position, (a, b) in enumerate(zip(loop, loop[1:] + loop[:1], strict=True)):
            reaches = a[0] == b[0] < first and min(a[1], b[1]) <= second <= max(a[1], b[1])
            if reaches and (best is None or a[0] > best[0]):
                best = (a[0], number, position)
    assert best is not None, "a hole lies inside a contour"
    wall, number, position = best
    loop = outlines[number]
    end = (wall, second)
    channel = [end, *hole[start:], *hole[:start], hole[start], end]
    outlines[number] = loop[: position + 1] + channel + loop[position + 1 :]
