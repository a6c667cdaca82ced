"""Subgroups of cases: by size of the structure, by spacing, and by what a table says of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg.core.errors import InputError
from medseg.metrics.case_scores import CaseScore
from medseg.metrics.summary import LabelSummary, summarise
from medseg.reports.case_facts import CaseFacts
from medseg.reports.evaluation import ScoreSettings

MOST_VALUES = 12
"""Columns with more different values are no groups."""


@dataclass(frozen=True)
class Grouping:
    """One way to divide cases.

    Args:
        name: what they differ in, such as "scanner".
        members: case keys of each group, in the order of the table.
        class_id: of the class that it is about; None if about the case.
    """

    name: str
    members: Mapping[str, tuple[str, ...]]
    class_id: int | None = None


@dataclass(frozen=True)
class GroupSummary:
    """Scores of one class in one group."""

    grouping: str
    group: str
    num_cases: int
    summary: LabelSummary


def read_groups(path: str | Path) -> list[Grouping]:
    """Groups from a CSV file with a column `case` and one column for each property.

    Raises:
        InputError: the file is missing or has no such column.
    """
    path = Path(path).expanduser()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, "cannot be read as CSV", "set groups=<file.csv>") from error
    if not rows or "case" not in rows[0]:
        raise InputError(
            path, "has no column 'case'", "name the cases in a column 'case', as in scores.csv"
        )
    groupings = []
    for column in rows[0]:
        if column == "case" or not column:
            continue
        values = {row["case"]: (row[column] or "").strip() or "unknown" for row in rows}
        groupings.append(_by_value(column, values))
    return groupings


def groupings_of(
    facts: Sequence[CaseFacts], scores: Iterable[CaseScore], given: Sequence[Grouping] = ()
) -> list[Grouping]:
    """Those given, by scanner, spacing and size of each class; one group alone is left out."""
    scanners = {fact.key: fact.scanner or "unknown" for fact in facts}
    found = [*given, _by_value("scanner", scanners), _by_spacing(facts)]
    by_class: dict[int, dict[str, float]] = {}
    for score in scores:
        if score.reference_ml > 0:
            by_class.setdefault(score.class_id, {})[score.case] = score.reference_ml
    found += [
        _by_thirds("size of the structure", sizes, unit="ml", class_id=class_id)
        for class_id, sizes in sorted(by_class.items())
    ]
    return [grouping for grouping in found if 1 < len(grouping.members) <= MOST_VALUES]


def summarise_groups(
    scores: Sequence[CaseScore], groupings: Sequence[Grouping], *, settings: ScoreSettings
) -> list[GroupSummary]:
    """Every class in every group that has cases."""
    found = []
    for grouping in groupings:
        for group, keys in grouping.members.items():
            members = frozenset(keys)
            chosen = [
                score
                for score in scores
                if score.case in members and grouping.class_id in (None, score.class_id)
            ]
            summary = summarise(
                chosen,
                confidence=settings.confidence,
                num_resamples=settings.num_resamples,
                seed=settings.seed,
            )
            found += [
                GroupSummary(grouping.name, group, summary.num_cases, label)
                for label in summary.labels
            ]
    return found


def _by_value(name: str, values: Mapping[str, str]) -> Grouping:
    members: dict[str, list[str]] = {}
    for case, value in values.items():
        members.setdefault(value, []).append(case)
    return Grouping(name, {value: tuple(members[value]) for value in sorted(members)})


def _by_spacing(facts: Sequence[CaseFacts]) -> Grouping:
    """By the largest distance between voxels: each value, or thirds where there are many."""
    largest = {fact.key: round(max(fact.spacing_mm), 2) for fact in facts}
    if len(set(largest.values())) <= 4:
        named = {key: f"{value:g} mm" for key, value in largest.items()}
        grouping = _by_value("largest spacing", named)
        order = sorted(grouping.members, key=lambda text: float(text.split()[0]))
        return replace(grouping, members={name: grouping.members[name] for name in order})
    return _by_thirds("largest spacing", largest, unit="mm")


def _by_thirds(
    name: str, values: Mapping[str, float], *, unit: str, class_id: int | None = None
) -> Grouping:
    if len(values) < 3:
        return Grouping(name, {}, class_id)
    numbers = np.array(list(values.values()))
    first, second = np.quantile(numbers, (1 / 3, 2 / 3))
    names = (
        f"small (up to {first:.3g} {unit})",
        f"medium (up to {second:.3g} {unit})",
        f"large (up to {numbers.max():.3g} {unit})",
    )
    members: dict[str, list[str]] = {group: [] for group in names}
    for case, value in values.items():
        members[names[int(value > first) + int(value > second)]].append(case)
    filled = {group: tuple(sorted(cases)) for group, cases in members.items() if cases}
    return Grouping(name, filled, class_id)
