"""Workers that are killed over and over, and a study that ends them: who is held to account."""

from __future__ import annotations

import random

import pytest

from medseg.services.holding import Holding
from medseg.services.jobs import NewJob, Result, job_key
from medseg.services.ledger import Ledger

RESULT = Result("out/a.dcm", "ab" * 32)
MAX_ATTEMPTS = 5  # as in conf/executor/local.yaml
AT_HAND = 4  # one is read, one segmented, one written, and one waits between


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(tmp_path / "ledger.sqlite")
    yield opened
    opened.close()


def receive(ledger: Ledger, count: int) -> None:
    with ledger.transaction():
        for number in range(count):
            ledger.receive(NewJob("series", job_key(number), f"case_{number}", {}))


class Worker:
    """Takes jobs as the pipeline of an executor does, one action at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        # A lease that has run out at once, as if the process were seen to have ended.
        self.holding = Holding(ledger, lease_s=-1.0, recipes=[""])
        self.begun: list = []
        self.waiting = None

    def take(self) -> None:
        """Leases a job and begins it, if it may be begun; sets it aside after so many attempts."""
        if self.waiting is None and len(self.begun) < AT_HAND:
            self.waiting = self.holding.lease()
        job = self.waiting
        if job is not None and job.attempts >= MAX_ATTEMPTS:
            self.ledger.quarantine(job, code="E_GAVE_UP", sentence="")
            self.holding.drop(job)
            self.waiting = None
        elif job is not None and self.holding.may_begin(job):
            self.begun.append(job)
            self.waiting = None

    def finish(self) -> None:
        if self.begun:
            job = self.begun.pop(0)
            self.ledger.written(job, [RESULT], deliver=False)
            self.holding.drop(job)


@pytest.mark.parametrize("seed", range(2))
def test_dozens_of_kills_set_no_study_aside(ledger, seed):
    receive(ledger, 120)
    choice = random.Random(seed)
    worker, kills = Worker(ledger), 0

    while ledger.num_open():
        if kills < 50 and choice.random() < 0.1:
            kills += 1
            ledger.recover()
            worker = Worker(ledger)
        elif choice.random() < 0.5:
            worker.take()
        else:
            worker.finish()

    jobs = ledger.jobs()
    assert kills >= 40
    assert {job.state for job in jobs} == {"done"}
    assert sum(job.interruptions + job.attempts for job in jobs) >= 25  # the kills met work


def test_a_study_that_ends_each_worker_is_the_only_one_set_aside(ledger):
    receive(ledger, 12)
    worker, crashes = Worker(ledger), 0

    while ledger.num_open():
        worker.take()
        worker.take()
        if any(job.name == "case_5" for job in worker.begun):
            crashes += 1
            ledger.recover()
            worker = Worker(ledger)
        else:
            worker.finish()

    states = {job.name: (job.state, job.attempts) for job in ledger.jobs()}
    assert states.pop("case_5") == ("quarantined", MAX_ATTEMPTS)
    assert {state for state, _ in states.values()} == {"done"}
    assert crashes <= MAX_ATTEMPTS + 2
