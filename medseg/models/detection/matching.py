"""Which anchors or boxes learn which reference object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.models.detection.boxes import iou

CANDIDATES = 9
"""Nearest anchors of each level that an object may take (Zhang et al. 2020)."""

CHUNK = 256
"""Objects compared with all anchors at once, which bounds the memory of crowded images."""


def match_adaptively(
    anchors: Sequence[Tensor], boxes: Tensor, *, candidates: int = CANDIDATES
) -> Tensor:
    """Index of each anchor's object, -1 where it has none: (all anchors,) long.

    Of the anchors nearest to an object's centre, those are taken whose IoU with it is at least the
    mean plus the standard deviation of all these, and whose centre lies inside. The threshold so
    follows each object: small and elongated ones, which no anchor overlaps by half, still have
    anchors, where a fixed IoU leaves them none. An object without any takes its best candidate. An
    anchor of several objects goes to the one with the highest IoU.

    Args:
        anchors: (n, 2 * dims) per level.
        boxes: (m, 2 * dims) of the objects.
        candidates: per object and level.

    Source: Zhang et al. 2020, CVPR 9756 (ATSS).
    """
    together = torch.cat(list(anchors))
    match = torch.full((len(together),), -1, dtype=torch.long, device=together.device)
    best = torch.zeros(len(together), device=together.device)
    dims = together.shape[1] // 2
    for start in range(0, len(boxes), CHUNK):
        chunk = boxes[start : start + CHUNK]
        middle = (chunk[:, :dims] + chunk[:, dims:]) / 2
        picked, first = [], 0
        for level in anchors:
            centres = (level[:, :dims] + level[:, dims:]) / 2
            distance = torch.cdist(middle, centres)
            nearest = distance.topk(min(candidates, len(level)), largest=False).indices
            picked.append(nearest + first)
            first += len(level)
        index = torch.cat(picked, 1)  # (objects, candidates of all levels)
        nearby = together[index]
        overlap = _iou_rows(nearby, chunk)
        limit = overlap.mean(1, keepdim=True) + overlap.std(1, keepdim=True, correction=0)
        centres = (nearby[..., :dims] + nearby[..., dims:]) / 2
        inside = ((centres > chunk[:, None, :dims]) & (centres < chunk[:, None, dims:])).all(2)
        taken = (overlap >= limit) & inside
        fallback = overlap.argmax(1)
        alone = ~taken.any(1)
        taken[alone.nonzero()[:, 0], fallback[alone]] = True
        rows, columns = taken.nonzero(as_tuple=True)
        values = overlap[rows, columns].clamp_min(1e-6)
        targets = index[rows, columns]
        order = torch.argsort(values, stable=True)  # the highest is written last
        rows, values, targets = rows[order], values[order], targets[order]
        better = values > best[targets]
        rows, values, targets = rows[better], values[better], targets[better]
        strongest = torch.zeros_like(best).scatter_reduce_(0, targets, values, "amax")
        is_strongest = values == strongest[targets]
        match[targets[is_strongest]] = rows[is_strongest] + start
        best = torch.maximum(best, strongest)
    return match


def match_by_overlap(candidates: Tensor, boxes: Tensor, *, min_iou: float) -> tuple[Tensor, Tensor]:
    """Index of the object that each box overlaps most, -1 below `min_iou`, and that IoU.

    The rule of the second stage (Ren et al. 2015): its boxes were made to fit objects, so a fixed
    IoU says which of them do.
    """
    if not len(boxes) or not len(candidates):
        nothing = torch.full((len(candidates),), -1, dtype=torch.long, device=candidates.device)
        return nothing, torch.zeros(len(candidates), device=candidates.device)
    values, match = [], []
    for start in range(0, len(candidates), 1024):
        value, index = iou(candidates[start : start + 1024], boxes).max(1)
        values.append(value)
        match.append(index)
    value, index = torch.cat(values), torch.cat(match)
    return torch.where(value >= min_iou, index, -1), value


def sampled(
    positive: Tensor, negative: Tensor, *, count: int, share: float
) -> tuple[Tensor, Tensor]:
    """Indices of random positives, at most `share` of `count`, and of random negatives.

    Where positives are fewer, so are negatives, which would drown them, but for a quarter of
    `count`.

    Args:
        positive, negative: (n,) bool.
    """
    ups, downs = positive.nonzero()[:, 0], negative.nonzero()[:, 0]
    num_up = min(len(ups), int(count * share))
    wanted = max(round(num_up * (1 - share) / share), count // 4)
    num_down = min(len(downs), count - num_up, wanted)
    return (
        ups[torch.randperm(len(ups), device=ups.device)[:num_up]],
        downs[torch.randperm(len(downs), device=downs.device)[:num_down]],
    )


def centre_is_known(boxes: Tensor, classes: Tensor) -> Tensor:
    """Whether the voxel in the middle of each box has a class: (n,) bool; a box amid what nobody
    annotated may hold an object.

    Args:
        boxes: (n, 2 * dims) in voxels of the image.
        classes: of the image's voxels, (*S) long, negative where nothing is known.
    """
    dims = classes.ndim
    middle = ((boxes[:, :dims] + boxes[:, dims:]) / 2).long().clamp_min(0)
    last = torch.tensor(classes.shape, device=boxes.device) - 1
    return classes[tuple(torch.minimum(middle, last).T)] >= 0


def _iou_rows(boxes: Tensor, references: Tensor) -> Tensor:
    """IoU of (n, k, 2 * dims) with (n, 2 * dims), row by row: (n, k)."""
    dims = references.shape[1] // 2
    low = torch.maximum(boxes[..., :dims], references[:, None, :dims])
    high = torch.minimum(boxes[..., dims:], references[:, None, dims:])
    shared = (high - low).clamp_min(0).prod(2)
    sizes = (boxes[..., dims:] - boxes[..., :dims]).prod(2)
    own = (references[:, dims:] - references[:, :dims]).prod(1)
    return shared / (sizes + own[:, None] - shared)
