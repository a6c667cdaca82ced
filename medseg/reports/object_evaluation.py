"""Compares objects with references: cases in memory, or two folders of maps of objects.

Scores are computed from the overlaps in object_summary.py; files of them are in object_tables.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from medseg.core.components import thing_ids
from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.core.segmentation import PanopticMap, instances_of
from medseg.metrics.object_bootstrap import Bootstrap
from medseg.metrics.object_pairs import ObjectPairs, compare_objects
from medseg.metrics.panoptic import panoptic_pairs
from medseg.reports.evaluation import CaseProblem, problem_of
from medseg.reports.object_files import ObjectFiles, Reader, read_pair

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ObjectSettings:
    """What is counted.

    Args:
        min_score: objects of a lower score are left out of hits, sensitivity, F1 and PQ; AP and
            FROC go over all scores.
        lesion_iou: least IoU of a found lesion, for FROC.
        size_edges_mm3: volumes at which sizes are divided; None divides the reference objects of
            each class into thirds.

    Raises:
        ConfigError: a value is out of range.
    """

    min_score: float = 0.5
    lesion_iou: float = 0.1
    size_edges_mm3: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError("objects.min_score", f"is {self.min_score:g}", "use 0 to 1")
        if not 0 < self.lesion_iou <= 1:
            raise ConfigError("objects.lesion_iou", f"is {self.lesion_iou:g}", "use above 0 to 1")
        edges = list(self.size_edges_mm3 or ())
        if edges != sorted(set(edges)) or any(edge <= 0 for edge in edges):
            raise ConfigError(
                "objects.size_edges_mm3", f"is {edges}", "give rising positive volumes"
            )


@dataclass(frozen=True)
class ObjectEvaluation:
    """Overlaps of all cases, from which every score is computed.

    Args:
        labels: classes.
        things: by class number, one entry per case.
        panoptic: the same for all foreground classes; empty unless stuff was predicted.
        problems: cases that could not be scored.
        missing: references without a prediction.
        num_left_out: those of a data set, of which any part may be scored.
        unmatched: predictions without a reference.
        settings: what is counted.
        bootstrap: of the intervals.
    """

    labels: LabelSet
    things: dict[int, list[ObjectPairs]]
    panoptic: dict[int, list[ObjectPairs]] = field(default_factory=dict)
    problems: tuple[CaseProblem, ...] = ()
    missing: tuple[str, ...] = ()
    num_left_out: int = 0
    unmatched: tuple[str, ...] = ()
    settings: ObjectSettings = field(default_factory=ObjectSettings)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    @property
    def is_complete(self) -> bool:
        """True if every reference that was to be scored was."""
        return not self.problems and not self.missing

    @property
    def num_cases(self) -> int:
        return max((len(cases) for cases in self.things.values()), default=0)


def score_objects(
    pairs: Iterable[tuple[str, Reader, Reader]],
    labels: LabelSet,
    *,
    settings: ObjectSettings | None = None,
    bootstrap: Bootstrap | None = None,
    instances_from: str = "reference",
    on_progress: Callable[[], object] | None = None,
) -> ObjectEvaluation:
    """Compares cases one by one; one that fails is noted and the others go on.

    Args:
        pairs: key, and functions that read reference and prediction.
        labels: classes; those marked as things are counted, all where none is marked.
        settings: what is counted.
        bootstrap: of the intervals.
        instances_from: "components" makes objects of references, and of predictions, that have
            classes alone.
        on_progress: called after each case.
    """
    class_ids = thing_ids(labels)
    things: dict[int, list[ObjectPairs]] = {class_id: [] for class_id in class_ids}
    panoptic: dict[int, list[ObjectPairs]] = {}
    problems = []
    for key, read_reference, read_prediction in pairs:
        try:
            reference, prediction = read_pair(
                key, read_reference, read_prediction, labels, instances_from
            )
            of_things = compare_objects(
                instances_of(reference), instances_of(prediction), class_ids=class_ids, case=key
            )
            of_all = []
            if isinstance(reference, PanopticMap) and isinstance(prediction, PanopticMap):
                of_all = panoptic_pairs(reference, prediction, labels=labels, case=key)
        except Exception as error:  # one case must not end the others
            problems.append(problem_of(key, error))
            logger.warning("%s is not scored: %s", key, problems[-1].message)
        else:
            for pairs_of_class in of_things:
                things[pairs_of_class.class_id].append(pairs_of_class)
            for pairs_of_class in of_all:
                panoptic.setdefault(pairs_of_class.class_id, []).append(pairs_of_class)
        if on_progress is not None:
            on_progress()
    return ObjectEvaluation(
        labels,
        things,
        panoptic,
        tuple(problems),
        settings=settings or ObjectSettings(),
        bootstrap=bootstrap or Bootstrap(),
    )


def evaluate_objects(
    files: ObjectFiles,
    *,
    settings: ObjectSettings | None = None,
    bootstrap: Bootstrap | None = None,
    allow_missing: bool = False,
    on_progress: Callable[[], object] | None = None,
) -> ObjectEvaluation:
    """Scores the objects of one folder against those of another.

    Args:
        files: where they are.
        settings: what is counted.
        bootstrap: of the intervals.
        allow_missing: references without a prediction are no shortcoming.
        on_progress: called after each case.
    """
    evaluation = score_objects(
        ((key, files.references[key], files.predictions[key]) for key in files.keys),
        files.labels,
        settings=settings,
        bootstrap=bootstrap,
        instances_from=files.instances_from,
        on_progress=on_progress,
    )
    tolerates = allow_missing or files.is_dataset
    missing = [key for key in files.references if key not in files.predictions]
    return replace(
        evaluation,
        missing=() if tolerates else tuple(missing),
        num_left_out=len(missing) if files.is_dataset else 0,
        unmatched=tuple(key for key in files.predictions if key not in files.references),
    )
