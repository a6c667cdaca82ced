"""Two predictions of the same cases: the mean difference with its interval, and Wilcoxon's test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first, over the cases where both have a value.

    Args:
        num_cases: how many those are.
        first, second: mean of each over these cases; nan without cases.
        difference: mean of the differences.
        low, high: percentile bootstrap interval of that mean, cases drawn with replacement; nan
            below two cases.
        num_higher, num_lower: cases where the second value is higher, or lower.
        p_value: two-sided Wilcoxon signed-rank test; 1 if no case differs, nan below two cases.
    """

    num_cases: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    num_higher: int
    num_lower: int
    p_value: float


def paired_difference(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compares two lists of values of the same cases, in the same order.

    Cases where either value is not finite are left out.

    Args:
        first, second: one value per case.
        confidence: of the interval.
        num_resamples, seed: of the bootstrap.

    Source: Wilcoxon 1945, Biometrics Bulletin 1(6):80; ties and zeros as in Pratt 1959, JASA
    54(287):655.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    nan = float("nan")
    if not len(a):
        return PairedDifference(0, nan, nan, nan, nan, nan, 0, 0, nan)
    gaps = b - a
    low = high = p_value = nan
    if len(gaps) > 1:
        draws = np.random.default_rng(seed).multinomial(
            len(gaps), np.full(len(gaps), 1 / len(gaps)), size=num_resamples
        )
        tail = 50 * (1 - confidence)
        low, high = np.percentile(draws @ gaps / len(gaps), [tail, 100 - tail])
        p_value = float(wilcoxon(gaps, zero_method="pratt").pvalue) if gaps.any() else 1.0
    return PairedDifference(
        len(gaps),
        float(a.mean()),
        float(b.mean()),
        float(gaps.mean()),
        float(low),
        float(high),
        int((gaps > 0).sum()),
        int((gaps < 0).sum()),
        p_value,
    )


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """P values that may be compared with a level although several tests were made; nan stays.

    Source: Holm 1979, Scand. J. Statist. 6(2):65.
    """
    known = [n for n, value in enumerate(p_values) if np.isfinite(value)]
    adjusted = [float("nan")] * len(p_values)
    highest = 0.0
    for rank, n in enumerate(sorted(known, key=lambda n: p_values[n])):
        highest = max(highest, min(1.0, (len(known) - rank) * p_values[n]))
        adjusted[n] = highest
    return adjusted
