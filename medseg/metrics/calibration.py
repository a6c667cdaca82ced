"""Whether probabilities are as often right as they say: calibration error and Brier score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""Bins of the confidence, as in Guo et al. 2017."""


def expected_calibration_error(
    probabilities: NDArray[np.floating], classes: NDArray[Any], *, num_bins: int = NUM_BINS
) -> float:
    """Mean gap between how sure and how often right the likeliest class is, in [0, 1].

    Samples are sorted into equal bins of their highest probability; the gap of each bin counts by
    its number of samples.

    Args:
        probabilities: (n, C), rows add up to 1.
        classes: (n,) true class numbers.
        num_bins: equal bins from 0 to 1, closed above.

    Source: Guo et al. 2017, ICML; Naeini et al. 2015, AAAI.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    is_right = probabilities.argmax(axis=1) == classes
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    surplus = np.bincount(bins, confidence - is_right, minlength=num_bins)
    return float(np.abs(surplus).sum() / max(1, len(classes)))


def brier_score(probabilities: NDArray[np.floating], classes: NDArray[Any]) -> float:
    """Mean over the samples of the squared distance to the true class's corner, in [0, 2].

    Args:
        probabilities: (n, C), rows add up to 1.
        classes: (n,) true class numbers.

    Source: Brier 1950, Monthly Weather Review 78(1):1.
    """
    squares = (probabilities.astype(np.float64) ** 2).sum(axis=1)
    hit = probabilities[np.arange(len(classes)), classes].astype(np.float64)
    return float((squares - 2 * hit + 1).mean()) if len(classes) else float("nan")
