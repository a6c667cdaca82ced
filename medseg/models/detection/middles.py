"""Where objects seem to lie: a map of their middles, and blobs around these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import Activation, ConvNormAct, Norm, conv
from medseg.models.detection.anchors import grid_anchors
from medseg.models.detection.matching import centre_is_known
from medseg.models.detection.objects import Objects

RARE = -2.2
"""First logit of a middle: one voxel in ten (Lin et al. 2017, ICCV 2980)."""

SPREAD = 6.0
"""Standard deviations of a middle's neighbourhood across its object (Zhou et al. 2019)."""

STEEPNESS = 4.0
"""Logit in the middle of a blob (chosen: sure, but outvoted by a mask)."""

OUTSIDE = -8.0
"""Least logit of a blob (chosen), so that a mask may reach beyond it."""


class MiddleMap(nn.Module):
    """How likely each voxel of a level is the middle of an object, of whichever class.

    Shapes:
        (N, channels, *L) to logits (N, 1, *L).

    Source: Zhou et al. 2019, arXiv:1904.07850.
    """

    def __init__(
        self, spatial_dims: int, channels: int, *, norm: Norm, activation: Activation
    ) -> None:
        super().__init__()
        self.layer = ConvNormAct(
            spatial_dims,
            channels,
            channels,
            kernel_size=(3,) * spatial_dims,
            norm=norm,
            activation=activation,
        )
        self.logits = conv(spatial_dims, channels, 1, kernel_size=(1,) * spatial_dims)

    def reset_outputs(self) -> None:
        """So that training begins with few middles."""
        nn.init.normal_(cast(Tensor, self.logits.weight), std=0.01)
        nn.init.constant_(cast(Tensor, self.logits.bias), RARE)

    def forward(self, level: Tensor) -> Tensor:
        return self.logits(self.layer(level)).float()


def likely_middles(logits: Tensor, count: int) -> Tensor:
    """The likeliest voxels of each image, first those above all of their neighbours.

    Args:
        logits: (N, 1, *L).
        count: at most; there may be fewer voxels.

    Returns:
        (N, k) long, indices of the flattened level, ascending: their order does not hang on the
        last digit of a score, which differs from runtime to runtime.
    """
    pool = F.max_pool2d if logits.ndim == 4 else F.max_pool3d
    is_peak = logits == pool(logits, 3, stride=1, padding=1)
    values = torch.where(is_peak, logits.sigmoid(), -torch.exp(-logits)).flatten(1)
    return values.topk(min(count, values.shape[1]), dim=1).indices.sort(1).values


def middle_loss(
    logits: Tensor, objects: Sequence[Objects], semantic: Tensor | None, *, stride: Sequence[int]
) -> Tensor:
    """Focal loss of the map of middles, divided by the number of objects.

    Args:
        logits: (N, 1, *L), of a level with this stride.
        objects: of each image.
        semantic: classes of the images' voxels, (N, *S) long; voxels of the level whose middle has
            a negative one count for nothing.
    """
    total = logits.sum() * 0
    count = 0
    for n, reference in enumerate(objects):
        own = logits[n, 0]
        wanted = _heat(reference, tuple(own.shape), stride=stride)
        share = own.sigmoid()
        is_middle = wanted == 1
        # Near a middle, being mistaken for it costs little.
        loss = torch.where(
            is_middle,
            -((1 - share) ** 2) * F.logsigmoid(own),
            -((1 - wanted) ** 4) * share**2 * F.logsigmoid(-own),
        )
        if semantic is not None:
            cells = grid_anchors(
                tuple(own.shape), stride=stride, sizes=[tuple(stride)], device=own.device
            )
            loss = loss * centre_is_known(cells, semantic[n]).view(own.shape)
        total = total + loss.sum()
        count += len(reference)
    return total / max(1, count)


def middles_of(objects: Objects) -> Tensor:
    """The voxel of each object nearest to its centroid: (m, dims) long."""
    dims = objects.boxes.shape[1] // 2
    corners, ends = objects.boxes.long().split(dims, 1)
    found = []
    for mask, corner, end in zip(objects.masks, corners, ends, strict=True):
        box = tuple(slice(a, b) for a, b in zip(corner.tolist(), end.tolist(), strict=True))
        inside = mask[box].nonzero()
        away = inside - inside.double().mean(0)
        found.append(corner + inside[(away**2).sum(1).argmin()])
    return torch.stack(found) if found else corners


def blobs(
    middles: Tensor, half_extents: Tensor, *, shape: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """Logits that fall with the distance from a middle and are 0 at the half extents.

    Args:
        middles: (N, k, dims) in voxels of the image.
        half_extents: of the same shape.
        shape: of the maps.
        stride: of the maps.

    Returns:
        (N, k, *shape).
    """
    dims = len(shape)
    total: Tensor | None = None
    for axis, (extent, step) in enumerate(zip(shape, stride, strict=True)):
        centres = (torch.arange(extent, device=middles.device) + 0.5) * step
        away = (centres - middles[..., axis, None]) / half_extents[..., axis, None]
        view = [*middles.shape[:2], *(extent if n == axis else 1 for n in range(dims))]
        part = (away**2).reshape(view)
        total = part if total is None else total + part
    assert total is not None
    return (STEEPNESS * (1 - total)).clamp_min(OUTSIDE)


def centres_of(index: Tensor, shape: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Centres in voxels of the image of flattened indices (N, k) of a level: (N, k, dims)."""
    found = []
    rest = index
    for extent, step in zip(reversed(shape), reversed(stride), strict=True):
        found.append((rest % extent + 0.5) * step)
        rest = rest // extent
    return torch.stack(found[::-1], 2)


def _heat(reference: Objects, shape: tuple[int, ...], *, stride: Sequence[int]) -> Tensor:
    """1 in the cell of each object's middle, falling around it: (*shape)."""
    device = reference.boxes.device
    heat = torch.zeros(shape, device=device)
    if not len(reference):
        return heat
    dims = len(shape)
    steps = torch.tensor(stride, device=device)
    cells = middles_of(reference) // steps
    deviations = (reference.boxes[:, dims:] - reference.boxes[:, :dims]) / steps / SPREAD
    total: Tensor | float = 0.0
    for axis, extent in enumerate(shape):
        away = torch.arange(extent, device=device) - cells[:, axis, None]
        view = [len(cells), *(extent if n == axis else 1 for n in range(dims))]
        total = total + ((away / deviations[:, axis, None].clamp_min(0.25)) ** 2).reshape(view)
    return torch.exp(-torch.as_tensor(total) / 2).amax(0)
