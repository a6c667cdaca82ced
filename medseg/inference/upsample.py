"""Label maps and probabilities from logits on another grid, without ever holding all logits at full
size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SLAB_BYTES = 256 * 2**20
"""Interpolated logits held at once."""


def upsample_labels(
    logits: NDArray[Any] | Tensor,
    shape: tuple[int, ...],
    *,
    decode: Callable[[Tensor], Tensor] | None = None,
    num_classes: int | None = None,
) -> NDArray[Any]:
    """Class number at each voxel of trilinearly interpolated logits.

    Args:
        logits: (C, i, j, k) or (C, i, j).
        shape: wanted spatial shape; voxel edges coincide (`align_corners=False`).
        decode: class numbers (n, *S) from logits (n, C, *S); by default the class of the largest
            logit, the lowest on ties.
        num_classes: that class numbers stay below; by default C.

    Returns:
        uint8 array of that shape, uint16 from 257 classes on.
    """
    values = torch.as_tensor(logits)
    dtype = np.uint8 if (num_classes or values.shape[0]) <= 256 else np.uint16
    labels = np.empty(shape, dtype=dtype)
    for rows, slab in _slabs(values, shape):
        classes = slab.argmax(1) if decode is None else decode(slab)
        labels[rows] = classes.cpu().numpy().astype(dtype)
    return labels


def upsample_probabilities(
    logits: NDArray[Any] | Tensor,
    shape: tuple[int, ...],
    *,
    activation: Callable[[Tensor], Tensor],
) -> NDArray[np.float32]:
    """Probabilities (C, *shape), float32, of trilinearly interpolated logits.

    Args:
        logits: (C, i, j, k) or (C, i, j).
        shape: wanted spatial shape; voxel edges coincide (`align_corners=False`).
        activation: probabilities from logits, both (n, C, *S).
    """
    values = torch.as_tensor(logits)
    result = np.empty((values.shape[0], *shape), dtype=np.float32)
    for rows, slab in _slabs(values, shape):
        result[:, rows] = activation(slab).movedim(1, 0).float().cpu().numpy()
    return result


def _slabs(values: Tensor, shape: tuple[int, ...]) -> Iterator[tuple[slice, Tensor]]:
    """Interpolated logits in slabs along the first axis: rows of the result, and (rows, C, ...)."""
    positions, before, share = _axis_weights(values.shape[1], shape[0])
    rows = max(1, SLAB_BYTES // (4 * values.shape[0] * int(np.prod(shape[1:]))))
    mode = {1: "linear", 2: "bilinear"}[len(shape) - 1]
    is_same = tuple(values.shape[1:]) == tuple(shape)
    for start in range(0, shape[0], rows):
        stop = min(shape[0], start + rows)
        if is_same:
            yield slice(start, stop), values[:, start:stop].movedim(1, 0)
            continue
        low, high = int(before[start]), int(positions[stop - 1])
        # One axis is interpolated by hand, so that a slab needs only the coarse planes around it.
        planes = values[:, low : high + 1].movedim(1, 0).float()
        planes = F.interpolate(planes, shape[1:], mode=mode, align_corners=False)
        a = torch.as_tensor(before[start:stop] - low, device=values.device)
        b = torch.as_tensor(positions[start:stop] - low, device=values.device)
        w = torch.as_tensor(share[start:stop], device=values.device).view(-1, *[1] * len(shape))
        yield slice(start, stop), planes[a] * (1 - w) + planes[b] * w  # (rows, C, ...)


def _axis_weights(
    old: int, new: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each new voxel along an axis: the later and earlier old voxel, and the share of the
    later.
    """
    position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    before = np.floor(position).astype(np.int64)
    after = np.minimum(before + 1, old - 1)
    return after, before, (position - before).astype(np.float32)
