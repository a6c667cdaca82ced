"""Many cases through one predictor: reading ahead, writing, and going on when one fails."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medseg.core.errors import MedsegError
from medseg.core.identity import Case
from medseg.core.protocols import ChoosesResults, Predictor, ResultKind, Writer
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.core.volume import Volume

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CaseOutcome:
    """What became of one case.

    Args:
        key: case key.
        paths: files written.
        error: why it failed; None if it did not.
        seconds: reading excluded where it overlapped with the case before.
        result: the label map, if it was asked to be kept.
    """

    key: str
    paths: tuple[Path, ...] = ()
    error: MedsegError | None = None
    seconds: float = 0.0
    result: LabelMap | None = None


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    *,
    writers: Sequence[Writer],
    folder: Path,
    keeps_results: bool = False,
    on_done: Callable[[CaseOutcome], None] | None = None,
) -> list[CaseOutcome]:
    """Predicts and writes every case; a case that fails is reported and the others go on.

    The next case is read while one is predicted.

    Args:
        predictor: what segments.
        cases: in the order to be worked on.
        writers: each writes every result below `folder`.
        folder: made by the writers.
        keeps_results: keep label maps in the outcomes.
        on_done: called after each case.
    """
    outcomes = []
    for case, image in _read_ahead(cases):
        start = time.monotonic()
        paths: list[Path] = []
        result = None
        error: MedsegError | None = None
        try:
            if isinstance(image, MedsegError):
                raise image
            segmented = segment(predictor, with_image(case, image), writers=writers)
            result = segmented.label_map
            paths = write_segmented(segmented, case, writers=writers, folder=folder)
            del segmented
        except MedsegError as problem:
            error = problem
        except Exception as problem:
            error = unexpected_error(case, problem)
        outcome = CaseOutcome(
            case.key,
            tuple(paths),
            error,
            time.monotonic() - start,
            result if keeps_results else None,
        )
        if error is None:
            logger.info("%s predicted in %.1f s", case.key, outcome.seconds)
        outcomes.append(outcome)
        if on_done:
            on_done(outcome)
    return outcomes


@dataclass(frozen=True, eq=False)
class Segmented:
    """What a predictor gave for a case: the label map, and probabilities if a writer takes them."""

    label_map: LabelMap
    probabilities: ProbabilityMap | None = None


def with_image(case: Case, image: Volume) -> Case:
    """The case with an image that has been read already."""
    return replace(case, read_image=partial(_given, image))


def segment(predictor: Predictor, case: Case, *, writers: Sequence[Writer]) -> Segmented:
    """What the writers need of a case, from one run of the predictor."""
    if any("probabilities" in _taken(writer) for writer in writers):
        return Segmented(*predictor.predict_with_probabilities(case))
    return Segmented(predictor.predict(case))


def write_segmented(
    segmented: Segmented, case: Case, *, writers: Sequence[Writer], folder: Path
) -> list[Path]:
    """Has every writer write what it takes below a folder; the files, in the writers' order."""
    paths: list[Path] = []
    for writer in writers:
        for kind in _taken(writer):
            chosen = segmented.probabilities if kind == "probabilities" else segmented.label_map
            assert chosen is not None
            paths += writer.write(chosen, case, folder=folder)
    return paths


def _taken(writer: Writer) -> tuple[ResultKind, ...]:
    return writer.takes if isinstance(writer, ChoosesResults) else ("label_map",)


def _given(image: Volume) -> Volume:
    return image


def unexpected_error(case: Case, problem: Exception) -> MedsegError:
    """What is told of an error that no code foresaw: never its text, which may hold a patient's
    name.
    """
    logger.debug("case %s failed", case.key, exc_info=problem)
    text = str(problem).lower()
    if isinstance(problem, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return MedsegError(
            case.key,
            "does not fit into the memory",
            "set inference.window_batch=1, or use a machine with more memory",
            code="E_MEMORY",
        )
    place = traceback.extract_tb(problem.__traceback__)[-1]
    return MedsegError(
        case.key,
        f"failed with {type(problem).__name__} in {Path(place.filename).name}, line {place.lineno}",
        "this is a fault in medseg: please report it with this line",
        code="E_PREDICTION",
    )


def _read_ahead(cases: Sequence[Case]) -> Iterator[tuple[Case, Volume | MedsegError]]:
    def read(case: Case) -> Volume | MedsegError:
        try:
            return case.read_image()
        except MedsegError as error:
            return error
        except Exception as error:
            return unexpected_error(case, error)

    with ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(read, case) for case in cases[:1]]
        for n, case in enumerate(cases):
            image = futures.pop().result()
            if n + 1 < len(cases):
                futures.append(pool.submit(read, cases[n + 1]))
            yield case, image
