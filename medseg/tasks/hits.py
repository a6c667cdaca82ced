"""Validation counts of objects and what they say: hits, misses and overlap at an IoU of a half."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.metrics.detection import HitCounts, hit_counts
from medseg.metrics.object_pairs import ObjectPairs

IOU = 0.5


def counts_of(pairs: Sequence[ObjectPairs], *, strict: bool = False) -> Tensor:
    """True positives, false positives, false negatives and summed IoU of each class, (classes, 4)
    float64.
    """
    rows = []
    for found in pairs:
        hits = hit_counts(found, IOU, strict=strict)
        rows.append([hits.true_positives, hits.false_positives, hits.false_negatives, hits.iou])
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def hits_of(row: Tensor) -> HitCounts:
    """The counts of one class."""
    right, wrong, missed, iou = row.tolist()
    return HitCounts(int(right), int(wrong), int(missed), iou)
