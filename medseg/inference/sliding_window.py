"""Logits of a whole image from overlapping patches, blended with a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.core.errors import ConfigError

Network = Callable[[Tensor], Tensor]

MAX_GROWTH = 1.5
"""An axis up to so many times longer than the patch is covered by one window: with an overlap of a
half, two windows would compute as many voxels.
"""


@dataclass(frozen=True)
class SlidingWindow:
    """How an image larger than the patch is covered.

    Args:
        overlap: share of the patch that neighbouring windows have in common, 0 to below 1.
        window_batch: windows computed at once; None takes 4 on CPU-sized patches and fewer for
            large ones.
        tta: "mirror" averages over all mirrored images along the axes that training mirrored.
        sigma: standard deviation of the blending Gaussian as a share of the patch
            (1/8, Isensee et al. 2021).
    """

    overlap: float = 0.5
    window_batch: int | None = None
    tta: Literal["none", "mirror"] = "none"
    sigma: float = 0.125

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ConfigError("inference.overlap", f"is {self.overlap}", "use 0 to 0.9")
        if self.window_batch is not None and self.window_batch < 1:
            raise ConfigError("inference.window_batch", f"is {self.window_batch}", "use 1 or more")

    def logits(
        self,
        network: Network,
        image: Tensor,
        *,
        patch_size: tuple[int, ...],
        out_channels: int,
        mirror_axes: tuple[int, ...] = (),
        stride: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Logits of every voxel, float32, shape (out_channels, I, J, K), on the image's device.

        Args:
            network: (N, C, *patch) to (N, out_channels, *patch); 2D networks see slices along K.
            image: (C, I, J, K), normalised.
            patch_size: 3 numbers, or 2 for a 2D network.
            out_channels: channels of the logits.
            mirror_axes: axes that test-time mirroring may flip.
            stride: extents the network takes are multiples of these, and windows may be larger than
                the patch; None keeps them at the patch size.
        """
        flat = len(patch_size) == 2
        shape = tuple(image.shape[1:])
        if stride is not None:
            patch_size = grown_window(shape, patch_size, stride)
        window = (*patch_size, 1) if flat else patch_size
        padded, margin = _pad(image, window)
        importance = gaussian_importance(window, self.sigma).to(image.device)
        total = torch.zeros((out_channels, *padded.shape[1:]), device=image.device)
        weight = torch.zeros(padded.shape[1:], device=image.device)
        mirrors = mirror_combinations(mirror_axes if self.tta == "mirror" else ())
        # Small patches leave a device idle, large ones fill it by themselves.
        batch = self.window_batch or max(
            1, min(32, 4 * 64**3 // int(np.prod(window)) // len(mirrors))
        )
        for corners in _batches(window_starts(padded.shape[1:], window, self.overlap), batch):
            boxes = [
                tuple(slice(a, a + n) for a, n in zip(corner, window, strict=True))
                for corner in corners
            ]
            patches = torch.stack([padded[(slice(None), *box)] for box in boxes])
            outputs = _mirrored(network, patches[..., 0] if flat else patches, mirrors)
            if flat:
                outputs = outputs[..., None]
            for box, output in zip(boxes, outputs, strict=True):
                total[(slice(None), *box)] += output * importance
                weight[box] += importance
        total /= weight
        inner = tuple(slice(a, a + n) for a, n in zip(margin, shape, strict=True))
        return total[(slice(None), *inner)]


def grown_window(
    shape: tuple[int, ...], patch_size: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[int, ...]:
    """The patch, stretched over the whole image along axes that hardly exceed it.

    Two windows with half their voxels in common cost more than one over both, and the network sees
    less of the surroundings.
    """
    window = []
    for extent, size, step in zip(shape, patch_size, stride, strict=False):
        whole = math.ceil(extent / step) * step
        window.append(whole if size < whole <= MAX_GROWTH * size else size)
    return tuple(window)


def window_starts(
    shape: tuple[int, ...], window: tuple[int, ...], overlap: float
) -> list[tuple[int, ...]]:
    """First voxels of windows that cover the shape, evenly spread along each axis."""
    axes = []
    for extent, size in zip(shape, window, strict=True):
        step = max(1, int(size * (1 - overlap)))
        count = max(1, int(np.ceil((extent - size) / step)) + 1)
        axes.append([round(n * (extent - size) / max(1, count - 1)) for n in range(count)])
    return list(product(*axes))


@lru_cache(maxsize=16)
def gaussian_importance(window: tuple[int, ...], sigma: float) -> Tensor:
    """Weight of each voxel of a window, largest in the middle and nowhere zero."""
    importance = torch.ones(window)
    for axis, size in enumerate(window):
        offsets = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        profile = torch.exp(-0.5 * (offsets / max(sigma * size, 1e-3)) ** 2)
        view = [1] * len(window)
        view[axis] = size
        importance = importance * profile.view(view)
    return importance.clamp_min(float(importance.max()) * 1e-4)


def mirror_combinations(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All subsets of the axes, the empty one first."""
    subsets: list[tuple[int, ...]] = [()]
    for axis in axes:
        subsets += [(*subset, axis) for subset in subsets]
    return subsets


def _mirrored(network: Network, patches: Tensor, mirrors: list[tuple[int, ...]]) -> Tensor:
    """Mean logits over mirrored patches, all mirrors in one batch; (N, C, *P) to (N, out, *P)
    float32.
    """
    if len(mirrors) == 1:
        return network(patches).float()
    turned = torch.cat([torch.flip(patches, [axis + 2 for axis in axes]) for axes in mirrors])
    outputs = network(turned).float().chunk(len(mirrors))
    mean = outputs[0].clone()
    for axes, output in zip(mirrors[1:], outputs[1:], strict=True):
        mean += torch.flip(output, [axis + 2 for axis in axes])
    return mean / len(mirrors)


def _pad(image: Tensor, window: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """The image, with zeros around it where the window is larger, and the margin before it."""
    missing = [max(0, size - extent) for size, extent in zip(window, image.shape[1:], strict=True)]
    margin = tuple(gap // 2 for gap in missing)
    if not any(missing):
        return image, margin
    sides: list[int] = []
    for before, gap in zip(reversed(margin), reversed(missing), strict=True):
        sides += [before, gap - before]
    return F.pad(image, sides), margin


def _batches(items: list[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
