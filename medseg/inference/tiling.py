"""Where the windows of an image lie, and the order in which they are computed: layer by layer along
the axis on which that needs the least memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np

MAX_GROWTH = 1.5
"""An axis up to so many times longer than the patch is covered by one window: with an overlap of a
half, two windows would compute as many voxels.
"""


@dataclass(frozen=True)
class Tiling:
    """How an image is covered.

    Args:
        shape: of the image, (I, J, K).
        window: extent of each window; the last number is 1 for 2D networks.
        is_flat: the network is 2D and sees slices along K.
        starts: first voxel of each window in the padded image.
        chosen: those of `starts` that are computed; None computes all.
        along: axis of the slabs; None takes the one with the smallest.
    """

    shape: tuple[int, int, int]
    window: tuple[int, int, int]
    is_flat: bool
    starts: tuple[tuple[int, int, int], ...]
    chosen: frozenset[tuple[int, int, int]] | None = None
    along: int | None = None

    @property
    def num_windows(self) -> int:
        """Windows that are computed."""
        return len(self.starts if self.chosen is None else self.chosen)

    @property
    def padded(self) -> tuple[int, ...]:
        """Shape of the image with zeros around it where a window is larger."""
        return tuple(max(n, w) for n, w in zip(self.shape, self.window, strict=True))

    @property
    def margin(self) -> tuple[int, ...]:
        """Zeros before the image along each axis."""
        return tuple((p - n) // 2 for p, n in zip(self.padded, self.shape, strict=True))

    @property
    def axis(self) -> int:
        """The axis of the slabs; by itself the one with the smallest: the longest one, counted in
        windows.
        """
        if self.along is not None:
            return self.along
        lengths = [p / w for p, w in zip(self.padded, self.window, strict=True)]
        return int(np.argmax(lengths))

    @property
    def layers(self) -> list[tuple[int, list[tuple[int, int, int]]]]:
        """Windows that begin at the same voxel along the axis, in its order, and of them those that
        are computed.
        """
        axis, chosen = self.axis, self.chosen
        ordered = sorted(self.starts, key=lambda start: (start[axis], start))
        return [
            (n, [start for start in layer if chosen is None or start in chosen])
            for n, layer in groupby(ordered, key=lambda start: start[axis])
        ]

    @property
    def slab_shape(self) -> tuple[int, int, int]:
        """Planes and their extents that are held at once: those of a window, and one before it."""
        others = [n for a, n in enumerate(self.padded) if a != self.axis]
        return (self.window[self.axis] + 1, others[0], others[1])


def tile(
    shape: tuple[int, ...],
    patch_size: tuple[int, ...],
    *,
    overlap: float,
    stride: tuple[int, ...] | None,
) -> Tiling:
    """Windows over an image.

    Args:
        shape: of the image, (I, J, K).
        patch_size: 3 numbers, or 2 for a 2D network.
        overlap: share of the window that neighbours have in common.
        stride: extents the network takes are multiples of these, and windows may be larger than the
            patch; None keeps them at the patch size.
    """
    is_flat = len(patch_size) == 2
    if stride is not None:
        patch_size = grown_window(shape, patch_size, stride)
    window = (*patch_size, 1) if is_flat else tuple(patch_size)
    padded = tuple(max(n, w) for n, w in zip(shape, window, strict=True))
    starts = window_starts(padded, window, overlap)
    i, j, k = shape
    a, b, c = window
    return Tiling((i, j, k), (a, b, c), is_flat, tuple((n[0], n[1], n[2]) for n in starts))


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
