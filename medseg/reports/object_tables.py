"""Scores of objects as files (CSV, JSON) for programs and as a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

import medseg
from medseg.core.atomic import write_text
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
from medseg.metrics.object_pairs import ObjectPairs
from medseg.metrics.panoptic import mean_quality, panoptic_quality
from medseg.reports.object_evaluation import ObjectEvaluation

FORMAT_VERSION = 1
_SIZES = ("small", "medium", "large")
_COLUMNS = (
    "case", "label", "class_id", "references", "predictions", "true_positives", "false_positives",
    "false_negatives", "accuracy", "sensitivity", "precision", "f1", "mean_iou", "lesion_f1",
)  # fmt: skip


def summary_of(evaluation: ObjectEvaluation) -> dict[str, Any]:
    """All scores as plain data; nan is None."""
    settings = evaluation.settings
    labels = {
        evaluation.labels.names[class_id]: _class_scores(cases, evaluation)
        for class_id, cases in evaluation.things.items()
    }
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": "objects",
        "num_cases": evaluation.num_cases,
        "labels": labels,
        "settings": asdict(settings),
        "definitions": "docs/metrics.md, section Objects",
        "problems": [asdict(problem) for problem in evaluation.problems],
        "missing_predictions": list(evaluation.missing),
        "predictions_without_reference": list(evaluation.unmatched),
        "versions": {"medseg": medseg.__version__},
    }
    if evaluation.panoptic:
        kept = {
            class_id: [pairs.above(settings.min_score) for pairs in cases]
            for class_id, cases in evaluation.panoptic.items()
        }
        qualities = {class_id: panoptic_quality(cases) for class_id, cases in kept.items()}
        content["panoptic"] = {
            "mean": asdict(mean_quality(list(qualities.values()))),
            **{
                evaluation.labels.names[class_id]: asdict(quality)
                for class_id, quality in qualities.items()
            },
        }
    plain: dict[str, Any] = _without_nan(content)
    return plain


def write_object_scores(
    evaluation: ObjectEvaluation, folder: str | Path, *, model: Mapping[str, Any] | None = None
) -> list[Path]:
    """Writes scores.csv (one row per case and class, at an IoU of 0.5) and scores.json.

    Args:
        evaluation: the overlaps.
        folder: made if it is missing.
        model: plain facts about the model that predicted.
    """
    root = Path(folder)
    content = {**summary_of(evaluation), "model": dict(model) if model is not None else None}
    write_text(root / "scores.csv", _csv(evaluation))
    write_text(root / "scores.json", json.dumps(content, indent=1) + "\n")
    return [root / "scores.csv", root / "scores.json"]


def object_table(evaluation: ObjectEvaluation, *, title: str | None = None) -> Table:
    """What a person looks at first."""
    content = summary_of(evaluation)
    lesion = f"F1 at\nIoU {evaluation.settings.lesion_iou:g}"
    headings = ["objects", "found", "AP50", "AP", "TP/(TP+FP+FN)\nat IoU 0.5", lesion]
    has_panoptic = "panoptic" in content
    table = Table(title=title or "objects", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("label", overflow="fold")
    for heading in [*headings, *(["PQ", "SQ", "RQ"] if has_panoptic else [])]:
        table.add_column(heading, justify="right")
    names = [label.name for label in evaluation.labels.foreground]
    for name in names:
        scores = content["labels"].get(name)
        quality = content.get("panoptic", {}).get(name)
        if scores is None and quality is None:
            continue
        cells = [""] * len(headings)
        if scores is not None:
            at_half = scores["iou"]["0.50"]
            cells = [
                str(scores["num_references"]),
                str(at_half["true_positives"]),
                _cell(scores["ap50"]),
                _cell(scores["ap"]),
                _cell(at_half["accuracy"]),
                _cell(scores["lesion"]["f1"]),
            ]
        if has_panoptic:
            quality = quality or {}
            cells += [_cell(quality.get(key)) for key in ("pq", "sq", "rq")]
        table.add_row(name, *cells)
    return table


def _class_scores(cases: Sequence[ObjectPairs], evaluation: ObjectEvaluation) -> dict[str, Any]:
    settings = evaluation.settings
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
        "froc": {
            "iou": settings.lesion_iou,
            "false_positives_per_image": list(FROC_RATES),
            "sensitivity": list(sensitivities),
            "mean": _mean(sensitivities),
        },
        "sizes": _by_size(cases, kept, evaluation),
    }


def _by_size(
    cases: Sequence[ObjectPairs], kept: Sequence[ObjectPairs], evaluation: ObjectEvaluation
) -> list[dict[str, Any]]:
    """AP and sensitivity of the reference objects of each range of volumes."""
    sizes = np.concatenate([pairs.reference_mm3 for pairs in cases]) if cases else np.zeros(0)
    edges = evaluation.settings.size_edges_mm3
    if edges is None:
        edges = np.unique(np.quantile(sizes, (1 / 3, 2 / 3))).tolist() if len(sizes) else []
    limits = [0.0, *edges, math.inf]
    rows = []
    for n, (low, high) in enumerate(pairwise(limits)):
        # Each object belongs to one range: the upper limit is the next range's lower.
        upper = high if math.isinf(high) else float(np.nextafter(high, 0))
        found = wanted = 0
        for pairs in kept:
            inside = (pairs.reference_mm3 >= low) & (pairs.reference_mm3 <= upper)
            matches = match_by_iou(pairs, evaluation.settings.lesion_iou)
            found += int(inside[matches[matches >= 0]].sum())
            wanted += int(inside.sum())
        rows.append(
            {
                "name": _SIZES[n] if len(limits) == 4 else f"size_{n + 1}",
                "from_mm3": low,
                "below_mm3": high,
                "num_references": wanted,
                "sensitivity": found / wanted if wanted else math.nan,
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


def _csv(evaluation: ObjectEvaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    settings = evaluation.settings
    for class_id, cases in evaluation.things.items():
        for pairs in cases:
            kept = pairs.above(settings.min_score)
            counts = hit_counts(kept, 0.5)
            mean_iou = counts.iou / counts.true_positives if counts.true_positives else math.nan
            writer.writerow(
                [
                    pairs.case,
                    evaluation.labels.names[class_id],
                    class_id,
                    len(kept.reference_mm3),
                    len(kept.scores),
                    counts.true_positives,
                    counts.false_positives,
                    counts.false_negatives,
                    counts.accuracy,
                    counts.sensitivity,
                    counts.precision,
                    counts.f1,
                    mean_iou,
                    hit_counts(kept, settings.lesion_iou).f1,
                ]
            )
    return text.getvalue()


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


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
