"""Validation counts of objects and what they say: hits, misses and overlap at an IoU of a half, and
the score from which on objects are best kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.metrics.detection import HitCounts, hit_counts
from medseg.metrics.object_pairs import ObjectPairs

IOU = 0.5
FOUND_IOU = 0.1
"""From which a lesion counts as found (docs/metrics.md)."""
SCORES = tuple(n / 20 for n in range(1, 20))
"""Least scores that are tried."""
USUAL_SCORE = 0.5
SMOOTHINGS = 3
"""Averages over neighbours, with weights 1, 2 and 1 (docs/benchmarks.md compares)."""


def counts_of(
    pairs: Sequence[ObjectPairs], *, least_iou: float = IOU, strict: bool = False
) -> Tensor:
    """True positives, false positives, false negatives and summed IoU of each class, (classes, 4)
    float64.
    """
    rows = []
    for found in pairs:
        hits = hit_counts(found, least_iou, strict=strict)
        rows.append([hits.true_positives, hits.false_positives, hits.false_negatives, hits.iou])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def counts_by_score(pairs: Sequence[ObjectPairs]) -> Tensor:
    """The same at IOU and at FOUND_IOU from each of SCORES on: (2, scores, classes, 4)."""
    kept = [[found.above(least) for found in pairs] for least in SCORES]
    return torch.stack(
        [
            torch.stack([counts_of(found, least_iou=least_iou) for found in kept])
            for least_iou in (IOU, FOUND_IOU)
        ]
    )


def best_score(counts: Tensor) -> float:
    """The one of SCORES from which on objects are best kept.

    That is where F1, the mean of the classes that occur at IOU and at FOUND_IOU, is highest: at the
    one objects are outlined, at the other found. F1 is averaged over neighbouring scores, since a
    single object of a few cases is enough to make a peak; of equally good scores the one nearest
    to a half is taken. It is a half where nothing is known.

    Args:
        counts: summed ones of `counts_by_score`.
    """
    right, wrong, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    occurs = (right + missed)[0, 0] > 0  # the same from each score on, and at each IoU
    if not occurs.any():
        return USUAL_SCORE
    f1 = 2 * right / (2 * right + wrong + missed).clamp_min(1)
    f1 = f1[..., occurs].mean((0, 2))  # (scores,)
    for _ in range(SMOOTHINGS):
        around = torch.cat((f1[:1], f1, f1[-1:]))
        f1 = (around[:-2] + 2 * around[1:-1] + around[2:]) / 4
    least = float(f1.max()) - 1e-9
    best = [score for score, value in zip(SCORES, f1.tolist(), strict=True) if value >= least]
    return min(best, key=lambda score: abs(score - USUAL_SCORE))


def hits_of(row: Tensor) -> HitCounts:
    """The counts of one class."""
    right, wrong, missed, iou = row.tolist()
    return HitCounts(int(right), int(wrong), int(missed), iou)
