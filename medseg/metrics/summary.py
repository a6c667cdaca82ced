"""From scores per case to a summary per class: mean, median, spread and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.case_scores import CaseScore

Floats = NDArray[np.float64]

# In the order of tables and files.
METRICS: tuple[str, ...] = (
    "dice",
    "iou",
    "nsd",
    "hd95_mm",
    "assd_mm",
    "reference_ml",
    "prediction_ml",
    "volume_difference_ml",
    "relative_volume_difference",
)


@dataclass(frozen=True)
class Statistics:
    """One metric over the cases where it has a value.

    Args:
        num_cases: how many those are.
        mean, median: nan if there are none.
        std: with n - 1; nan below two cases.
        low, high: bootstrap interval of the mean; nan below two cases.
    """

    num_cases: int
    mean: float
    median: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelSummary:
    """All metrics of one class.

    Args:
        label, class_id: name and number; "overall" and 0 for the mean over classes.
        num_both, num_missed, num_spurious, num_absent: cases by `CaseScore.status`.
        statistics: by name of the metric.
    """

    label: str
    class_id: int
    num_both: int
    num_missed: int
    num_spurious: int
    num_absent: int
    statistics: Mapping[str, Statistics]


@dataclass(frozen=True)
class Summary:
    """A data set's scores.

    Args:
        num_cases: cases scored.
        labels: one per class, in order of class number.
        overall: the mean over the classes of each of their numbers; intervals resample whole cases.
        confidence: of the intervals.
        num_resamples, seed: of the bootstrap.
    """

    num_cases: int
    labels: tuple[LabelSummary, ...]
    overall: LabelSummary
    confidence: float = 0.95
    num_resamples: int = 2000
    seed: int = 0


def summarise(
    scores: Iterable[CaseScore],
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Summary:
    """Statistics of each metric per class and over all classes.

    A metric that is nan for a case (see `CaseScore`) is left out of that metric's statistics; the
    counts by status say how often. Intervals are the percentiles of the mean over cases drawn with
    replacement; all classes and metrics of a case are drawn together. Each overall number is a mean
    over the classes, so that a class that few cases have counts as much as the others.

    Args:
        scores: of any number of cases; a class that a case has no score for counts as absent in it.
        confidence: of the intervals, such as 0.95.
        num_resamples: draws; 2000 give a 95 % limit to about 2 % of the interval's width.
        seed: of the draws; the same scores and seed give the same intervals.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    scores = list(scores)
    cases = sorted({score.case for score in scores})
    names = dict(sorted({score.class_id: score.label for score in scores}.items()))
    table = _table(scores, cases=cases, class_ids=list(names))
    draws = case_draws(len(cases), num_resamples=num_resamples, seed=seed)
    tail = 100 * (1 - confidence) / 2
    per_label: dict[int, dict[str, Statistics]] = {class_id: {} for class_id in names}
    overall: dict[str, Statistics] = {}
    for n, metric in enumerate(METRICS):
        values = table[:, :, n]  # (cases, classes)
        means = _resampled_means(values, draws)  # (draws, classes)
        columns = []
        for column, class_id in enumerate(names):
            statistics = _statistics(values[:, column], means[:, column], tail=tail)
            per_label[class_id][metric] = statistics
            columns.append(statistics)
        overall[metric] = _overall(columns, values, means, tail=tail)
    labels = tuple(
        _label_summary(name, class_id, scores, statistics=per_label[class_id], cases=cases)
        for class_id, name in names.items()
    )
    return Summary(
        num_cases=len(cases),
        labels=labels,
        overall=LabelSummary(
            "overall",
            0,
            sum(label.num_both for label in labels),
            sum(label.num_missed for label in labels),
            sum(label.num_spurious for label in labels),
            sum(label.num_absent for label in labels),
            overall,
        ),
        confidence=confidence,
        num_resamples=num_resamples,
        seed=seed,
    )


def _table(scores: Sequence[CaseScore], *, cases: list[str], class_ids: list[int]) -> Floats:
    """Values as (cases, classes, metrics); nan where there is no score."""
    rows = {case: n for n, case in enumerate(cases)}
    columns = {class_id: n for n, class_id in enumerate(class_ids)}
    table = np.full((len(cases), len(class_ids), len(METRICS)), np.nan)
    for score in scores:
        values = [getattr(score, metric) for metric in METRICS]
        table[rows[score.case], columns[score.class_id]] = values
    return table


def case_draws(num_cases: int, *, num_resamples: int, seed: int) -> Floats:
    """How often each case is drawn, shape (draws, cases)."""
    if num_cases == 0:
        return np.zeros((num_resamples, 0))
    generator = np.random.default_rng(seed)
    shares = np.full(num_cases, 1 / num_cases)
    return generator.multinomial(num_cases, shares, size=num_resamples).astype(np.float64)


def _resampled_means(values: Floats, draws: Floats) -> Floats:
    """Mean of each column in each draw, over the cases with a value; nan if a draw has none."""
    has_value = np.isfinite(values)
    sums = draws @ np.where(has_value, values, 0.0)
    counts = draws @ has_value.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)


def _statistics(values: Floats, means: Floats, *, tail: float) -> Statistics:
    values = values[np.isfinite(values)]
    nan = float("nan")
    if not len(values):
        return Statistics(0, nan, nan, nan, nan, nan)
    if len(values) < 2:
        return Statistics(1, float(values[0]), float(values[0]), nan, nan, nan)
    low, high = percentile_interval(means, tail=tail)
    return Statistics(
        len(values),
        float(values.mean()),
        float(np.median(values)),
        float(values.std(ddof=1)),
        low,
        high,
    )


def _overall(
    columns: Sequence[Statistics], values: Floats, means: Floats, *, tail: float
) -> Statistics:
    num_cases = int(np.isfinite(values).any(axis=1).sum())
    low = high = float("nan")
    if num_cases >= 2:
        low, high = percentile_interval(_row_means(means), tail=tail)
    return Statistics(
        num_cases,
        _mean_of([column.mean for column in columns]),
        _mean_of([column.median for column in columns]),
        _mean_of([column.std for column in columns]),
        low,
        high,
    )


def _row_means(means: Floats) -> Floats:
    """Mean over the classes that have a value, per draw."""
    has_value = np.isfinite(means)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(has_value, means, 0.0).sum(axis=1) / has_value.sum(axis=1))


def percentile_interval(means: Floats, *, tail: float) -> tuple[float, float]:
    """Values that `tail` percent of the draws lie below, and above; draws of nan do not count."""
    means = means[np.isfinite(means)]
    if not len(means):
        return float("nan"), float("nan")
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _mean_of(numbers: list[float]) -> float:
    known = [number for number in numbers if np.isfinite(number)]
    return float(np.mean(known)) if known else float("nan")


def _label_summary(
    name: str,
    class_id: int,
    scores: Sequence[CaseScore],
    *,
    statistics: Mapping[str, Statistics],
    cases: list[str],
) -> LabelSummary:
    statuses = [score.status for score in scores if score.class_id == class_id]
    return LabelSummary(
        label=name,
        class_id=class_id,
        num_both=statuses.count("both"),
        num_missed=statuses.count("missed"),
        num_spurious=statuses.count("spurious"),
        num_absent=len(cases) - sum(status != "absent" for status in statuses),
        statistics=statistics,
    )
