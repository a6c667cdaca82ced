"""How far scores of objects would differ with other cases: whole cases are drawn with replacement.

Objects of a case are drawn together, for they share the image, and each draw's score is computed
from all its objects, as the score itself is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.detection import EVERY_SIZE, RECALLS, HitCounts, judged_objects
from medseg.metrics.object_pairs import ObjectPairs
from medseg.metrics.summary import case_draws, percentile_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn.

    Args:
        confidence: of the intervals.
        num_resamples: draws.
        seed: of the draws; the same seed draws the same cases.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """

    confidence: float = 0.95
    num_resamples: int = 2000
    seed: int = 0

    def draws(self, num_cases: int) -> Floats:
        """How often each case is drawn, shape (draws, cases)."""
        return case_draws(num_cases, num_resamples=self.num_resamples, seed=self.seed)

    def interval(self, values: Floats, num_cases: int) -> tuple[float, float]:
        """Percentiles of the scores of the draws; nan below two cases."""
        if num_cases < 2:
            return float("nan"), float("nan")
        return percentile_interval(values, tail=50 * (1 - self.confidence))


def resampled_hits(cases: Sequence[HitCounts], draws: Floats) -> dict[str, Floats]:
    """Accuracy, F1 and panoptic quality (pq, sq, rq) of each draw, nan where it has no object.

    Args:
        cases: hits of each case; for pq those of pairs above an IoU of 0.5.
        draws: see `Bootstrap.draws`.
    """
    table = [
        [case.true_positives, case.false_positives, case.false_negatives, case.iou]
        for case in cases
    ]
    hits, wrong, missed, iou = (draws @ np.array(table, np.float64).reshape(-1, 4)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        f1 = 2 * hits / (2 * hits + wrong + missed)
        return {
            "accuracy": hits / (hits + wrong + missed),
            "f1": f1,
            "pq": iou / (hits + (wrong + missed) / 2),
            "sq": iou / hits,
            "rq": f1,
        }


def resampled_shares(parts: Sequence[int], wholes: Sequence[int], draws: Floats) -> Floats:
    """Sum of the parts over the sum of the wholes in each draw."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Floats = (draws @ np.asarray(parts)) / (draws @ np.asarray(wholes))
    return shares


def resampled_average_precision(
    cases: Sequence[ObjectPairs], threshold: float, draws: Floats
) -> Floats:
    """Average precision of each draw, as `average_precision` gives it of the cases drawn; objects
    of one case with equal scores may be taken in another order.

    Args:
        cases: of one class.
        threshold: least IoU of a hit.
        draws: see `Bootstrap.draws`.
    """
    judged = [judged_objects([pairs], threshold, EVERY_SIZE) for pairs in cases]
    if not judged:
        return np.full(len(draws), np.nan)
    hits = np.concatenate([case[0] for case in judged])
    counted = np.concatenate([case[1] for case in judged])
    scores = np.concatenate([case[2] for case in judged])
    case_of = np.repeat(np.arange(len(cases)), [len(case[0]) for case in judged])
    wanted = draws @ np.array([case[3] for case in judged], np.float64)
    order = np.argsort(-scores, kind="stable")
    order = order[counted[order]]
    hits, case_of = hits[order].astype(np.float64), case_of[order]
    found = np.full(len(draws), np.nan)
    for n in np.flatnonzero(wanted):
        # An object of a case drawn twice counts twice; the steps between are never the largest.
        times = draws[n, case_of]
        true_positives, total = np.cumsum(times * hits), np.cumsum(times)
        precision = true_positives / np.maximum(total, 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(true_positives / wanted[n], RECALLS, side="left")
        found[n] = np.concatenate([envelope, [0.0]])[places].mean()
    return found
