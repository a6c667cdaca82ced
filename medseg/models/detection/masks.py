"""Masks between an image's grid and the grid of a box."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.models.detection.objects import Detections

THRESHOLD = 0.5
"""Mask probability from which a voxel belongs to the object."""


def masks_in_boxes(
    masks: Tensor, index: Tensor, boxes: Tensor, *, output_size: Sequence[int]
) -> Tensor:
    """What a mask head learns: masks read at the middles of a grid's cells in each box.

    Args:
        masks: (m, *S) bool.
        index: (n,) long, the mask of each box.
        boxes: (n, 2 * dims) in voxels of the image.
        output_size: cells along each axis.

    Returns:
        (n, *output_size) float in [0, 1], linearly interpolated; 0 outside the image.
    """
    dims = len(output_size)
    result = torch.zeros((len(boxes), *output_size), device=masks.device)
    if not len(boxes):
        return result
    places, weights = [], []
    for axis, size in enumerate(output_size):
        share = (torch.arange(size, device=boxes.device) + 0.5) / size
        lower, upper = boxes[:, axis, None], boxes[:, dims + axis, None]
        point = lower + (upper - lower) * share - 0.5  # (n, size), indices of voxel centres
        below = point.floor()
        extent = masks.shape[1 + axis]
        pair = torch.stack((below, below + 1))  # (2, n, size)
        weight = torch.stack((below + 1 - point, point - below))
        weights.append(weight * ((pair >= 0) & (pair < extent)))
        places.append(pair.clamp(0, extent - 1).long())
    owner = index.reshape(-1, *(1,) * dims)
    for corner in itertools.product((0, 1), repeat=dims):
        where = tuple(_along(places[a][side], a, dims) for a, side in enumerate(corner))
        value = masks[(owner, *where)].to(result.dtype)
        for axis, side in enumerate(corner):
            value = value * _along(weights[axis][side], axis, dims)
        result += value
    return result


def detections_from_cells(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    cells: Tensor,
    *,
    grids: Tensor,
    shape: Sequence[int],
) -> Detections:
    """Detections whose masks are given on a grid of cells each.

    Args:
        boxes: (n, 2 * dims) within the image.
        scores, classes: (n,).
        cells: (n, *m) mask probabilities.
        grids: the box that each one's cells divide, (n, 2 * dims).
        shape: extents of the image.
    """
    pieces, kept = [], []
    dims = len(shape)
    limits = torch.tensor(list(shape), device=boxes.device)
    lower = grids[:, :dims].floor().long().clamp_min(0)
    upper = torch.minimum(grids[:, dims:].ceil().long(), limits)
    for n, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
        if any(b <= a for a, b in zip(low, high, strict=True)):
            continue
        piece = _trimmed(_pasted(cells[n], grids[n], low, high), low)
        if piece is not None:
            pieces.append(piece)
            kept.append(n)
    return _gathered(boxes, scores, classes, pieces, kept)


def detections_from_maps(
    maps: Tensor, scores: Tensor, classes: Tensor, *, boxes: Tensor | None = None
) -> Detections:
    """Detections whose masks are given on the image's grid.

    Args:
        maps: (n, *S) mask probabilities.
        scores, classes: (n,).
        boxes: (n, 2 * dims); None takes the least boxes around the masks.
    """
    pieces, kept = [], []
    for n, values in enumerate(maps):
        piece = _trimmed(values, [0] * values.ndim)
        if piece is not None:
            pieces.append(piece)
            kept.append(n)
    if boxes is None:
        dims = maps.ndim - 1
        boxes = torch.zeros(len(maps), 2 * dims, device=maps.device)
        for n, (corner, mask, _) in zip(kept, pieces, strict=True):
            ends = [a + b for a, b in zip(corner, mask.shape, strict=True)]
            boxes[n] = torch.tensor([*corner, *ends], device=maps.device, dtype=boxes.dtype)
    return _gathered(boxes, scores, classes, pieces, kept)


def _pasted(cells: Tensor, box: Tensor, low: Sequence[int], high: Sequence[int]) -> Tensor:
    """Cell values at the centres of the voxels low..high, linearly interpolated."""
    dims = cells.ndim
    lengths = [b - a for a, b in zip(low, high, strict=True)]
    axes = []
    for axis in range(dims):
        centre = torch.arange(low[axis], high[axis], device=cells.device) + 0.5
        extent = (box[dims + axis] - box[axis]).clamp_min(1e-3)
        axes.append(2 * (centre - box[axis]) / extent - 1)
    grid = torch.stack(
        [_along(axes[a][None], a, dims).expand(1, *lengths) for a in reversed(range(dims))], -1
    )
    # A voxel whose centre lies just outside the box still has what is at the border.
    return F.grid_sample(
        cells[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]


_Piece = tuple[list[int], Tensor, Tensor]
"""First voxel of a mask in the image, the mask in its least box, and the probabilities there and
one voxel around.
"""


def _trimmed(values: Tensor, corner: Sequence[int]) -> _Piece | None:
    """The piece of a mask whose probabilities, given from `corner` on, are 0 elsewhere; None if it
    is empty.
    """
    mask = values >= THRESHOLD
    start, stop = [], []
    for axis in range(mask.ndim):
        others = tuple(n for n in range(mask.ndim) if n != axis)
        places = mask.any(others).nonzero()[:, 0]
        if not len(places):
            return None
        start.append(int(places[0]))
        stop.append(int(places[-1]) + 1)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    around = tuple(slice(max(0, a - 1), b + 1) for a, b in zip(start, stop, strict=True))
    missing: list[int] = []
    for a, b, extent in zip(start, stop, values.shape, strict=True):
        missing = [int(a == 0), int(b == extent), *missing]
    return (
        [a + b for a, b in zip(corner, start, strict=True)],
        mask[box].clone(),
        F.pad(values[around], missing),
    )


def _gathered(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    pieces: list[_Piece],
    kept: list[int],
) -> Detections:
    dims = boxes.shape[1] // 2
    index = torch.tensor(kept, dtype=torch.long, device=boxes.device)
    corners = torch.tensor([corner for corner, _, _ in pieces], device=boxes.device)
    return Detections(
        boxes[index],
        scores[index],
        classes[index],
        corners.reshape(-1, dims).long(),
        tuple(mask for _, mask, _ in pieces),
        tuple(values for _, _, values in pieces),
    )


def _along(values: Tensor, axis: int, dims: int) -> Tensor:
    """(n, size) with `size` along one of `dims` axes after the first."""
    shape = [1] * dims
    shape[axis] = values.shape[1]
    return values.reshape(len(values), *shape)
