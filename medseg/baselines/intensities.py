"""What classical methods look at: one smoothed grey image, its histogram, a coarser grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.volume import Volume

NUM_BINS = 256
_SAMPLE = 1_000_000
# Rec. 601, for pictures of three colours; a fourth channel is opacity.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as the methods take it.

    Args:
        channels: float32, shape (C, I, J, K), finite.
        grey: float32, shape (I, J, K): the first channel, or the brightness of a colour picture.
        spacing_mm: along i, j, k.
    """

    channels: NDArray[np.float32]
    grey: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, volume: Volume, *, smooth_mm: float = 0.0) -> Picture:
        """The volume, smoothed with a Gaussian of standard deviation `smooth_mm`.

        Values that are not finite count as the lowest finite one.
        """
        channels = volume.array.astype(np.float32)
        finite = np.isfinite(channels)
        if not finite.all():
            channels[~finite] = channels[finite].min() if finite.any() else 0.0
        is_picture = volume.spatial_shape[2] == 1 and volume.num_channels in (3, 4)
        if is_picture:
            channels = channels[:3]
        spacing = volume.geometry.spacing_mm
        if smooth_mm > 0:
            sigmas = [
                smooth_mm / step if n > 1 else 0.0
                for step, n in zip(spacing, volume.spatial_shape, strict=True)
            ]
            channels = np.stack([ndimage.gaussian_filter(part, sigmas) for part in channels])
        grey = np.tensordot(_LUMA, channels, axes=1) if is_picture else channels[0]
        return cls(channels, grey, spacing)

    def coarser(self, max_voxels: int) -> tuple[Picture, tuple[int, int, int]]:
        """Means over blocks of voxels, few enough, and the extent of the blocks.

        The axis with the smallest spacing is halved first, so that voxels become more cubic.
        """
        factors = np.ones(3, int)
        shape = np.array(self.grey.shape)
        while np.prod(-(-shape // factors)) > max_voxels:
            steps = np.where(shape > factors, np.array(self.spacing_mm) * factors, np.inf)
            factors[int(steps.argmin())] *= 2
        if (factors == 1).all():
            return self, (1, 1, 1)
        blocks = (int(factors[0]), int(factors[1]), int(factors[2]))
        channels = np.stack([_block_means(part, blocks) for part in self.channels])
        spacing = tuple(s * f for s, f in zip(self.spacing_mm, blocks, strict=True))
        return Picture(channels, _block_means(self.grey, blocks), spacing), blocks  # type: ignore[arg-type]

    def finer(self, values: NDArray[np.uint8], blocks: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Values of blocks, at each of their voxels."""
        for axis, factor in enumerate(blocks):
            if factor > 1:
                values = values.repeat(factor, axis=axis)
        i, j, k = self.grey.shape
        return values[:i, :j, :k]


def value_range(image: NDArray[np.floating]) -> tuple[float, float]:
    """The 0.1st and 99.9th percentile, so that a piece of metal does not stretch the histogram."""
    step = max(1, image.size // _SAMPLE)
    low, high = np.percentile(image.ravel()[::step], (0.1, 99.9))
    return float(low), float(high)


def histogram(
    values: NDArray[np.floating], weights: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts and middles of equal bins between the percentiles of `value_range`; what lies beyond
    counts in the outermost bins.
    """
    low, high = (
        value_range(values) if weights is None else (float(values.min()), float(values.max()))
    )
    if not high > low:
        return np.array([float(values.size)]), np.array([low])
    counts, edges = np.histogram(
        np.clip(values, low, high), bins=NUM_BINS, range=(low, high), weights=weights
    )
    return counts.astype(np.float64), (edges[:-1] + edges[1:]) / 2


def otsu_bounds(
    counts: NDArray[np.float64], middles: NDArray[np.float64], *, levels: int
) -> NDArray[np.float64]:
    """The values that part a histogram with the least variance within the parts; fewer than
    `levels` - 1 where it has too few values.

    Source: Otsu 1979, IEEE Trans. SMC 9(1):62; Liao et al. 2001, J. Inf. Sci. Eng. 17(5):713.
    """
    filled = np.flatnonzero(counts)
    levels = min(levels, len(filled))
    if levels < 2:
        return np.zeros(0)
    last = filled[_ends_of_parts(counts[filled], filled.astype(np.float64), levels)]
    # The end of the lower part's last bin, so that its values do not exceed the bound.
    return middles[last] + (middles[1] - middles[0]) / 2


def _ends_of_parts(
    counts: NDArray[np.float64], places: NDArray[np.float64], num_parts: int
) -> NDArray[np.intp]:
    """Index of the last place of each part but the last.

    The least variance within parts is the largest sum of (sum of places)^2 / count over them. Where
    the best last part begins depends on nothing after it, so the parts are found one by one.
    """
    before = np.concatenate([[0], counts.cumsum()])
    sums = np.concatenate([[0], (counts * places).cumsum()])
    # Row: first place of a part; column: first place after it.
    mass = before[None] - before[:, None]
    total = sums[None] - sums[:, None]
    share = np.full(mass.shape, -np.inf)
    np.divide(total**2, mass, out=share, where=mass > 0)
    best, starts = share[0], []
    for _ in range(num_parts - 1):
        options = best[:, None] + share
        starts.append(options.argmax(axis=0))
        best = options.max(axis=0)
    ends, after = [], len(counts)
    for start in reversed(starts):
        after = int(start[after])
        ends.append(after - 1)
    return np.array(ends[::-1], np.intp)


def number_levels(image: NDArray[np.floating], bounds: NDArray[np.float64]) -> NDArray[np.uint8]:
    """How many of the ascending bounds each value exceeds."""
    levels = np.zeros(image.shape, np.uint8)
    for bound in bounds:
        levels += image > bound
    return levels


def _block_means(image: NDArray[np.float32], blocks: tuple[int, int, int]) -> NDArray[np.float32]:
    rest = [-n % b for n, b in zip(image.shape, blocks, strict=True)]
    padded = np.pad(image, [(0, n) for n in rest], mode="edge")
    i, j, k = (n // b for n, b in zip(padded.shape, blocks, strict=True))
    parts = padded.reshape(i, blocks[0], j, blocks[1], k, blocks[2])
    return np.asarray(parts.mean(axis=(1, 3, 5)), np.float32)
