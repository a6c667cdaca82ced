"""Levels of intensity parted by thresholds: fixed ones, Otsu's, valleys of the histogram."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.baselines.intensities import (
    Picture,
    histogram,
    number_levels,
    otsu_bounds,
    value_range,
)
from medseg.core.errors import ConfigError

MAX_LEVELS = 16
"""More tissues than brightness alone can part."""


@dataclass(frozen=True)
class Threshold:
    """Levels between fixed values.

    Args:
        bounds: ascending; a value equal to a bound belongs below it.
        unit: "value" takes the image's own unit (HU in CT); "share" counts from the 0.1st (0) to
            the 99.9th (1) percentile of each image, for images without a unit.

    Raises:
        ConfigError: no bounds, or they do not ascend.
    """

    bounds: Sequence[float] = (0.5,)
    unit: Literal["value", "share"] = "share"

    def __post_init__(self) -> None:
        if not self.bounds or any(
            a >= b for a, b in zip(self.bounds, self.bounds[1:], strict=False)
        ):
            raise ConfigError(
                "baseline.method.bounds", f"is {list(self.bounds)}", "give ascending numbers"
            )

    @property
    def levels(self) -> int:
        return len(self.bounds) + 1

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        bounds = np.array(self.bounds, np.float64)
        if self.unit == "share":
            low, high = value_range(picture.grey)
            bounds = low + bounds * (high - low)
        return number_levels(picture.grey, bounds)


@dataclass(frozen=True)
class Otsu:
    """Levels with the least variance within each; two levels are Otsu's method, more multi-Otsu.

    Args:
        levels: 2 to 16.
    """

    levels: int = 2

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        return number_levels(
            picture.grey, otsu_bounds(*histogram(picture.grey), levels=self.levels)
        )


@dataclass(frozen=True)
class HistogramPeaks:
    """One level for each peak of the histogram, parted at the lowest points between them.

    The histogram, as the square root of counts, is smoothed until no more than `levels` peaks are
    left; a histogram of fewer peaks gives fewer levels.

    Args:
        levels: 2 to 16.

    Source: Prewitt and Mendelsohn 1966, Ann. N. Y. Acad. Sci. 128(3):1035, for two peaks.
    """

    levels: int = 2

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        counts, middles = histogram(picture.grey)
        # The outermost bins hold what was clipped; a peak of air may stand there.
        curve = np.pad(np.sqrt(counts), len(counts) // 2 + 1)
        start = len(counts) // 2 + 1
        sigma = 1.0
        while True:
            smooth = ndimage.gaussian_filter1d(curve, sigma)
            peaks = np.flatnonzero((smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:])) + 1
            if len(peaks) <= self.levels:
                break
            sigma *= 1.15
        valleys = [
            left + int(smooth[left : right + 1].argmin())
            for left, right in itertools.pairwise(peaks)
        ]
        inside = np.clip(np.array(valleys, int) - start, 0, len(middles) - 1)
        return number_levels(picture.grey, middles[inside])


def check_levels(levels: int) -> None:
    """Raises a ConfigError unless there are 2 to 16 levels."""
    if not 2 <= levels <= MAX_LEVELS:
        raise ConfigError("baseline.method.levels", f"is {levels}", f"use 2 to {MAX_LEVELS}")
