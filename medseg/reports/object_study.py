"""Everything a report about objects is made of: models, scored on the same references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medseg.bundle import ModelBundle
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import class_map
from medseg.inference.ensemble import BundleGroup
from medseg.metrics.detection import HitCounts, hit_counts
from medseg.metrics.object_bootstrap import resampled_hits
from medseg.metrics.object_pairs import ObjectPairs
from medseg.metrics.panoptic import MATCHED_ABOVE, panoptic_quality
from medseg.reports.case_facts import CaseFacts, image_facts
from medseg.reports.groups import Grouping, groupings_of
from medseg.reports.object_evaluation import ObjectEvaluation
from medseg.reports.object_files import ObjectFiles
from medseg.reports.object_summary import ObjectCaseScore, case_scores
from medseg.reports.report_tables import ComparisonRow, Tables, comparison_rows
from medseg.reports.score_tables import bundle_facts
from medseg.reports.study import unlike_bundle
from medseg.sources.folder import Folder

COMPARED = ("accuracy", "f1", "lesion_f1", "pq")
GROUPED = ("accuracy", "f1", "pq")
_NUM_THREADS = 4


@dataclass(frozen=True)
class CountRow:
    """Predicted minus true number of objects per case: its mean and mean -/+ 1.96 standard
    deviations (n - 1).
    """

    model: str
    label: str
    num_cases: int
    mean: float
    lower: float
    upper: float


@dataclass(frozen=True)
class ObjectGroupRow:
    """One score of a class of a model over the objects of a subgroup of cases."""

    model: str
    grouping: str
    group: str
    label: str
    metric: str
    num_cases: int
    num_references: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ObjectTables(Tables):
    """The tables besides the scores: shown on the page and written as CSV."""

    comparison: tuple[ComparisonRow, ...]
    groups: tuple[ObjectGroupRow, ...]
    counts: tuple[CountRow, ...]


@dataclass(frozen=True, eq=False)
class ObjectStudy:
    """Models, scored on the same references.

    Args:
        evaluations: by name of the model, in the order given.
        summaries: their scores, as scores.json holds them.
        scores: the same of each case.
        files: where predictions and references are.
        images: cases whose images can be shown, by key.
        tables: computed from all that.
        unlike: why cases are unlike the training of the bundle.
        model: facts about the bundle; None without one.
        notes: what a reader must know besides.
    """

    evaluations: Mapping[str, ObjectEvaluation]
    summaries: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, Sequence[ObjectCaseScore]]
    files: Mapping[str, ObjectFiles]
    images: Mapping[str, Case]
    tables: ObjectTables
    unlike: Mapping[str, Sequence[str]] = field(default_factory=dict)
    model: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.evaluations)

    @property
    def labels(self) -> LabelSet:
        return next(iter(self.evaluations.values())).labels

    @cached_property
    def cases(self) -> list[str]:
        """Keys of the cases that any model was scored on, sorted."""
        return sorted({score.case for scores in self.scores.values() for score in scores})


def gather_objects(
    evaluations: Mapping[str, ObjectEvaluation],
    summaries: Mapping[str, Mapping[str, Any]],
    files: Mapping[str, ObjectFiles],
    *,
    images: Path | None = None,
    groups: Sequence[Grouping] = (),
    bundle: ModelBundle | BundleGroup | None = None,
    on_start: Callable[[int], object] | None = None,
    on_progress: Callable[[], object] | None = None,
) -> ObjectStudy:
    """Looks at the images and computes the tables.

    Args:
        evaluations, summaries, files: by name of the model.
        images: folder of the images; None takes those of the references' data set if it has some.
        groups: subgroups besides those by scanner and spacing.
        bundle: model, or several that segment together, whose training the images are compared
            with.
        on_start, on_progress: called with the number of cases, and after each.
    """
    scores = {name: case_scores(evaluation) for name, evaluation in evaluations.items()}
    shown: Mapping[str, Case] = next(iter(files.values())).images
    if images is not None:
        shown = {case.key: case for case in Folder(str(images)).cases()}
    keys = sorted({score.case for found in scores.values() for score in found})
    notes = () if shown else ("no images were given (images=<folder>): outlines lie on black",)
    if on_start is not None:
        on_start(len(keys))

    def look(key: str) -> CaseFacts:
        one = next(one for one in files.values() if key in one.predictions)
        truth = class_map(one.references[key]())
        found = image_facts(key, truth, labels=one.labels, image=shown.get(key))
        if on_progress is not None:
            on_progress()
        return found

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        facts = tuple(pool.map(look, keys))
    first = next(iter(evaluations.values())).bootstrap
    tables = ObjectTables(
        comparison_rows(
            {
                name: {(score.case, score.label): score for score in found}
                for name, found in scores.items()
            },
            COMPARED,
            confidence=first.confidence,
            num_resamples=first.num_resamples,
            seed=first.seed,
        ),
        group_rows(evaluations, groupings_of(facts, (), groups)),
        count_rows(scores),
    )
    return ObjectStudy(
        evaluations,
        summaries,
        scores,
        files,
        shown,
        tables,
        unlike_bundle(facts, bundle),
        bundle_facts(bundle),
        notes,
    )


def count_rows(scores: Mapping[str, Sequence[ObjectCaseScore]]) -> tuple[CountRow, ...]:
    """Bland and Altman's limits of the number of objects, per model and class."""
    rows = []
    for model, found in scores.items():
        for label in dict.fromkeys(score.label for score in found):
            gaps = np.array([s.predictions - s.references for s in found if s.label == label])
            mean = float(gaps.mean())
            spread = 1.96 * float(gaps.std(ddof=1)) if len(gaps) > 1 else float("nan")
            rows.append(CountRow(model, label, len(gaps), mean, mean - spread, mean + spread))
    return tuple(rows)


def group_rows(
    evaluations: Mapping[str, ObjectEvaluation], groupings: Sequence[Grouping]
) -> tuple[ObjectGroupRow, ...]:
    """Scores over all objects of each group of cases."""
    return tuple(
        row
        for model, evaluation in evaluations.items()
        for grouping in groupings
        for group, keys in grouping.members.items()
        for class_id, cases in evaluation.things.items()
        for row in _group(
            model,
            grouping.name,
            group,
            evaluation.labels.names[class_id],
            [pairs for pairs in cases if pairs.case in frozenset(keys)],
            evaluation,
        )
    )


def _group(
    model: str,
    grouping: str,
    group: str,
    label: str,
    cases: Sequence[ObjectPairs],
    evaluation: ObjectEvaluation,
) -> list[ObjectGroupRow]:
    if not cases:
        return []
    kept = [pairs.above(evaluation.settings.min_score) for pairs in cases]
    hits = [hit_counts(pairs, 0.5) for pairs in kept]
    total = sum(hits, HitCounts())
    draws = evaluation.bootstrap.draws(len(cases))
    matched = [hit_counts(pairs, MATCHED_ABOVE, strict=True) for pairs in kept]
    drawn = {**resampled_hits(hits, draws), "pq": resampled_hits(matched, draws)["pq"]}
    values = {"accuracy": total.accuracy, "f1": total.f1, "pq": panoptic_quality(kept).pq}
    return [
        ObjectGroupRow(
            model,
            grouping,
            group,
            label,
            metric,
            len(cases),
            sum(len(pairs.reference_mm3) for pairs in cases),
            values[metric],
            *evaluation.bootstrap.interval(drawn[metric], len(cases)),
        )
        for metric in GROUPED
    ]
