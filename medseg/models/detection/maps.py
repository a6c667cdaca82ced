"""Coarse maps of a network, brought to the grid of its image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medseg.models.blocks import crop, resize


def covered_by(x: Tensor, stride: Sequence[int]) -> tuple[int, ...]:
    """Extents of the image that (N, C, *L) with a stride stands for: its own, rounded up."""
    return tuple(extent * step for extent, step in zip(x.shape[2:], stride, strict=True))


def on_the_image(x: Tensor, *, stride: Sequence[int], shape: Sequence[int]) -> Tensor:
    """(N, C, *L) with a stride, linearly interpolated to (N, C, *shape)."""
    return crop(resize(x, covered_by(x, stride)), shape)
