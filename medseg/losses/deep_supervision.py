"""The same loss at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DeepSupervision(nn.Module):
    """Mean of a loss over the outputs of a network, each coarser one counting half of the finer.

    The target is reduced by taking every n-th voxel, so it stays a label map.

    Source: Lee et al. 2015, AISTATS; weights as in Isensee et al. 2021.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Scalar; logits is one tensor (N, C, *S) or several, finest first; target (N, *S)."""
        if isinstance(logits, Tensor):
            return self.loss(logits, target)
        total = torch.zeros((), device=target.device)
        weights = [0.5**n for n in range(len(logits))]
        for weight, output in zip(weights, logits, strict=True):
            total = total + weight * self.loss(output, reduce_target(target, output.shape[2:]))
        return total / sum(weights)


def reduce_target(target: Tensor, shape: Sequence[int]) -> Tensor:
    """Every n-th voxel of (N, *S) along each axis, starting in the middle of each block."""
    index = [slice(None)]
    for old, new in zip(target.shape[1:], shape, strict=True):
        step = old // new
        index.append(slice(step // 2, None, step))
    reduced = target[tuple(index)]
    return reduced[(slice(None), *(slice(0, extent) for extent in shape))]
