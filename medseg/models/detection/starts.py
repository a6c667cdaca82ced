"""Queries that begin where objects seem to lie, each with a blob around its start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medseg.models.blocks import Activation, Norm
from medseg.models.detection.assignment import Segments, masks_at_points
from medseg.models.detection.middles import MiddleMap, blobs, centres_of, likely_middles
from medseg.models.detection.pyramid import Sizes

MOST_GROWTH = 4.0
"""Of the number of starts with the image (chosen): a window of twice the patch along three axes
holds eight times its objects, but each query has a mask of the whole window.
"""

MISPLACED = 5.0
"""Cost of an object for a query that did not begin in it, and of stuff for one that began at a
middle; as much as a wholly wrong mask (chosen).
"""


@dataclass(frozen=True)
class Starts:
    """Where the queries of a batch begin.

    Args:
        middles: logits of the map of middles, (N, 1, *L).
        index: of the flattened level, (N, K) long.
        places: the same in voxels of the image, (N, K, dims).
    """

    middles: Tensor
    index: Tensor
    places: Tensor


class QueryStarts(nn.Module):
    """Finds the likeliest middles of objects on a level and begins a query at each.

    A query's mask is drawn on a blob, of a typical object's extents at first, which it moves and
    stretches.

    Args:
        spatial_dims: 2 or 3.
        channels: of the level.
        count: starts in a patch.
        object_sizes: extents of typical objects in voxels, rows of `spatial_dims` numbers.
        patch_size: extents of a training patch; larger images have more starts in proportion, up to
            MOST_GROWTH times as many. None gives all images as many.
        norm, activation: see `medseg.models.blocks`.

    Source: He et al. 2023, CVPR 23663 (FastInst), for where queries begin; Tian et al. 2020, ECCV,
        for masks relative to a place.
    """

    half_extents: Tensor

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        *,
        count: int,
        object_sizes: Sizes,
        patch_size: Sequence[int] | None,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.count = count
        self.patch_size = None if patch_size is None else tuple(patch_size)
        self.middles = MiddleMap(spatial_dims, channels, norm=norm, activation=activation)
        self.first = nn.Linear(channels, channels)
        self.blob = nn.Linear(channels, 2 * spatial_dims)
        usual = np.median(np.array(object_sizes, dtype=float), axis=0) / 2
        half_extents = torch.tensor(usual, dtype=torch.float32)
        self.register_buffer("half_extents", half_extents, persistent=False)

    def reset_outputs(self) -> None:
        """So that training begins with few middles and with blobs of the usual extents."""
        self.middles.reset_outputs()
        nn.init.zeros_(self.blob.weight)
        nn.init.zeros_(self.blob.bias)

    def forward(self, level: Tensor, *, stride: Sequence[int]) -> Starts:
        """Starts on a level (N, channels, *L) with a stride."""
        shape = tuple(level.shape[2:])
        middles = self.middles(level)
        index = likely_middles(middles.detach(), self._count(shape, stride))
        return Starts(middles, index, centres_of(index, shape, stride))

    def queries(self, starts: Starts, features: Tensor) -> Tensor:
        """Queries (N, K, channels) made of the features (N, voxels of the level, channels)."""
        rows = starts.index[..., None].expand(-1, -1, features.shape[2])
        return self.first(features.gather(1, rows))

    def drawn(
        self, queries: Tensor, starts: Starts, *, shape: Sequence[int], stride: Sequence[int]
    ) -> Tensor:
        """Logits of the queries' blobs on maps of a shape with a stride: (N, K, *shape)."""
        shifts, growth = self.blob(queries).float().chunk(2, 2)
        return blobs(
            starts.places + self.half_extents * shifts.tanh(),
            self.half_extents * growth.clamp(-3, 3).exp(),
            shape=shape,
            stride=stride,
        )

    def _count(self, shape: Sequence[int], stride: Sequence[int]) -> int:
        if self.patch_size is None:
            return self.count
        cells = math.prod(
            -(-size // step) for size, step in zip(self.patch_size, stride, strict=True)
        )
        return int(self.count * min(MOST_GROWTH, max(1.0, math.prod(shape) / cells)))


@dataclass(frozen=True)
class Placement:
    """What the starts of an image's queries say of its segments.

    Args:
        cost: of each segment for each query, (Q, m).
        is_unknown: whether a query began where nobody annotated, (Q,) bool.
    """

    cost: Tensor
    is_unknown: Tensor


def placement(
    places: Tensor, segments: Segments, *, num_objects: int, num_learnt: int
) -> Placement:
    """The placement of one image.

    Args:
        places: (K, dims) in voxels of the image, of the queries after the first `num_learnt`.
        segments: the first `num_objects` of them are objects.
    """
    shape = torch.tensor(segments.masks.shape[1:], device=places.device)
    points = (places / shape)[None]
    inside = masks_at_points(segments.masks, points.expand(len(segments.masks), -1, -1)) > 0
    cost = torch.zeros(num_learnt + len(places), len(segments.classes), device=places.device)
    cost[:num_learnt, :num_objects] = MISPLACED
    cost[num_learnt:, :num_objects] = MISPLACED * ~inside[:num_objects].T
    cost[num_learnt:, num_objects:] = MISPLACED
    is_unknown = torch.zeros(len(cost), dtype=torch.bool, device=places.device)
    if segments.known is not None:
        is_unknown[num_learnt:] = masks_at_points(segments.known[None], points)[0] == 0
    return Placement(cost, is_unknown)
