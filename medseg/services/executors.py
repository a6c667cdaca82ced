"""Works through the ledger on this machine: reading, segmenting and writing overlap.

One thread leases and reads (through a child process), one segments, one writes, one renews the
leases. Only what the ledger has accepted counts; a worker may be killed or stopped at any moment.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from medseg.core.errors import BundleError, ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.volume import Volume
from medseg.inference.cases import Segmented, unexpected_error, with_image
from medseg.services.holding import Holding
from medseg.services.intake import forget_unpacked, look_into, recipes_of, series_in
from medseg.services.jobs import Job, LeaseLostError, job_key
from medseg.services.local_disk import free_bytes, is_full
from medseg.services.models import LoadedModel
from medseg.services.publish import publish, sweep
from medseg.services.ranges import require_above_zero, require_not_negative
from medseg.services.reader import Reader, ReadLimits
from medseg.services.segmenters import (
    LocalSegmenter,
    Segmenter,
    WorkerAwayError,
    WorkerLostError,
)
from medseg.services.workplace import Workplace

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.2
_WAIT_FOR_ROOM_SECONDS = 2.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0


@dataclass
class _Step:
    """A job on its way through the threads."""

    job: Job
    case: Case
    image: Volume
    segmented: Segmented | None = None
    note: str = ""
    began: float = field(default_factory=time.monotonic)


class LocalExecutor:
    """One process of this machine.

    Args:
        lease_s: how long a job stays a worker's without a sign of life.
        max_attempts: a job that was alone at hand when the worker was lost so often is set aside.
        disk_reserve_gb: with less room than this no job is begun.
        read_memory_gb, read_seconds, read_seconds_per_gb: see `ReadLimits`.
        grace_s: how long a stop waits for the step that is being done.

    Raises:
        ConfigError: a number makes no sense.
    """

    def __init__(
        self,
        *,
        lease_s: float = 60.0,
        max_attempts: int = 5,
        disk_reserve_gb: float = 1.0,
        read_memory_gb: float = 6.0,
        read_seconds: float = 120.0,
        read_seconds_per_gb: float = 120.0,
        grace_s: float = 30.0,
    ) -> None:
        require_above_zero("executor", lease_s=lease_s, max_attempts=max_attempts)
        require_not_negative("executor", disk_reserve_gb=disk_reserve_gb, grace_s=grace_s)
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self.disk_reserve_gb = disk_reserve_gb
        self.read_limits = ReadLimits(read_memory_gb, read_seconds, read_seconds_per_gb)
        self.grace_s = grace_s

    def run(self, place: Workplace, *, stop: threading.Event, until_empty: bool) -> bool:
        """Works until it is stopped, or with `until_empty` until no job is open.

        Returns:
            False if a step was still being done when the time to stop was over; the process
            should end without waiting for it.
        """
        return Pipeline(
            self, place, [LocalSegmenter(place.models, place.build_predictor)], stop, until_empty
        ).run()


class Pipeline:
    """The threads of one worker.

    Args:
        options: of the executor.
        place: what it works on.
        segmenters: each gets a thread of its own.
        stop: set to end it.
        until_empty: end when no job is open.
    """

    def __init__(
        self,
        options: LocalExecutor,
        place: Workplace,
        segmenters: Sequence[Segmenter],
        stop: threading.Event,
        until_empty: bool,
    ) -> None:
        self.options = options
        self.place = place
        self.ledger = place.ledger
        self.stop = stop
        self.until_empty = until_empty
        self.holding = Holding(
            place.ledger, lease_s=options.lease_s, recipes=recipes_of(place.models, place.reading)
        )
        self.segmenters = segmenters
        self.writers = {name: LoadedModel(recipe) for name, recipe in place.models.items()}
        self.reader = place.reader or Reader(
            limits=options.read_limits,
            folder=place.work / "unpacking",
            options=place.reading,
        )
        self.has_read_all = threading.Event()
        self.read: queue.Queue[_Step | None] = queue.Queue(maxsize=len(segmenters))
        self.segmented: queue.Queue[_Step | None] = queue.Queue(maxsize=len(segmenters))

    def run(self) -> bool:
        self.ledger.recover()
        if not self.holding.others_at_work():
            sweep(self.place.output)
        threads = [
            threading.Thread(target=self._guarded, args=(loop,), daemon=True)
            for loop in (
                self._read_loop,
                *(partial(self._segment_loop, one) for one in self.segmenters),
                self._write_loop,
            )
        ]
        with self.holding:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self.stop.is_set():
                    thread.join(0.2)
            until = time.monotonic() + self.options.grace_s
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            if self.place.reader is None:
                self.reader.close()
            self.holding.give_all_back()
        if not self.holding.others_at_work():
            sweep(self.place.output)
        for error in self.holding.failures:
            raise error
        return not any(thread.is_alive() for thread in threads)

    def _guarded(self, loop: Callable[[], None]) -> None:
        """A thread that fails for a reason of its own stops the others too."""
        try:
            loop()
        except BaseException as error:
            self.holding.failures.append(error)
            self.stop.set()

    # Reading

    def _read_loop(self) -> None:
        try:
            while not self.stop.is_set():
                if not self._has_room():
                    self.stop.wait(_WAIT_FOR_ROOM_SECONDS)
                    continue
                job = self.holding.lease()
                if job is None:
                    if self.until_empty and not self.holding.any_to_wait_for():
                        return
                    self.stop.wait(_IDLE_SECONDS)
                elif job.attempts >= self.options.max_attempts:
                    self._give_up(job)
                else:
                    while not self.holding.may_begin(job):
                        if self.stop.wait(_IDLE_SECONDS):
                            return
                    self._attempt(job, partial(self._begin, job))
        finally:
            self.has_read_all.set()
            self._put(self.read, None)

    def _has_room(self) -> bool:
        reserve = self.options.disk_reserve_gb * 1e9
        folders = (self.place.output, self.place.work, self.ledger.path.parent)
        if all(free_bytes(folder) >= reserve for folder in folders):
            return True
        _log.warning("less than %g GB of disk left; waiting", self.options.disk_reserve_gb)
        return False

    def _begin(self, job: Job) -> None:
        if job.kind == "study":
            outcome = look_into(
                job,
                ledger=self.ledger,
                reader=self.reader,
                models=list(self.place.models.values()),
                reading=self.place.reading,
                kept=self.place.work / "unpacked",
            )
            self.holding.drop(job)
            _log.info("%s: %s", job.name, outcome)
            return
        series = series_in(job)
        image = self.reader.read(series, where=job.name)
        own = series if series.study_uid else None  # other images belong to no series
        case = Case(job.name, lambda: image, series=own, paths=series.paths)
        self._put(self.read, _Step(job, case, image))

    def _give_up(self, job: Job) -> None:
        error = MedsegError(
            job.name,
            f"was begun {job.attempts} times alone, and each time the program ended",
            "look at the study; python -m medseg jobs retry lets it be tried again",
            code="E_GAVE_UP",
        )
        self._settle(job, error)

    # Segmenting and writing

    def _segment_loop(self, segmenter: Segmenter) -> None:
        try:
            while self._wait_for(segmenter):
                step = self._take(self.read)
                if step is None:
                    self._put(self.read, None)  # for the next of several
                    break
                self._attempt(step.job, partial(self._segment, segmenter, step))
        finally:
            self._put(self.segmented, None)

    def _wait_for(self, segmenter: Segmenter) -> bool:
        """Waits until it can take a case, while the others take them; False if none will come."""
        pause = _FIRST_PAUSE_SECONDS
        while not segmenter.is_ready():
            _log.warning("a worker is away; waiting for it")
            until = time.monotonic() + pause
            while time.monotonic() < until:
                if self.has_read_all.wait(_IDLE_SECONDS) or self.stop.is_set():
                    return False
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return True

    def _segment(self, segmenter: Segmenter, step: _Step) -> None:
        case = with_image(step.case, step.image)
        step.segmented, step.note = segmenter.segment(step.job.model, case)
        self.holding.patiently(lambda: self.ledger.predicted(step.job), self.stop)
        self._put(self.segmented, step)

    def _write_loop(self) -> None:
        for _ in self.segmenters:  # each says when it has ended
            while (step := self._take(self.segmented)) is not None:
                self._attempt(step.job, partial(self._write, step))

    def _write(self, step: _Step) -> None:
        model = self.writers[step.job.model]
        assert step.segmented is not None
        results = publish(
            step.segmented,
            with_image(step.case, step.image),
            job=step.job,
            writers=model.writers,
            folder=self.place.output,
            deidentify=model.deidentify,
        )
        seconds = time.monotonic() - step.began
        details = {
            "bundle": model.recipe.sha256,
            "config": model.recipe.config_hash,
            "study": job_key("study uid", step.case.series.study_uid if step.case.series else ""),
            "seconds": round(seconds, 2),
        }
        self.holding.patiently(
            lambda: self.ledger.written(
                step.job, results, deliver=self.place.deliver, note=step.note, details=details
            ),
            self.stop,
        )
        self.holding.drop(step.job)
        forget_unpacked(step.job, ledger=self.ledger, kept=self.place.work / "unpacked")
        _log.info("%s written after %.1f s", step.job.name, seconds)
        if self.place.on_written is not None:
            self.place.on_written(step.job, step.segmented, step.case)

    # What may go wrong

    def _attempt(self, job: Job, act: Callable[[], None]) -> None:
        """Does one step of a job; what goes wrong ends that job alone."""
        try:
            if not self.holding.is_held(job):
                return
            act()
        except LeaseLostError:
            self.holding.drop(job)
            _log.warning("%s was taken over by another worker", job.name)
        except (BundleError, ConfigError) as error:
            # No fault of the study: every other would fare alike, so the worker ends.
            self.holding.failures.append(error)
            self.stop.set()
        except MedsegError as error:
            self._settle(job, error)
        except Exception as error:
            self._settle(job, unexpected_error(Case(job.name, _no_image), error))

    def _settle(self, job: Job, error: MedsegError) -> None:
        try:
            if isinstance(error, WorkerLostError):
                _log.warning("%s lost its worker and is tried again", job.name)
                self.holding.patiently(lambda: self.ledger.give_back(job, counts=True), self.stop)
            elif isinstance(error, WorkerAwayError):
                _log.warning("%s goes back, as its worker is away", job.name)
                self.holding.patiently(
                    lambda: self.ledger.give_back(job, delay_s=_FIRST_PAUSE_SECONDS), self.stop
                )
            elif error.code == "E_DISK_FULL" or is_full(error):
                _log.warning("%s waits for room on the disk", job.name)
                self.holding.patiently(
                    lambda: self.ledger.give_back(job, delay_s=_WAIT_FOR_ROOM_SECONDS), self.stop
                )
            else:
                sentence = f"{error.what}; {error.remedy}" if error.remedy else error.what
                self.holding.patiently(
                    lambda: self.ledger.quarantine(
                        job, code=error.code, sentence=sentence, place=error.where
                    ),
                    self.stop,
                )
                _log.warning("%s is set aside: %s", job.name, error.code)
        except LeaseLostError:
            _log.warning("%s was taken over by another worker", job.name)
        self.holding.drop(job)

    def _put(self, line: queue.Queue[_Step | None], step: _Step | None) -> None:
        """Hands a step on; on a stop without waiting, as the job is given back then."""
        while True:
            try:
                line.put(step, timeout=0.2)
                return
            except queue.Full:
                if self.stop.is_set() and step is not None:
                    return

    def _take(self, line: queue.Queue[_Step | None]) -> _Step | None:
        while True:
            try:
                return line.get(timeout=0.2)
            except queue.Empty:
                if self.stop.is_set():
                    return None


def _no_image() -> Volume:
    raise NotImplementedError
