"""Many cases through one predictor, in one process: the next case is read and prepared, and the
last one written, while the network computes; when one fails the others go on.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from medseg.core.errors import ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.protocols import ChecksCases, ChoosesResults, Predictor, ResultKind, Writer
from medseg.core.segmentation import (
    LabelMap,
    ProbabilityMap,
    Reference,
    Result,
    UncertaintyMap,
    class_map,
)
from medseg.core.volume import Volume

logger = logging.getLogger(__name__)

T = TypeVar("T")


@runtime_checkable
class PreparesImages(Protocol):
    """A predictor whose work on an image before the network can be done ahead."""

    def prepare(self, volume: Volume) -> Any: ...

    def segment_prepared(self, prepared: Any, *, wants: Collection[ResultKind]) -> Segmented: ...


@dataclass(frozen=True, eq=False)
class CaseOutcome:
    """What became of one case.

    Args:
        key: case key.
        paths: files written.
        error: why it failed; None if it did not.
        seconds: of the network and of writing.
        result: of the prediction, if it was asked to be kept.
    """

    key: str
    paths: tuple[Path, ...] = ()
    error: MedsegError | None = None
    seconds: float = 0.0
    result: Reference | None = None


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    *,
    writers: Sequence[Writer],
    folder: Path,
    keeps_results: bool = False,
    overlaps: bool = True,
    on_done: Callable[[CaseOutcome], None] | None = None,
) -> list[CaseOutcome]:
    """Predicts and writes every case; a case that fails is reported and the others go on.

    Args:
        predictor: what segments.
        cases: in the order to be worked on.
        writers: each writes every result below `folder`.
        folder: made by the writers.
        keeps_results: keep results in the outcomes.
        overlaps: read the next case and write the last one while the network computes; at most
            three cases are then in memory, otherwise one.
        on_done: called after each case, in their order.
    """
    if not isinstance(predictor, PreparesImages):
        _require_no_uncertainty(writers)
    outcomes: list[CaseOutcome] = []
    pending: deque[Future[CaseOutcome]] = deque()

    def collect(left: int) -> None:
        while len(pending) > left:
            outcomes.append(pending.popleft().result())
            if on_done:
                on_done(outcomes[-1])

    with ThreadPoolExecutor(1, "writing") as pool:
        for case, prepared in _prepared(predictor, cases, writers, overlaps=overlaps):
            start = time.monotonic()
            segmented = (
                prepared
                if isinstance(prepared, MedsegError)
                else _guarded(case, partial(_segment_prepared, predictor, case, prepared, writers))
            )
            del prepared  # its memory is wanted for the next one
            finish = partial(_finish, case, segmented, writers, folder, keeps_results)
            pending.append(pool.submit(finish, time.monotonic() - start))
            del segmented, finish
            collect(1 if overlaps else 0)
        collect(0)
    return outcomes


@dataclass(frozen=True, eq=False)
class Segmented:
    """What a predictor gave for a case: classes or objects, and what else a writer takes."""

    result: Reference
    probabilities: ProbabilityMap | None = None
    uncertainty: UncertaintyMap | None = None


def with_image(case: Case, image: Volume) -> Case:
    """The case with an image that has been read already."""
    return replace(case, read_image=partial(_given, image))


def segment(predictor: Predictor, case: Case, *, writers: Sequence[Writer]) -> Segmented:
    """What the writers need of a case, from one run of the predictor.

    Raises:
        OutputError: a writer cannot write for this case.
    """
    _check_writers(case, writers)
    if isinstance(predictor, PreparesImages):
        prepared = predictor.prepare(case.read_image())
        return predictor.segment_prepared(prepared, wants=_wanted(writers))
    _require_no_uncertainty(writers)
    if "probabilities" in _wanted(writers):
        return Segmented(*predictor.predict_with_probabilities(case))
    return Segmented(predictor.predict(case))


def write_segmented(
    segmented: Segmented, case: Case, *, writers: Sequence[Writer], folder: Path
) -> list[Path]:
    """Has every writer write what it takes below a folder; the files, in the writers' order."""
    paths: list[Path] = []
    for writer in writers:
        for chosen in _chosen(writer, segmented):
            paths += writer.write(chosen, case, folder=folder)
    return paths


def _chosen(writer: Writer, segmented: Segmented) -> Iterator[Result]:
    """What a writer is given of a case: what it takes of what there is."""
    taken, result = _taken(writer), segmented.result
    for kind in taken:
        if kind == "probabilities" and segmented.probabilities is not None:
            yield segmented.probabilities
        elif kind == "uncertainty" and segmented.uncertainty is not None:
            yield segmented.uncertainty
        elif kind == ("label_map" if isinstance(result, LabelMap) else "instances"):
            yield result
        elif kind == "label_map" and "instances" not in taken:
            yield class_map(result)


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
            "set inference.memory_budget_gib to what is free, or use a machine with more memory",
            code="E_MEMORY",
        )
    place = traceback.extract_tb(problem.__traceback__)[-1]
    return MedsegError(
        case.key,
        f"failed with {type(problem).__name__} in {Path(place.filename).name}, line {place.lineno}",
        "this is a fault in medseg: please report it with this line",
        code="E_PREDICTION",
    )


def _wanted(writers: Sequence[Writer]) -> frozenset[ResultKind]:
    return frozenset(kind for writer in writers for kind in _taken(writer))


def _check_writers(case: Case, writers: Sequence[Writer]) -> None:
    for writer in writers:
        if isinstance(writer, ChecksCases):
            writer.check(case)


def _require_no_uncertainty(writers: Sequence[Writer]) -> None:
    if "uncertainty" in _wanted(writers):
        raise ConfigError(
            "output.uncertainty",
            "is asked for, but only networks that give a class for every voxel tell it",
            "leave uncertainty out of output",
        )


def _segment_prepared(
    predictor: Predictor, case: Case, prepared: Any, writers: Sequence[Writer]
) -> Segmented:
    if isinstance(predictor, PreparesImages):
        return predictor.segment_prepared(prepared, wants=_wanted(writers))
    return segment(predictor, with_image(case, prepared), writers=writers)


def _finish(
    case: Case,
    segmented: Segmented | MedsegError,
    writers: Sequence[Writer],
    folder: Path,
    keeps_results: bool,
    seconds: float,
) -> CaseOutcome:
    """Writes what was found for a case, which took so many seconds."""
    if isinstance(segmented, MedsegError):
        return CaseOutcome(case.key, error=segmented, seconds=seconds)
    start = time.monotonic()
    work = partial(write_segmented, segmented, case, writers=writers, folder=folder)
    written = _guarded(case, work)
    seconds += time.monotonic() - start
    if isinstance(written, MedsegError):
        return CaseOutcome(case.key, error=written, seconds=seconds)
    logger.info("%s predicted in %.1f s", case.key, seconds)
    kept = segmented.result if keeps_results else None
    return CaseOutcome(case.key, tuple(written), seconds=seconds, result=kept)


def _guarded(case: Case, work: Callable[[], T]) -> T | MedsegError:
    """What some work gives, or the error it ends with."""
    try:
        return work()
    except MedsegError as error:
        return error
    except Exception as problem:
        return unexpected_error(case, problem)


def _prepared(
    predictor: Predictor, cases: Sequence[Case], writers: Sequence[Writer], *, overlaps: bool
) -> Iterator[tuple[Case, Any]]:
    """Each case with its image, prepared if the predictor does that, or with the error that kept it
    from being read or its result from being written.
    """

    def load(case: Case) -> Any:
        _check_writers(case, writers)
        image = case.read_image()
        return predictor.prepare(image) if isinstance(predictor, PreparesImages) else image

    if not overlaps:
        for case in cases:
            yield case, _guarded(case, partial(load, case))
        return
    with ThreadPoolExecutor(1, "reading") as pool:
        waiting = deque(pool.submit(_guarded, c, partial(load, c)) for c in cases[:1])
        for n, case in enumerate(cases):
            image = waiting.popleft().result()
            waiting.extend(pool.submit(_guarded, c, partial(load, c)) for c in cases[n + 1 : n + 2])
            yield case, image
            del image
