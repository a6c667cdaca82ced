"""The jobs that a worker holds: leased, renewed while it lives, and given back when it stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from medseg.core.errors import MedsegError
from medseg.services.jobs import HELD, Job, LeaseLostError, LedgerError
from medseg.services.ledger import Ledger
from medseg.services.ownership import new_owner

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0


class Holding:
    """Leases of one worker, renewed by a thread of its own inside a `with` block.

    Args:
        ledger: that gives them.
        lease_s: how long each lasts without being renewed.
        recipes: which jobs this worker can do.
    """

    def __init__(self, ledger: Ledger, *, lease_s: float, recipes: Sequence[str]) -> None:
        self.ledger = ledger
        self.recipes = recipes
        self.lease_s = lease_s
        self.owner = new_owner()
        self.failures: list[BaseException] = []
        self._held: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew_loop, name="renew", daemon=True)

    def __enter__(self) -> Holding:
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._renewer.join()

    def lease(self) -> Job | None:
        """The next job, from now on held; None if there is none or the ledger cannot be written.

        A job that was at hand when a worker was lost is worked on alone: none comes beside it, so
        that a second loss can be told from a blow that had nothing to do with it.
        """
        with self._lock:
            if any(job.interruptions for job in self._held.values()):
                return None
        try:
            job = self.ledger.lease(self.owner, lease_s=self.lease_s, recipes=self.recipes)
        except LedgerError as error:
            if error.code != "E_DISK_FULL":
                raise
            _log.warning("the ledger's disk is full; waiting")
            return None
        if job is not None:
            with self._lock:
                self._held[job.id] = job
        return job

    def is_held(self, job: Job) -> bool:
        with self._lock:
            held = self._held.get(job.id)
        return held is not None and held.token == job.token

    def may_begin(self, job: Job) -> bool:
        """Whether a job that was leased can be begun, or has to wait until it is alone."""
        with self._lock:
            return not job.interruptions or not set(self._held) - {job.id}

    def drop(self, job: Job) -> None:
        """Forgets a job whose next state is recorded, or that another worker has now."""
        with self._lock:
            if self._held.get(job.id, job).token == job.token:
                self._held.pop(job.id, None)

    def any_to_wait_for(self) -> bool:
        """Whether jobs may still come: some wait for their time, or a worker holds them."""
        return self.ledger.num_open(states=("received", *HELD), recipes=self.recipes) > 0

    def others_at_work(self) -> bool:
        """Whether another worker holds a job of this ledger."""
        states = ", ".join(repr(state) for state in HELD)
        found = self.ledger.query(
            f"SELECT count(*) FROM jobs WHERE state IN ({states}) AND owner <> ?", (self.owner,)
        )
        return int(found[0][0]) > 0

    def patiently(self, change: Callable[[], None], stop: threading.Event) -> None:
        """Makes a change of the ledger; while its disk is full, again and again until a stop."""
        while True:
            try:
                change()
                return
            except LedgerError as error:
                if error.code != "E_DISK_FULL" or stop.wait(_RETRY_SECONDS):
                    raise

    def give_all_back(self) -> None:
        """Lets others have at once what this worker could not finish."""
        with self._lock:
            held = list(self._held.values())
            self._held.clear()
        for job in held:
            try:
                self.ledger.give_back(job)
            except LeaseLostError:
                continue
            except MedsegError:
                _log.warning("%s cannot be given back; its lease will run out", job.name)

    def _renew_loop(self) -> None:
        while not self._ended.wait(self.lease_s / 3):
            try:
                self._renew()
                self.ledger.recover()
            except LedgerError as error:
                _log.warning("leases cannot be renewed (%s)", error.code)

    def _renew(self) -> None:
        with self._lock:
            held = list(self._held.values())
        for job in held:
            if not self.ledger.renew(job, lease_s=self.lease_s):
                self.drop(job)
