"""An evaluation as files (CSV, JSON) for programs and as a table for the terminal."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

import medseg
from medseg.core.atomic import write_text
from medseg.metrics.case_scores import CaseScore
from medseg.metrics.summary import LabelSummary, Statistics, Summary
from medseg.reports.evaluation import Evaluation

if TYPE_CHECKING:
    from medseg.bundle import ModelBundle
    from medseg.inference.ensemble import BundleGroup

FORMAT_VERSION = 1
COLUMNS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(CaseScore))

# Columns of the terminal table: metric, heading, digits after the point, sign shown.
_SHOWN = (
    ("dice", "Dice", 3, False),
    ("iou", "IoU", 3, False),
    ("nsd", "NSD", 3, False),
    ("hd95_mm", "HD95\nmm", 2, False),
    ("assd_mm", "ASSD\nmm", 2, False),
    ("volume_difference_ml", "volume\ndiff. ml", 2, True),
)

_DEFINITIONS = {
    "dice": "2 |R and P| / (|R| + |P|) in voxels; nan if absent, 0 if missed or spurious",
    "iou": "|R and P| / |R or P| in voxels; nan if absent, 0 if missed or spurious",
    "nsd": "share of both surfaces within tolerance_mm of the other; nan if absent, "
    "0 if missed or spurious",
    "hd95_mm": "larger of the two directed 95th percentiles of the surface distances; "
    "nan unless both have voxels",
    "assd_mm": "mean distance over both surfaces together; nan unless both have voxels",
    "reference_ml": "volume of the reference",
    "prediction_ml": "volume of the prediction",
    "volume_difference_ml": "prediction minus reference",
    "relative_volume_difference": "(P - R) / R; nan if the reference is empty",
    "status": "both: reference and prediction have voxels; missed: only the reference; "
    "spurious: only the prediction; absent: neither",
    "mean": "over the cases where the metric is not nan; n says how many",
    "interval": "percentile bootstrap of the mean, cases drawn with replacement",
    "overall": "mean over the classes of each of their numbers",
}
_SURFACES = {
    "elements": "surface elements between voxel centres, weighted by area (Nikolov et al. 2021)",
    "border_voxels": "centres of voxels that share a face with the outside, each counting 1",
}


def bundle_facts(bundle: ModelBundle | BundleGroup | None) -> dict[str, str] | None:
    """What a page and scores.json say of a model."""
    if bundle is None:
        return None
    return {"name": bundle.name, "notice": bundle.notice, "sha256": bundle.sha256}


def write_scores(
    evaluation: Evaluation,
    summary: Summary,
    folder: str | Path,
    *,
    model: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes scores.csv (one row per case and class) and scores.json (means and intervals).

    Numbers are written in full; nan is `nan` in the CSV and null in the JSON.

    Args:
        evaluation, summary: the scores and `evaluation.summarise()`.
        folder: made if it is missing; earlier files of the same names are replaced.
        model: plain facts about the model that predicted, such as name and sha256.

    Returns:
        The two files.

    Raises:
        OutputError: they cannot be written.
    """
    csv_path, json_path = Path(folder) / "scores.csv", Path(folder) / "scores.json"
    write_text(csv_path, _csv(evaluation))
    content = json.dumps(_report(evaluation, summary, model=model), indent=2, ensure_ascii=False)
    write_text(json_path, content + "\n")
    return [csv_path, json_path]


def read_scores(path: str | Path) -> list[CaseScore]:
    """The scores of a scores.csv; none if the file has other columns."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            return []
        numbers = COLUMNS[COLUMNS.index("status") + 1 :]
        return [
            CaseScore(
                row["case"],
                row["label"],
                int(row["class_id"]),
                row["status"],  # type: ignore[arg-type]
                **{name: float(row[name]) for name in numbers},
            )
            for row in reader
        ]


def scores_table(summary: Summary, *, title: str = "Scores") -> Table:
    """Means with their bootstrap intervals and counts of missed and spurious cases, per class."""
    table = Table(
        title=f"{title}: mean and {summary.confidence:.0%} interval, {_counted(summary.num_cases)}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        pad_edge=False,
    )
    table.add_column("label", overflow="fold")
    rows = [*summary.labels, summary.overall] if len(summary.labels) > 1 else [*summary.labels]
    counts = [
        ("cases", "num_both"),
        *((n, f"num_{n}") for n in ("missed", "spurious", "absent")),
    ]
    counts = [
        (heading, name)
        for heading, name in counts
        if name == "num_both" or any(getattr(row, name) for row in rows)
    ]
    for heading, _ in counts:
        table.add_column(heading, justify="right")
    for _, heading, _, _ in _SHOWN:
        table.add_column(heading, justify="right")
    for row in rows:
        if row is summary.overall:
            table.add_section()
        table.add_row(
            row.label,
            *("" if row is summary.overall else str(getattr(row, name)) for _, name in counts),
            *(_cell(row.statistics[metric], digits, sign) for metric, _, digits, sign in _SHOWN),
        )
    return table


def _cell(statistics: Statistics, digits: int, is_signed: bool) -> Text:
    style = f"{'+' if is_signed else ''}.{digits}f"
    cell = Text(format(statistics.mean, style) if math.isfinite(statistics.mean) else "-")
    if math.isfinite(statistics.low):
        cell.append(f"\n{statistics.low:{style}} to {statistics.high:{style}}", style="dim")
    return cell


def _csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for score in evaluation.scores:
        writer.writerow([getattr(score, column) for column in COLUMNS])
    return text.getvalue()


def _report(
    evaluation: Evaluation, summary: Summary, *, model: Mapping[str, Any] | None
) -> dict[str, Any]:
    settings = evaluation.settings
    return {
        "format_version": FORMAT_VERSION,
        "num_cases": summary.num_cases,
        "overall": _label(summary.overall),
        "labels": {label.label: _label(label) for label in summary.labels},
        "tolerance_mm": settings.surface_dice_tolerance_mm,
        "surface": f"{settings.surface}: {_SURFACES[settings.surface]}",
        "bootstrap": {
            "confidence": summary.confidence,
            "num_resamples": summary.num_resamples,
            "seed": summary.seed,
        },
        "definitions": _DEFINITIONS,
        "model": dict(model) if model is not None else None,
        "problems": [dataclasses.asdict(problem) for problem in evaluation.problems],
        "missing_predictions": list(evaluation.missing),
        "predictions_without_reference": list(evaluation.unmatched),
        "versions": {
            "medseg": medseg.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "scikit-image")},
        },
    }


def _label(label: LabelSummary) -> dict[str, Any]:
    return {
        "class_id": label.class_id,
        "num_both": label.num_both,
        "num_missed": label.num_missed,
        "num_spurious": label.num_spurious,
        "num_absent": label.num_absent,
        **{metric: _statistics(values) for metric, values in label.statistics.items()},
    }


def _statistics(values: Statistics) -> dict[str, Any]:
    interval = [_number(values.low), _number(values.high)]
    return {
        "n": values.num_cases,
        "mean": _number(values.mean),
        "median": _number(values.median),
        "std": _number(values.std),
        "interval": None if interval == [None, None] else interval,
    }


def _counted(num_cases: int) -> str:
    return "1 case" if num_cases == 1 else f"{num_cases} cases"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
