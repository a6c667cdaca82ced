"""Scores predictions against references: cases in memory, or two folders of label maps.

Numbers of one case come from metrics/; tables and files of the result are in score_tables.py.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from medseg.core.errors import ConfigError, InputError, MedsegError
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, Reference, class_map
from medseg.metrics.case_scores import CaseScore, evaluate_case
from medseg.metrics.summary import Summary, summarise
from medseg.metrics.surface import SurfaceKind
from medseg.reports.label_files import LabelFiles, find_predictions, find_references
from medseg.sources.label_maps import read_label_map

logger = logging.getLogger(__name__)

LabelMapOrReader = LabelMap | Callable[[], Reference]


@dataclass(frozen=True)
class ScoreSettings:
    """What is measured and how it is summarised.

    Args:
        surface_dice_tolerance_mm: of NSD; usually the disagreement between two readers.
        surface: what distances run between: "elements" or "border_voxels".
        confidence: of the bootstrap intervals.
        num_resamples, seed: of the bootstrap.

    Raises:
        ConfigError: a value is out of range.
    """

    surface_dice_tolerance_mm: float = 1.0
    surface: SurfaceKind = "elements"
    confidence: float = 0.95
    num_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.surface_dice_tolerance_mm >= 0:
            raise _out_of_range("surface_dice_tolerance_mm", self.surface_dice_tolerance_mm, ">= 0")
        if not 0 < self.confidence < 1:
            raise _out_of_range("confidence", self.confidence, "between 0 and 1, such as 0.95")
        if self.num_resamples < 1:
            raise _out_of_range("num_resamples", self.num_resamples, "1 or more")


@dataclass(frozen=True)
class CaseProblem:
    """Why a case has no scores."""

    case: str
    code: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """Scores of a set of cases.

    Args:
        scores: one per case and class, sorted by case and class number; a class that a case does
            not have is there with status "absent".
        problems: cases that could not be scored.
        missing: references without a prediction.
        num_left_out: those of a data set, of which any part may be scored.
        unmatched: predictions without a reference; they are not scored.
        settings: how it was measured.
    """

    scores: tuple[CaseScore, ...]
    problems: tuple[CaseProblem, ...] = ()
    missing: tuple[str, ...] = ()
    num_left_out: int = 0
    unmatched: tuple[str, ...] = ()
    settings: ScoreSettings = field(default_factory=ScoreSettings)

    @property
    def is_complete(self) -> bool:
        """True if every reference that was to be scored was."""
        return not self.problems and not self.missing

    def summarise(self) -> Summary:
        """Mean, median, spread and bootstrap intervals per class and over all."""
        return summarise(
            self.scores,
            confidence=self.settings.confidence,
            num_resamples=self.settings.num_resamples,
            seed=self.settings.seed,
        )


def score_cases(
    pairs: Iterable[tuple[str, LabelMapOrReader, LabelMapOrReader]],
    labels: LabelSet | None,
    *,
    settings: ScoreSettings | None = None,
    on_progress: Callable[[], object] | None = None,
) -> Evaluation:
    """Scores cases on all processor cores; a case that fails is noted and the others go on.

    Args:
        pairs: key, reference and prediction of each case; a function is called to read the label
            map, so that only a few cases are in memory at a time.
        labels: classes; None takes the numbers found.
        settings: what is measured.
        on_progress: called after each case.
    """
    settings = settings or ScoreSettings()
    scores: list[CaseScore] = []
    problems: list[CaseProblem] = []
    for key, outcome in _in_parallel(pairs, labels, settings=settings):
        if isinstance(outcome, CaseProblem):
            logger.warning("%s is not scored: %s", key, outcome.message)
            problems.append(outcome)
        else:
            scores.extend(outcome)
        if on_progress is not None:
            on_progress()
    return Evaluation(_completed(scores), tuple(problems), settings=settings)


def evaluate_folders(
    predictions: str | Path,
    references: str | Path,
    *,
    labels: LabelSet | None = None,
    settings: ScoreSettings | None = None,
    allow_missing: bool = False,
    on_start: Callable[[int], object] | None = None,
    on_progress: Callable[[], object] | None = None,
) -> Evaluation:
    """Scores the label maps of one folder against those of another, matched by file name.

    Args:
        predictions: folder of label maps.
        references: folder of label maps, or a data set's folder; see `find_references`. Of a data
            set only the cases that were predicted are scored.
        labels: classes; None takes those of the data set's dataset.json, else the numbers found.
        settings: what is measured.
        allow_missing: references without a prediction are no shortcoming.
        on_start: called with the number of cases.
        on_progress: called after each case.

    Raises:
        InputError: a folder is missing or empty, or no file of one has a namesake in the other.
    """
    predicted, referred = find_predictions(predictions), find_references(references)
    keys = [key for key in referred.paths if key in predicted.paths]
    if not keys:
        raise _no_pair(predicted, referred)
    if on_start is not None:
        on_start(len(keys))
    evaluation = score_cases(
        (
            (
                key,
                partial(read_label_map, referred.paths[key], None),
                partial(read_label_map, predicted.paths[key], None),
            )
            for key in keys
        ),
        labels or referred.labels,
        settings=settings,
        on_progress=on_progress,
    )
    missing = tuple(key for key in referred.paths if key not in predicted.paths)
    tolerates = allow_missing or referred.is_dataset
    return Evaluation(
        evaluation.scores,
        evaluation.problems,
        missing=() if tolerates else missing,
        num_left_out=len(missing) if referred.is_dataset else 0,
        unmatched=tuple(key for key in predicted.paths if key not in referred.paths),
        settings=evaluation.settings,
    )


def _in_parallel(
    pairs: Iterable[tuple[str, LabelMapOrReader, LabelMapOrReader]],
    labels: LabelSet | None,
    *,
    settings: ScoreSettings,
) -> Iterable[tuple[str, list[CaseScore] | CaseProblem]]:
    """Outcome of each pair, in order, with at most two cases per core begun ahead."""
    num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    num_workers = num_workers or os.cpu_count() or 1
    # Threads, because reading, comparing and searching all run outside Python's lock.
    waiting: deque[tuple[str, Future[list[CaseScore] | CaseProblem]]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for key, reference, prediction in pairs:
                job = pool.submit(_score, key, reference, prediction, labels, settings=settings)
                waiting.append((key, job))
                if len(waiting) > 2 * num_workers:
                    done_key, done = waiting.popleft()
                    yield done_key, done.result()
            while waiting:
                done_key, done = waiting.popleft()
                yield done_key, done.result()
        finally:
            for _, job in waiting:
                job.cancel()


def _score(
    key: str,
    reference: LabelMapOrReader,
    prediction: LabelMapOrReader,
    labels: LabelSet | None,
    *,
    settings: ScoreSettings,
) -> list[CaseScore] | CaseProblem:
    try:
        return evaluate_case(
            reference if isinstance(reference, LabelMap) else class_map(reference()),
            prediction if isinstance(prediction, LabelMap) else class_map(prediction()),
            labels=labels,
            tolerance_mm=settings.surface_dice_tolerance_mm,
            surface=settings.surface,
            case=key,
        )
    except Exception as error:  # one case must not end the others
        return problem_of(key, error)


def problem_of(key: str, error: Exception) -> CaseProblem:
    """What is told of a case without scores: never the text of an error that no code foresaw,
    which may hold a patient's name.
    """
    if isinstance(error, MedsegError):
        return CaseProblem(key, error.code, str(error))
    logger.debug("scoring %s failed", key, exc_info=error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return CaseProblem(
        key,
        "E_UNEXPECTED",
        f"{key}: failed with {type(error).__name__} in {Path(place.filename).name}, line "
        f"{place.lineno}; this is a fault in medseg: please report it with this line",
    )


def _completed(scores: list[CaseScore]) -> tuple[CaseScore, ...]:
    """The scores sorted, with an "absent" one where a class was found in other cases only."""
    names = {score.class_id: score.label for score in scores}
    known = {(score.case, score.class_id): score for score in scores}
    return tuple(
        known.get((case, class_id)) or CaseScore.absent(case, names[class_id], class_id)
        for case in sorted({score.case for score in scores})
        for class_id in sorted(names)
    )


def _no_pair(predicted: LabelFiles, referred: LabelFiles) -> InputError:
    return InputError(
        predicted.folder,
        f"none of its {len(predicted.paths)} files (first: {next(iter(predicted.paths))}) is named "
        f"like one of the {len(referred.paths)} references in {referred.folder} "
        f"(first: {next(iter(referred.paths))})",
        "give prediction and reference of a case the same file name",
        code="E_NO_PAIR",
    )


def _out_of_range(name: str, value: float, expected: str) -> ConfigError:
    return ConfigError(f"metrics.{name}={value:g}", f"must be {expected}")
