"""The tables of an evaluation report besides the scores: computed once, shown on the page and
written as CSV, so that both hold the same numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.atomic import write_text
from medseg.core.labels import LabelSet
from medseg.metrics.calibration import NUM_BINS
from medseg.metrics.case_scores import CaseScore
from medseg.metrics.paired import holm_adjusted, paired_difference
from medseg.reports.case_facts import CaseFacts, Reliability
from medseg.reports.evaluation import Evaluation, ScoreSettings
from medseg.reports.groups import GroupSummary

COMPARED = ("dice", "nsd", "hd95_mm")
GROUPED = ("dice", "nsd", "hd95_mm", "relative_volume_difference")


@dataclass(frozen=True)
class ComparisonRow:
    """Two models on one class and metric, over the cases where both have a value."""

    first: str
    second: str
    label: str
    metric: str
    num_cases: int
    first_mean: float
    second_mean: float
    difference: float
    low: float
    high: float
    num_higher: int
    num_lower: int
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class GroupRow:
    """One metric of a class of a model in a subgroup."""

    model: str
    grouping: str
    group: str
    label: str
    metric: str
    num_cases: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class AgreementRow:
    """Difference of predicted and reference volume: its mean and mean -/+ 1.96 standard deviations
    (n - 1), over all cases where either has the class.
    """

    model: str
    label: str
    num_cases: int
    mean_ml: float
    lower_ml: float
    upper_ml: float


@dataclass(frozen=True)
class ConfusionRow:
    """Voxels of a class of the reference that were predicted as another, and their share of it."""

    model: str
    reference: str
    prediction: str
    voxels: int
    share: float


@dataclass(frozen=True)
class CalibrationRow:
    """Voxels by confidence; the row from 0 to 1 is that of all, with both scores."""

    model: str
    low: float
    high: float
    voxels: int
    confidence: float
    right: float
    expected_calibration_error: float
    brier: float


@dataclass(frozen=True)
class Tables:
    """Tables as fields, each a sequence of rows that are dataclasses."""

    def write(self, folder: str | Path) -> list[Path]:
        """Writes <name>.csv for each table that has rows; numbers in full."""
        paths = []
        for field in fields(self):
            rows = getattr(self, field.name)
            if rows:
                path = Path(folder) / f"{field.name}.csv"
                write_text(path, _csv(rows))
                paths.append(path)
        return paths


@dataclass(frozen=True)
class ReportTables(Tables):
    """All of them."""

    comparison: tuple[ComparisonRow, ...]
    groups: tuple[GroupRow, ...]
    agreement: tuple[AgreementRow, ...]
    confusion: tuple[ConfusionRow, ...]
    calibration: tuple[CalibrationRow, ...]


def compare_models(evaluations: Mapping[str, Evaluation]) -> tuple[ComparisonRow, ...]:
    """Every pair of models on every class and metric of COMPARED; p values adjusted over all."""
    settings = settings_of(evaluations)
    return comparison_rows(
        {model: _by_place(evaluation.scores) for model, evaluation in evaluations.items()},
        COMPARED,
        confidence=settings.confidence,
        num_resamples=settings.num_resamples,
        seed=settings.seed,
    )


def comparison_rows(
    scores: Mapping[str, Mapping[tuple[str, str], Any]],
    metrics: Sequence[str],
    *,
    confidence: float,
    num_resamples: int,
    seed: int,
) -> tuple[ComparisonRow, ...]:
    """Every pair of models on every class and metric; p values adjusted over all rows.

    Args:
        scores: per model the scores, with metrics as attributes, by case and class.
        metrics: what is compared.
        confidence, num_resamples, seed: of the intervals.
    """
    rows: list[ComparisonRow] = []
    for (first, a), (second, b) in combinations(scores.items(), 2):
        for label in dict.fromkeys(name for _, name in a):
            cases = sorted(case for case, name in a if name == label and (case, name) in b)
            for metric in metrics:
                found = paired_difference(
                    [getattr(a[case, label], metric) for case in cases],
                    [getattr(b[case, label], metric) for case in cases],
                    confidence=confidence,
                    num_resamples=num_resamples,
                    seed=seed,
                )
                rows.append(
                    ComparisonRow(
                        first,
                        second,
                        label,
                        metric,
                        found.num_cases,
                        found.first,
                        found.second,
                        found.difference,
                        found.low,
                        found.high,
                        found.num_higher,
                        found.num_lower,
                        found.p_value,
                        float("nan"),
                    )
                )
    adjusted = holm_adjusted([row.p_value for row in rows])
    return tuple(replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True))


def group_rows(groups: Mapping[str, Sequence[GroupSummary]]) -> tuple[GroupRow, ...]:
    """The means of GROUPED, by name of the model."""
    return tuple(
        GroupRow(
            model,
            group.grouping,
            group.group,
            group.summary.label,
            metric,
            found.num_cases,
            found.mean,
            found.low,
            found.high,
        )
        for model, summaries in groups.items()
        for group in summaries
        for metric in GROUPED
        for found in [group.summary.statistics[metric]]
    )


def agreement_rows(evaluations: Mapping[str, Evaluation]) -> tuple[AgreementRow, ...]:
    """Bland and Altman's limits per model and class."""
    rows = []
    for model, evaluation in evaluations.items():
        for label in dict.fromkeys(score.label for score in evaluation.scores):
            gaps = np.array(
                [
                    score.volume_difference_ml
                    for score in evaluation.scores
                    if score.label == label and score.status != "absent"
                ]
            )
            mean = float(gaps.mean()) if len(gaps) else float("nan")
            spread = 1.96 * float(gaps.std(ddof=1)) if len(gaps) > 1 else float("nan")
            rows.append(AgreementRow(model, label, len(gaps), mean, mean - spread, mean + spread))
    return tuple(rows)


def confusion_rows(
    facts: Sequence[CaseFacts], models: Sequence[str], labels: LabelSet
) -> tuple[ConfusionRow, ...]:
    """Voxels of all cases together."""
    rows = []
    for model in models:
        found = [fact.confusion[model] for fact in facts if model in fact.confusion]
        if not found:
            continue
        counts = np.sum(found, axis=0)
        for n, reference in enumerate(labels.names):
            total = int(counts[n].sum())
            for m, prediction in enumerate(labels.names):
                voxels = int(counts[n, m])
                share = voxels / total if total else float("nan")
                rows.append(ConfusionRow(model, reference, prediction, voxels, share))
    return tuple(rows)


def calibration_rows(
    facts: Sequence[CaseFacts], models: Sequence[str]
) -> tuple[CalibrationRow, ...]:
    """Bins of all cases together, of the models that have probabilities."""
    rows = []
    for model in models:
        found = [fact.reliability[model] for fact in facts if model in fact.reliability]
        if not found:
            continue
        total: Reliability = found[0]
        for other in found[1:]:
            total = total + other
        nan = float("nan")
        voxels = total.num_voxels.sum()
        rows.append(
            CalibrationRow(
                model,
                0.0,
                1.0,
                int(voxels),
                float(total.confidence.sum() / voxels),
                float(total.num_right.sum() / voxels),
                total.expected_calibration_error,
                total.brier_score,
            )
        )
        for n in np.flatnonzero(total.num_voxels):
            size = float(total.num_voxels[n])
            confidence, right = total.confidence[n] / size, total.num_right[n] / size
            rows.append(
                CalibrationRow(
                    model,
                    float(n / NUM_BINS),
                    float((n + 1) / NUM_BINS),
                    int(size),
                    float(confidence),
                    float(right),
                    nan,
                    nan,
                )
            )
    return tuple(rows)


def mean_dice(scores: Sequence[CaseScore]) -> dict[str, float]:
    """Mean Dice over the classes that a case has, by case; cases without any are left out."""
    values: dict[str, list[float]] = {}
    for score in scores:
        if np.isfinite(score.dice):
            values.setdefault(score.case, []).append(score.dice)
    return {case: float(np.mean(found)) for case, found in values.items()}


def settings_of(evaluations: Mapping[str, Evaluation]) -> ScoreSettings:
    """The settings that all evaluations share."""
    return next(iter(evaluations.values())).settings


def _by_place(scores: Sequence[CaseScore]) -> dict[tuple[str, str], CaseScore]:
    return {(score.case, score.label): score for score in scores}


def _csv(rows: Sequence[Any]) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow([field.name for field in fields(rows[0])])
    writer.writerows(astuple(row) for row in rows)
    return lines.getvalue()
