"""Boxes (n, 2 * dims), lower corners before upper ones on voxel edges: overlap, coding, limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)
"""Decoded boxes are at most this much larger than their anchors (as in published detectors), so
that a wild value of an untrained network is no infinity.
"""


def volumes(boxes: Tensor) -> Tensor:
    """Area in 2D, volume in 3D: (n,); 0 where a corner has passed the other."""
    dims = boxes.shape[1] // 2
    return (boxes[:, dims:] - boxes[:, :dims]).clamp_min(0).prod(1)


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of every box of one set with every box of the other: both (n, m)."""
    dims = first.shape[1] // 2
    shared: Tensor | None = None
    for axis in range(dims):
        low = torch.maximum(first[:, None, axis], second[None, :, axis])
        high = torch.minimum(first[:, None, dims + axis], second[None, :, dims + axis])
        side = high.sub_(low).clamp_min_(0) if not high.requires_grad else (high - low).clamp_min(0)
        shared = side if shared is None else shared * side
    assert shared is not None
    return shared, volumes(first)[:, None] + volumes(second)[None, :] - shared


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union, (n, m) in [0, 1]; 0 between boxes without volume."""
    shared, union = overlaps(first, second)
    return shared / union.clamp_min(torch.finfo(union.dtype).tiny)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """What turns anchors into boxes, (n, 2 * dims): shifts of the centre in extents of the anchor,
    then logarithms of the ratios of extents.

    Source: Girshick et al. 2014, CVPR, appendix C.
    """
    dims = anchors.shape[1] // 2
    size, anchor_size = _extents(boxes, dims), _extents(anchors, dims)
    shift = (_centres(boxes, dims) - _centres(anchors, dims)) / anchor_size
    return torch.cat((shift, (size / anchor_size).log()), 1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes from anchors and what `encode` gives."""
    dims = anchors.shape[1] // 2
    anchor_size = _extents(anchors, dims)
    centre = _centres(anchors, dims) + deltas[:, :dims] * anchor_size
    half = deltas[:, dims:].clamp(max=MAX_LOG_RATIO).exp() * anchor_size / 2
    return torch.cat((centre - half, centre + half), 1)


def clip(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of each box that lies within an image."""
    limits = torch.tensor([*shape, *shape], device=boxes.device, dtype=boxes.dtype)
    return boxes.clamp_min(0).minimum(limits)


def widened_by(boxes: Tensor, share: float) -> Tensor:
    """Boxes that reach further on every side by a share of their extent."""
    dims = boxes.shape[1] // 2
    reach = share * (boxes[:, dims:] - boxes[:, :dims])
    return torch.cat((boxes[:, :dims] - reach, boxes[:, dims:] + reach), 1)


def _centres(boxes: Tensor, dims: int) -> Tensor:
    return (boxes[:, :dims] + boxes[:, dims:]) / 2


def _extents(boxes: Tensor, dims: int) -> Tensor:
    return (boxes[:, dims:] - boxes[:, :dims]).clamp_min(1e-3)


def as_strict_in(dims: int, iou: float) -> float:
    """IoU at which boxes of `dims` axes agree along each axis as those do that have `iou` in 2D.

    Boxes that share the part r of their extent along each axis have an IoU of r^d / (2 - r^d), so
    the same agreement gives less of it in 3D: 0.37 instead of 0.5, 0.60 instead of 0.7.
    """
    shared = (2 * iou / (1 + iou)) ** (dims / 2)
    return float(shared / (2 - shared))
