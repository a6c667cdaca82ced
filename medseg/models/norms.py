"""Normalisations that also work where a channel holds a single value: coarse maps of one voxel,
pooled features, a batch of one.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation, written as group normalisation (docs/decisions/0003).

    A map of one voxel is normalised over all channels together: channel by channel nothing but the
    bias would remain of it, and with it whatever the network knew.
    """

    def __init__(self, channels: int, *, affine: bool = True) -> None:
        super().__init__(channels, channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        groups = self.num_groups if math.prod(x.shape[2:]) > 1 else 1
        return F.group_norm(x, groups, self.weight, self.bias, self.eps)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation; a batch with one value per channel is normalised with the running
    statistics, since it has no deviation of its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _batch_norm(self, x) if _is_single(x) else super().forward(x)


class BatchNorm3d(nn.BatchNorm3d):
    """As `BatchNorm2d`, for volumes."""

    def forward(self, x: Tensor) -> Tensor:
        return _batch_norm(self, x) if _is_single(x) else super().forward(x)


def _is_single(x: Tensor) -> bool:
    return x.shape[0] * math.prod(x.shape[2:]) == 1


def _batch_norm(norm: nn.BatchNorm2d | nn.BatchNorm3d, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )
