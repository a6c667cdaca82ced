"""Scores of objects as files (CSV, JSON) for programs and as a table for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from medseg.core.atomic import write_text
from medseg.reports.object_evaluation import ObjectEvaluation
from medseg.reports.object_summary import QUALITIES, ObjectCaseScore, case_scores


def write_object_scores(
    evaluation: ObjectEvaluation,
    summary: Mapping[str, Any],
    folder: str | Path,
    *,
    model: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes scores.csv (one row per case and class, at an IoU of 0.5) and scores.json.

    Args:
        evaluation: the overlaps.
        summary: `summary_of` them.
        folder: made if it is missing.
        model: plain facts about the model that predicted.
    """
    root = Path(folder)
    content = {**summary, "model": dict(model) if model is not None else None}
    write_text(root / "scores.csv", _csv(case_scores(evaluation)))
    write_text(root / "scores.json", json.dumps(content, indent=1) + "\n")
    return [root / "scores.csv", root / "scores.json"]


def read_object_scores(path: str | Path) -> dict[str, Any] | None:
    """The summary in a scores.json; None if the file holds scores of another kind."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    is_one = isinstance(content, dict) and content.get("kind") == "objects"
    return content if is_one else None


def object_table(summary: Mapping[str, Any], *, title: str | None = None) -> Table:
    """What a person looks at first: scores over all objects, with their bootstrap intervals."""
    lesion = f"F1 at\nIoU {summary['settings']['lesion_iou']:g}"
    table = Table(title=title or "objects", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("label", overflow="fold")
    for heading in ("objects", "found", "AP50", "AP", "TP/(TP+FP+FN)\nat IoU 0.5", lesion):
        table.add_column(heading, justify="right")
    for heading in QUALITIES:
        table.add_column(heading.upper(), justify="right")
    for name, scores in shown_classes(summary).items():
        intervals = scores["intervals"]
        cells = [Text("")] * 6
        if "iou" in scores:
            at_half = scores["iou"]["0.50"]
            cells = [
                Text(str(scores["num_references"])),
                Text(str(at_half["true_positives"])),
                _cell(scores["ap50"], intervals["ap50"]),
                _cell(scores["ap"]),
                _cell(at_half["accuracy"], intervals["accuracy"]),
                _cell(scores["lesion"]["f1"], intervals["lesion_f1"]),
            ]
        cells += [_cell(scores[quality], intervals[quality]) for quality in QUALITIES]
        table.add_row(name, *cells)
    return table


def shown_classes(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Scores of the classes that are counted, then of those that only have a panoptic quality,
    which is also there for the mean of both if there are several.
    """
    found = dict(summary["labels"])
    panoptic = {k: v for k, v in summary.get("panoptic", {}).items() if k != "mean"}
    found |= {name: scores for name, scores in panoptic.items() if name not in found}
    if len(panoptic) > 1:
        found["mean of the classes"] = summary["panoptic"]["mean"]
    return found


def _csv(scores: Sequence[ObjectCaseScore]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(ObjectCaseScore)])
    writer.writerows(astuple(score) for score in scores)
    return text.getvalue()


def _cell(value: float | None, interval: Sequence[float | None] = (None, None)) -> Text:
    cell = Text("-" if value is None else f"{value:.3f}")
    low, high = interval
    if low is not None and high is not None:
        cell.append(f"\n{low:.3f} to {high:.3f}", style="dim")
    return cell
