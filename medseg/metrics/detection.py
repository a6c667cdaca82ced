"""How well objects are found: average precision, counts of hits, and FROC.

The rules by which objects are matched are in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.object_pairs import ObjectPairs

IOU_THRESHOLDS = tuple(n / 20 for n in range(2, 20))
"""0.10, 0.15, ... 0.95."""
COCO_THRESHOLDS = IOU_THRESHOLDS[8:]
"""0.50, 0.55, ... 0.95 (Lin et al. 2014)."""
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per image (van Ginneken et al. 2010)."""

RECALLS = np.linspace(0, 1, 101)
EVERY_SIZE = (0.0, np.inf)

Matches = NDArray[np.int64]


@dataclass(frozen=True)
class HitCounts:
    """Objects that were found and not found.

    Args:
        true_positives, false_positives, false_negatives: matched pairs, unmatched predictions,
            unmatched references.
        iou: sum over the matched pairs.
    """

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    iou: float = 0.0

    def __add__(self, other: HitCounts) -> HitCounts:
        return HitCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
            self.iou + other.iou,
        )

    @property
    def precision(self) -> float:
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def sensitivity(self) -> float:
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        missed = self.false_positives + self.false_negatives
        return _ratio(2 * self.true_positives, 2 * self.true_positives + missed)

    @property
    def accuracy(self) -> float:
        """TP / (TP + FP + FN), called average precision by the Data Science Bowl 2018."""
        total = self.true_positives + self.false_positives + self.false_negatives
        return _ratio(self.true_positives, total)


def match_by_iou(pairs: ObjectPairs, threshold: float, *, strict: bool = False) -> Matches:
    """Reference object of each predicted one, -1 for none; pairs of the largest IoU first.

    From an IoU of 0.5 on, objects that do not overlap each other have one possible partner at most.

    Args:
        pairs: of one case and class.
        threshold: least IoU of a pair.
        strict: the IoU must be above it.
    """
    possible = pairs.iou > threshold if strict else pairs.iou >= threshold
    order = np.lexsort((pairs.reference, pairs.prediction, -pairs.iou))
    return _take_in_order(pairs, order[possible[order]])


def match_by_score(
    pairs: ObjectPairs, threshold: float, *, optional: NDArray[np.bool_] | None = None
) -> Matches:
    """Reference object of each predicted one, -1 for none; predictions of the highest score first.

    Each takes the free reference object of the largest IoU, and an optional one only where no other
    is left (as COCO's evaluation).

    Args:
        pairs: of one case and class.
        threshold: least IoU of a pair.
        optional: reference objects that need not be found, shape (r,).
    """
    # COCO takes 1 - 1e-10 for an IoU of 1.
    possible = pairs.iou >= min(threshold, 1 - 1e-10)
    rank = np.empty(len(pairs.scores), np.int64)
    rank[np.argsort(-pairs.scores, kind="stable")] = np.arange(len(pairs.scores))
    last = np.zeros(len(pairs.reference_mm3), np.bool_) if optional is None else optional
    # Of equal pairs COCO takes the last reference object.
    order = np.lexsort(
        (-pairs.reference, -pairs.iou, last[pairs.reference], rank[pairs.prediction])
    )
    return _take_in_order(pairs, order[possible[order]])


def hit_counts(pairs: ObjectPairs, threshold: float, *, strict: bool = False) -> HitCounts:
    """Objects found and not found in one case; see `match_by_iou`."""
    matches = match_by_iou(pairs, threshold, strict=strict)
    found = matches >= 0
    iou = 0.0
    if found.any():
        possible = matches[pairs.prediction] == pairs.reference
        iou = float(pairs.iou[possible].sum())
    return HitCounts(
        int(found.sum()),
        int((~found & ~pairs.unjudged).sum()),
        len(pairs.reference_mm3) - int(found.sum()),
        iou,
    )


def average_precision(
    cases: Sequence[ObjectPairs],
    threshold: float,
    *,
    size_mm3: tuple[float, float] = EVERY_SIZE,
) -> float:
    """Area below precision over recall as COCO computes it: the largest precision at each of 101
    recalls or above it, averaged.

    Args:
        cases: of one class, in any number of images.
        threshold: least IoU of a hit.
        size_mm3: least and largest volume; reference objects of others need not be found, and
            predicted ones of others are not counted unless they hit one of these.

    Returns:
        Value in [0, 1]; nan if there is no reference object of such a size.
    """
    hits, counted, scores, wanted = judged_objects(cases, threshold, size_mm3)
    if not wanted:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    order = order[counted[order]]
    true_positives = np.cumsum(hits[order])
    recall = true_positives / wanted
    precision = true_positives / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    reached = np.concatenate([envelope, [0.0]])[places]
    return float(reached.mean())


def froc(
    cases: Sequence[ObjectPairs], threshold: float, *, rates: Sequence[float] = FROC_RATES
) -> tuple[float, ...]:
    """Share of the reference objects found at given numbers of false positives per image.

    Args:
        cases: of one class; an image without objects counts as an image.
        threshold: least IoU of a hit.
        rates: false positives per image; the sensitivity is the largest that no more of them give.

    Returns:
        One value for each rate; nan without reference objects.
    """
    hits, counted, scores, wanted = judged_objects(cases, threshold, EVERY_SIZE)
    if not wanted:
        return (float("nan"),) * len(rates)
    order = np.argsort(-scores, kind="stable")
    order = order[counted[order]]
    found = np.concatenate([[0], np.cumsum(hits[order])])
    wrong = np.concatenate([[0], np.cumsum(~hits[order])]) / len(cases)
    # Objects of one score are taken or left together.
    ends = np.concatenate([[True], np.diff(scores[order]) != 0, [True]])[: len(found)]
    ends[-1] = True
    found, wrong = found[ends], wrong[ends]
    return tuple(float(found[wrong <= rate].max() / wanted) for rate in rates)


def judged_objects(
    cases: Sequence[ObjectPairs], threshold: float, size_mm3: tuple[float, float]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.floating], int]:
    """Of the predicted objects of all cases: which hit, which count, their scores; and the number
    of reference objects to be found.
    """
    hits, counted, scores, wanted = [], [], [], 0
    for pairs in cases:
        optional = _outside(pairs.reference_mm3, size_mm3)
        matches = match_by_score(pairs, threshold, optional=optional)
        is_matched = matches >= 0
        is_optional = np.zeros(len(matches), np.bool_)
        is_optional[is_matched] = optional[matches[is_matched]]
        # Nobody can tell whether an object in unannotated voxels, or one of another size, is wrong.
        leaves_out = pairs.unjudged | _outside(pairs.prediction_mm3, size_mm3)
        hits.append(is_matched & ~is_optional)
        counted.append(~is_optional & (is_matched | ~leaves_out))
        scores.append(pairs.scores)
        wanted += int((~optional).sum())
    if not hits:
        nothing = np.zeros(0, np.bool_)
        return nothing, nothing, np.zeros(0), 0
    return np.concatenate(hits), np.concatenate(counted), np.concatenate(scores), wanted


def _take_in_order(pairs: ObjectPairs, order: NDArray[np.int64]) -> Matches:
    """Each pair whose two objects are still free, in the order given."""
    matches = np.full(len(pairs.scores), -1, np.int64)
    reference, prediction = pairs.reference[order], pairs.prediction[order]
    if _all_different(reference) and _all_different(prediction):
        matches[prediction] = reference
        return matches
    taken = np.zeros(len(pairs.reference_mm3), np.bool_)
    for first, second in zip(reference.tolist(), prediction.tolist(), strict=True):
        if matches[second] < 0 and not taken[first]:
            matches[second] = first
            taken[first] = True
    return matches


def _all_different(numbers: NDArray[np.int64]) -> bool:
    return len(np.unique(numbers)) == len(numbers)


def _outside(sizes: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    return np.asarray((sizes < limits[0]) | (sizes > limits[1]))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
