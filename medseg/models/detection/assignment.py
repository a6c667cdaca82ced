"""Which query learns which segment, and the losses of masks at sampled points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

OVERSAMPLING = 3
IMPORTANT = 0.75
"""Of three times the points, those nearest to the border of the predicted mask are taken for three
quarters of the points (Kirillov et al. 2020, CVPR 9799).
"""


@dataclass(frozen=True)
class Segments:
    """What the queries of one image are to find.

    Args:
        masks: (m, *S) bool.
        classes: (m,) long.
        known: (*S) bool, the voxels that count; None for all.
    """

    masks: Tensor
    classes: Tensor
    known: Tensor | None = None


@torch.no_grad()
def assigned(
    class_logits: Tensor,
    mask_logits: Tensor,
    segments: Segments,
    *,
    num_points: int,
    covered: Sequence[int],
    weights: tuple[float, float, float],
    further: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Queries and segments that belong together at the least cost: two (k,) long.

    Args:
        class_logits: (Q, classes + 1) of one image.
        mask_logits: (Q, *M) of one image.
        segments: of it.
        num_points: places at which masks are compared, the same for all pairs.
        covered: extents of the image that the mask logits stand for.
        weights: of class, cross entropy and Dice in the cost.
        further: cost of each pair besides, (Q, m).

    Source: Carion et al. 2020, ECCV; Cheng et al. 2022, CVPR 1280, section 3.3.
    """
    count = len(segments.classes)
    if not count:
        nothing = torch.zeros(0, dtype=torch.long, device=class_logits.device)
        return nothing, nothing
    shape = segments.masks.shape[1:]
    points = torch.rand(1, num_points, len(shape), device=class_logits.device)
    predicted = at_points(mask_logits[None], points, shape=shape, covered=covered)[0]  # (Q, P)
    wanted = masks_at_points(segments.masks, points.expand(count, -1, -1))  # (m, P)
    counts = _counts(segments.known, points)  # (1, P)
    by_class = -class_logits.softmax(1)[:, segments.classes]
    inside, outside = F.softplus(-predicted), F.softplus(predicted)
    wanted = wanted * counts
    shares = predicted.sigmoid() * counts
    with torch.autocast(points.device.type, enabled=False):  # sums over many points overflow fp16
        by_entropy = inside @ wanted.T + outside @ (counts - wanted).T
        shared = 2 * shares @ wanted.T + 1
    by_entropy = by_entropy / counts.sum().clamp_min(1)
    by_dice = 1 - shared / (shares.sum(1)[:, None] + wanted.sum(1)[None] + 1)
    cost = weights[0] * by_class + weights[1] * by_entropy + weights[2] * by_dice
    if further is not None:
        cost = cost + further
    rows, columns = linear_sum_assignment(np.nan_to_num(cost.cpu().numpy(), nan=1e6))
    return (
        torch.as_tensor(rows, dtype=torch.long, device=cost.device),
        torch.as_tensor(columns, dtype=torch.long, device=cost.device),
    )


def point_losses(
    mask_logits: Tensor,
    masks: Tensor,
    *,
    num_points: int,
    covered: Sequence[int],
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross entropy and Dice of predicted masks (k, *M) against (k, *S) bool, summed over masks.

    Both are taken at random points, most of them where the prediction is unsure, as far as they
    are `known`, (*S) bool.
    """
    shape = masks.shape[1:]
    with torch.no_grad():
        points = _unsure_points(mask_logits, num_points, shape, covered, known)
        counts = _counts(known, points)
        wanted = masks_at_points(masks, points) * counts
    predicted = at_points(mask_logits[:, None], points, shape=shape, covered=covered)[:, 0]
    entropy = F.binary_cross_entropy_with_logits(predicted, wanted, weight=counts, reduction="none")
    entropy = entropy.sum(1) / counts.sum(1).clamp_min(1)
    shares = predicted.sigmoid() * counts
    dice = 1 - (2 * (shares * wanted).sum(1) + 1) / (shares.sum(1) + wanted.sum(1) + 1)
    return entropy.sum(), dice.sum()


def at_points(
    maps: Tensor, points: Tensor, *, shape: Sequence[int], covered: Sequence[int]
) -> Tensor:
    """Maps (n, C, *M) interpolated at points (n, P, dims): (n, C, P).

    Args:
        maps: stand for the extents `covered`, of which the image's `shape` is the first part.
        points: shares of `shape`.
    """
    dims = points.shape[2]
    scale = torch.tensor(
        [2 * extent / whole for extent, whole in zip(shape, covered, strict=True)],
        device=points.device,
    )
    grid = (points * scale - 1).flip(2).reshape(len(points), -1, *(1,) * (dims - 1), dims)
    values = F.grid_sample(
        maps.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return values.flatten(2)


def masks_at_points(masks: Tensor, points: Tensor) -> Tensor:
    """Masks (n, *S) bool at the voxels that points (n, P, dims), shares of S, lie in: (n, P)."""
    extents = torch.tensor(masks.shape[1:], device=points.device)
    places = torch.minimum((points * extents).long(), extents - 1)
    rows = torch.arange(len(masks), device=points.device)[:, None]
    return masks[(rows, *places.unbind(2))].float()


def _counts(known: Tensor | None, points: Tensor) -> Tensor:
    """1 at the points (n, P, dims) that lie in known voxels, 0 at others: (n, P)."""
    if known is None:
        return torch.ones(points.shape[:2], device=points.device)
    return masks_at_points(known.expand(len(points), *known.shape), points)


def _unsure_points(
    mask_logits: Tensor,
    num_points: int,
    shape: Sequence[int],
    covered: Sequence[int],
    known: Tensor | None,
) -> Tensor:
    count, dims = len(mask_logits), len(shape)
    many = torch.rand(count, OVERSAMPLING * num_points, dims, device=mask_logits.device)
    values = at_points(mask_logits[:, None], many, shape=shape, covered=covered)[:, 0]
    num_unsure = int(IMPORTANT * num_points)
    sureness = values.abs().masked_fill(_counts(known, many) == 0, torch.inf)
    best = sureness.topk(num_unsure, largest=False).indices
    unsure = many.gather(1, best[..., None].expand(-1, -1, dims))
    others = torch.rand(count, num_points - num_unsure, dims, device=mask_logits.device)
    return torch.cat((unsure, others), 1)
