"""Non-maximum suppression: the exact greedy definition, and YOLACT's fast one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medseg.models.detection.boxes import volumes
from medseg.models.detection.nms_kernel import mark_suppressed

BLOCK = 1024
"""Candidates decided at once, which bounds the pairs that are kept in memory."""

LOOPED_ON = ("cpu",)
"""Kinds of device on which a compiled loop decides box after box; others decide many at once."""

PAIRS = 2**20
"""Pairs of boxes whose overlap is computed at once."""


def nms(boxes: Tensor, scores: Tensor, *, max_iou: float, groups: Tensor | None = None) -> Tensor:
    """Indices of the boxes that greedy suppression keeps, best first.

    Going through the boxes from the best score to the worst (the earlier one first where scores are
    equal), a box is kept unless its IoU with one kept before is above `max_iou`.

    Off the CPU candidates are decided block by block. Whether a box of a block is kept depends on
    better ones alone, so a state that its own rule does not change is the greedy one; it is found
    by applying the rule to all of the block until nothing changes, mostly a few times.

    Args:
        boxes: (n, 2 * dims).
        scores: (n,).
        max_iou: in [0, 1].
        groups: (n,) whole numbers, such as classes; boxes of different groups do not suppress each
            other. None takes all as one group.

    Returns:
        (k,) long.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    if boxes.device.type in LOOPED_ON:
        return order[_kept_on_cpu(boxes, order, groups, max_iou=max_iou, is_greedy=True)]
    if groups is None:
        return order[_kept_of_sorted(boxes[order], max_iou)]
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for group in torch.unique(groups).tolist():
        members = order[groups[order] == group]
        keep[members[_kept_of_sorted(boxes[members], max_iou)]] = True
    return order[keep[order]]


def fast_nms(
    boxes: Tensor, scores: Tensor, *, max_iou: float, groups: Tensor | None = None
) -> Tensor:
    """Indices of the boxes whose IoU with no better one is above `max_iou`, best first.

    Unlike the greedy definition, boxes that are themselves suppressed suppress others, so that all
    are decided at once.

    Source: Bolya et al. 2019, ICCV, section 5.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    if boxes.device.type in LOOPED_ON:
        return order[_kept_on_cpu(boxes, order, groups, max_iou=max_iou, is_greedy=False)]
    ordered = boxes[order]
    keep = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for start in range(0, len(order), BLOCK):
        better, worse = pairs_above(ordered, ordered[start : start + BLOCK], max_iou)
        worse = worse + start
        counts = better < worse
        if groups is not None:
            counts &= groups[order[better]] == groups[order[worse]]
        keep[worse[counts]] = False
    return order[keep]


def pairs_above(first: Tensor, second: Tensor, min_iou: float) -> tuple[Tensor, Tensor]:
    """Indices into both sets of the pairs of boxes whose IoU is above a limit.

    Only boxes that meet along the axis on which they lie furthest apart are compared, so that many
    small boxes in a large image cost little more than their number.

    Args:
        first: (n, 2 * dims).
        second: (m, 2 * dims).
        min_iou: 0 or more.

    Returns:
        Two (k,) long tensors, in no particular order.
    """
    nothing = torch.zeros(0, dtype=torch.long, device=first.device)
    if not len(first) or not len(second):
        return nothing, nothing
    dims = first.shape[1] // 2
    axis, reach = _widest_axis(first)
    order = torch.argsort(first[:, axis])
    lower = first[order, axis].contiguous()
    begin = torch.searchsorted(lower, (second[:, axis] - reach).contiguous())
    counts = torch.searchsorted(lower, second[:, dims + axis].contiguous()) - begin
    counts.clamp_min_(0)
    total = counts.cumsum(0)
    sizes, other_sizes = volumes(first), volumes(second)
    lower_sides, upper_sides = first.T.contiguous().split(dims)
    other_lower, other_upper = second.T.contiguous().split(dims)
    shared = sizes[:0]
    found: list[tuple[Tensor, Tensor]] = []
    start, done = 0, 0
    while start < len(second):
        end = max(start + 1, int(torch.searchsorted(total, done + PAIRS)))
        j = torch.repeat_interleave(
            torch.arange(start, end, device=first.device), counts[start:end]
        )
        i = order[torch.arange(len(j), device=first.device) + (begin - total + counts + done)[j]]
        for n in [axis, *(n for n in range(dims) if n != axis)]:
            high = torch.minimum(upper_sides[n][i], other_upper[n][j])
            side = high.sub_(torch.maximum(lower_sides[n][i], other_lower[n][j]))
            meet = side > 0
            i, j, side = i[meet], j[meet], side[meet]
            shared = side if n == axis else shared[meet].mul_(side)
        above = shared > (sizes[i] + other_sizes[j] - shared) * min_iou
        found.append((i[above], j[above]))
        done = int(total[end - 1])
        start = end
    return torch.cat([i for i, _ in found]), torch.cat([j for _, j in found])


def _widest_axis(boxes: Tensor) -> tuple[int, Tensor]:
    """The axis on which boxes lie furthest apart, and a little more than the longest of them along
    it, so that rounding loses no pair.
    """
    dims = boxes.shape[1] // 2
    extents = boxes[:, dims:] - boxes[:, :dims]
    spread = boxes[:, :dims].amax(0) - boxes[:, :dims].amin(0)
    axis = int((spread / extents.mean(0).clamp_min(1e-6)).argmax())
    return axis, 1.001 * extents[:, axis].amax() + 1e-3


@torch.compiler.disable
def _kept_on_cpu(
    boxes: Tensor, order: Tensor, groups: Tensor | None, *, max_iou: float, is_greedy: bool
) -> Tensor:
    """Which boxes are kept, in the order given: (n,) bool."""
    dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    sorted_boxes = boxes.detach()[order].to(dtype)
    is_suppressed = np.zeros(len(sorted_boxes), np.bool_)
    if len(sorted_boxes):
        axis, reach = _widest_axis(sorted_boxes)
        ordered = sorted_boxes.numpy()
        mark_suppressed(
            ordered,
            np.zeros(len(ordered), np.int64) if groups is None else groups[order].long().numpy(),
            np.argsort(ordered[:, axis], kind="stable"),
            axis,
            float(reach),
            ordered.dtype.type(max_iou),
            is_greedy,
            is_suppressed,
        )
    return torch.from_numpy(~is_suppressed)


def _kept_of_sorted(boxes: Tensor, max_iou: float) -> Tensor:
    """Indices that greedy suppression keeps of boxes sorted from the best score to the worst."""
    kept = torch.zeros(0, dtype=torch.long, device=boxes.device)
    for start in range(0, len(boxes), BLOCK):
        members = torch.arange(start, min(start + BLOCK, len(boxes)), device=boxes.device)
        free = torch.ones(len(members), dtype=torch.bool, device=boxes.device)
        free[pairs_above(boxes[kept], boxes[members], max_iou)[1]] = False
        members = members[free]
        better, worse = pairs_above(boxes[members], boxes[members], max_iou)
        counts = better < worse
        better, worse = better[counts], worse[counts]
        keep = torch.ones(len(members), dtype=torch.bool, device=boxes.device)
        while True:
            after = torch.ones_like(keep)
            after[worse[keep[better]]] = False
            if torch.equal(after, keep):
                break
            keep = after
        kept = torch.cat((kept, members[keep]))
    return kept
