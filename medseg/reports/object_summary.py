"""Scores of objects from their overlaps: of each case, and of all cases with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import medseg
from medseg.metrics.detection import (
    COCO_THRESHOLDS,
    FROC_RATES,
    IOU_THRESHOLDS,
    HitCounts,
    average_precision,
    froc,
    hit_counts,
    match_by_iou,
)
from medseg.metrics.object_bootstrap import (
    Bootstrap,
    resampled_average_precision,
    resampled_hits,
    resampled_shares,
)
from medseg.metrics.object_pairs import ObjectPairs
from medseg.metrics.panoptic import MATCHED_ABOVE, PanopticQuality, mean_quality, panoptic_quality
from medseg.reports.object_evaluation import ObjectEvaluation, ObjectSettings

FORMAT_VERSION = 1
QUALITIES = ("pq", "sq", "rq")
_SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class ObjectCaseScore:
    """Objects of one class in one case, at an IoU of 0.5 where nothing else is said.

    Args:
        case, label, class_id: what it is about.
        references, predictions: how many objects there are.
        true_positives, false_positives, false_negatives: pairs and what is left of either.
        accuracy, sensitivity, precision, f1: of these counts.
        mean_iou: of the pairs.
        lesion_f1: at the IoU of a found lesion.
        pq: panoptic quality.
    """

    case: str
    label: str
    class_id: int
    references: int
    predictions: int
    true_positives: int
    false_positives: int
    false_negatives: int
    accuracy: float
    sensitivity: float
    precision: float
    f1: float
    mean_iou: float
    lesion_f1: float
    pq: float


def case_scores(evaluation: ObjectEvaluation) -> list[ObjectCaseScore]:
    """One for each class and case, without objects of a low score."""
    settings = evaluation.settings
    found = []
    for class_id, cases in evaluation.things.items():
        for pairs in cases:
            kept = pairs.above(settings.min_score)
            counts = hit_counts(kept, 0.5)
            hits = counts.true_positives
            found.append(
                ObjectCaseScore(
                    pairs.case,
                    evaluation.labels.names[class_id],
                    class_id,
                    len(kept.reference_mm3),
                    len(kept.scores),
                    hits,
                    counts.false_positives,
                    counts.false_negatives,
                    counts.accuracy,
                    counts.sensitivity,
                    counts.precision,
                    counts.f1,
                    counts.iou / hits if hits else math.nan,
                    hit_counts(kept, settings.lesion_iou).f1,
                    panoptic_quality([kept]).pq,
                )
            )
    return found


def summary_of(evaluation: ObjectEvaluation) -> dict[str, Any]:
    """All scores as plain data; nan is None."""
    settings = evaluation.settings
    labels = {
        evaluation.labels.names[class_id]: {
            **class_scores(cases, settings, evaluation.bootstrap),
            "sizes": _by_size(cases, settings, evaluation.bootstrap),
        }
        for class_id, cases in evaluation.things.items()
    }
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": "objects",
        "num_cases": evaluation.num_cases,
        "labels": labels,
        "settings": asdict(settings),
        "bootstrap": asdict(evaluation.bootstrap),
        "definitions": "docs/metrics.md, section Objects",
        "problems": [asdict(problem) for problem in evaluation.problems],
        "missing_predictions": list(evaluation.missing),
        "predictions_without_reference": list(evaluation.unmatched),
        "versions": {"medseg": medseg.__version__},
    }
    if evaluation.panoptic:
        content["panoptic"] = _panoptic(evaluation)
    plain: dict[str, Any] = _without_nan(content)
    return plain


def class_scores(
    cases: Sequence[ObjectPairs], settings: ObjectSettings, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Scores of one class over all cases together, and the intervals of some of them."""
    kept = [pairs.above(settings.min_score) for pairs in cases]
    precision = {threshold: average_precision(cases, threshold) for threshold in IOU_THRESHOLDS}
    at_threshold = {}
    for threshold in IOU_THRESHOLDS:
        per_case = [hit_counts(pairs, threshold) for pairs in kept]
        at_threshold[f"{threshold:.2f}"] = {
            "ap": precision[threshold],
            **_hits(sum(per_case, HitCounts())),
            "accuracy_mean_over_cases": _mean([counts.accuracy for counts in per_case]),
        }
    sensitivities = froc(cases, settings.lesion_iou)
    lesion = sum((hit_counts(pairs, settings.lesion_iou) for pairs in kept), HitCounts())
    return {
        "num_references": sum(len(pairs.reference_mm3) for pairs in cases),
        "num_predictions": sum(len(pairs.scores) for pairs in cases),
        "ap50": precision[0.5],
        "ap": _mean([precision[threshold] for threshold in COCO_THRESHOLDS]),
        "ap_10_95": _mean(list(precision.values())),
        "iou": at_threshold,
        "lesion": {"iou": settings.lesion_iou, **_hits(lesion)},
        **asdict(panoptic_quality(kept)),
        "intervals": _intervals(cases, kept, settings, bootstrap),
        "froc": {
            "iou": settings.lesion_iou,
            "false_positives_per_image": list(FROC_RATES),
            "sensitivity": list(sensitivities),
            "mean": _mean(sensitivities),
        },
    }


def _intervals(
    cases: Sequence[ObjectPairs],
    kept: Sequence[ObjectPairs],
    settings: ObjectSettings,
    bootstrap: Bootstrap,
) -> dict[str, tuple[float, float]]:
    draws = bootstrap.draws(len(cases))
    at_half = resampled_hits([hit_counts(pairs, 0.5) for pairs in kept], draws)
    lesion = resampled_hits([hit_counts(pairs, settings.lesion_iou) for pairs in kept], draws)
    quality = _resampled_quality(kept, bootstrap)
    drawn = {
        "ap50": resampled_average_precision(cases, 0.5, draws),
        "accuracy": at_half["accuracy"],
        "f1": at_half["f1"],
        "lesion_f1": lesion["f1"],
        **{name: quality[name] for name in QUALITIES},
    }
    return {name: bootstrap.interval(values, len(cases)) for name, values in drawn.items()}


def _resampled_quality(
    kept: Sequence[ObjectPairs], bootstrap: Bootstrap
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    hits = [hit_counts(pairs, MATCHED_ABOVE, strict=True) for pairs in kept]
    return resampled_hits(hits, bootstrap.draws(len(kept)))


def _panoptic(evaluation: ObjectEvaluation) -> dict[str, Any]:
    """Quality of things and stuff, and its mean over these classes."""
    bootstrap = evaluation.bootstrap
    kept = {
        class_id: [pairs.above(evaluation.settings.min_score) for pairs in cases]
        for class_id, cases in evaluation.panoptic.items()
    }
    num_cases = max(len(cases) for cases in kept.values())
    qualities = {class_id: panoptic_quality(cases) for class_id, cases in kept.items()}
    drawn = {class_id: _resampled_quality(cases, bootstrap) for class_id, cases in kept.items()}
    # Every class has an entry for each case, so that a draw is the same for all of them.
    means = {
        name: np.ma.masked_invalid([one[name] for one in drawn.values()]).mean(axis=0)
        for name in QUALITIES
    }

    def entry(quality: PanopticQuality, values: Mapping[str, Any]) -> dict[str, Any]:
        intervals = {name: bootstrap.interval(values[name], num_cases) for name in QUALITIES}
        return {**asdict(quality), "intervals": intervals}

    filled = {name: np.ma.filled(values, math.nan) for name, values in means.items()}
    return {
        "mean": entry(mean_quality(list(qualities.values())), filled),
        **{
            evaluation.labels.names[class_id]: entry(quality, drawn[class_id])
            for class_id, quality in qualities.items()
        },
    }


def _by_size(
    cases: Sequence[ObjectPairs], settings: ObjectSettings, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """AP and sensitivity of the reference objects of each range of volumes."""
    kept = [pairs.above(settings.min_score) for pairs in cases]
    sizes = np.concatenate([pairs.reference_mm3 for pairs in cases]) if cases else np.zeros(0)
    edges = settings.size_edges_mm3
    if edges is None:
        edges = np.unique(np.quantile(sizes, (1 / 3, 2 / 3))).tolist() if len(sizes) else []
    limits = [0.0, *edges, math.inf]
    draws = bootstrap.draws(len(cases))
    rows = []
    for n, (low, high) in enumerate(pairwise(limits)):
        # Each object belongs to one range: the upper limit is the next range's lower.
        upper = high if math.isinf(high) else float(np.nextafter(high, 0))
        found, wanted = [], []
        for pairs in kept:
            inside = (pairs.reference_mm3 >= low) & (pairs.reference_mm3 <= upper)
            matches = match_by_iou(pairs, settings.lesion_iou)
            found.append(int(inside[matches[matches >= 0]].sum()))
            wanted.append(int(inside.sum()))
        drawn = resampled_shares(found, wanted, draws)
        rows.append(
            {
                "name": _SIZES[n] if len(limits) == 4 else f"size_{n + 1}",
                "from_mm3": low,
                "below_mm3": high,
                "num_references": sum(wanted),
                "sensitivity": sum(found) / sum(wanted) if sum(wanted) else math.nan,
                "sensitivity_interval": bootstrap.interval(drawn, len(cases)),
                "ap50": average_precision(cases, 0.5, size_mm3=(low, upper)),
            }
        )
    return rows


def _hits(counts: HitCounts) -> dict[str, Any]:
    return {
        "true_positives": counts.true_positives,
        "false_positives": counts.false_positives,
        "false_negatives": counts.false_negatives,
        "accuracy": counts.accuracy,
        "sensitivity": counts.sensitivity,
        "precision": counts.precision,
        "f1": counts.f1,
    }


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
