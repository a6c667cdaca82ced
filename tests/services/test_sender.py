from __future__ import annotations

import hashlib
import threading
from itertools import pairwise

import pytest

from medseg.services.deliveries import backlog
from medseg.services.desk import find_job, retry
from medseg.services.jobs import NewJob, Result, job_key
from medseg.services.ledger import Ledger
from medseg.services.sender import RefusedError, Sender, UnavailableError


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Archive:
    """Takes what it is sent, unless it is told to fail."""

    def __init__(self):
        self.sent = []
        self.held = set()
        self.fails = []
        self.forgets = 0

    def send(self, result):
        if self.fails:
            raise self.fails.pop(0)
        self.sent.append(result.sop_instance_uid)
        if self.forgets:
            self.forgets -= 1
        else:
            self.held.add(result.sop_instance_uid)

    def holds(self, result):
        return result.sop_instance_uid in self.held


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    opened = Ledger(tmp_path / "ledger.sqlite", clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def archive():
    return Archive()


@pytest.fixture
def sender(ledger, archive):
    return Sender(ledger, archive, check_after_s=1.0)


@pytest.fixture
def written(ledger, tmp_path):
    """A job with one result that waits to be sent."""
    path = tmp_path / "a.dcm"
    path.write_bytes(b"result")
    digest = hashlib.sha256(b"result").hexdigest()
    result = Result(str(path), digest, "1.2", "2.25.1", "2.25.2", "2.25.3")
    ledger.receive(NewJob("series", job_key("a"), "case", {}))
    ledger.written(ledger.lease("w", lease_s=10), [result], deliver=True)
    return path


def rounds(sender, clock, count, seconds):
    for _ in range(count):
        while sender.step():
            pass
        clock.now += seconds


def test_a_result_is_sent_and_then_found_before_its_job_is_done(
    ledger, sender, archive, clock, written
):
    sender.step()
    assert find_job(ledger, "case").state == "sent"
    assert sender.step() is False  # the archive gets a moment
    clock.now += 1
    sender.step()

    assert find_job(ledger, "case").state == "done"
    assert archive.sent == ["2.25.1"]
    assert backlog(ledger) == {"confirmed": 1}


def test_an_archive_that_is_away_is_tried_again_with_growing_pauses(
    ledger, sender, archive, clock, written
):
    archive.fails = [UnavailableError("pacs", "is away")] * 6
    times = []
    until = clock.now + 400
    while clock.now < until and find_job(ledger, "case").state == "written":
        before = len(archive.fails)
        sender.step()
        if len(archive.fails) < before or archive.sent:
            times.append(clock.now)
        clock.now += 0.5

    assert archive.sent == ["2.25.1"]
    pauses = [b - a for a, b in pairwise(times)]
    assert len(pauses) == 6
    assert pauses[-1] > 4 * pauses[0]


def test_what_the_archive_has_lost_is_sent_again(ledger, sender, archive, clock, written):
    archive.forgets = 1

    rounds(sender, clock, 40, 5)

    assert archive.sent == ["2.25.1", "2.25.1"]
    assert find_job(ledger, "case").state == "done"


def test_a_refused_result_waits_for_a_person_and_is_not_made_again(
    ledger, sender, archive, clock, written
):
    archive.fails = [RefusedError("pacs", "does not take this kind", code="E_REFUSED_CONTEXT")]
    rounds(sender, clock, 3, 5)

    job = find_job(ledger, "case")
    assert (job.state, job.code) == ("quarantined", "E_REFUSED_CONTEXT")

    retry(ledger, ["case"])
    assert find_job(ledger, "case").state == "written"
    rounds(sender, clock, 3, 5)
    assert find_job(ledger, "case").state == "done"


def test_a_result_changed_on_the_disk_is_never_sent(ledger, sender, archive, written):
    written.write_bytes(b"resul")

    sender.step()

    assert archive.sent == []
    assert find_job(ledger, "case").state == "received"  # segmented anew
    assert backlog(ledger) == {}


def test_an_error_that_nobody_foresaw_is_no_end(ledger, sender, archive, clock, written):
    archive.fails = [KeyError("what the archive said of LEAK^TEST")]

    rounds(sender, clock, 6, 5)

    assert find_job(ledger, "case").state == "done"
    assert "LEAK" not in "".join(ledger.events(limit=10**6))


def test_two_senders_never_send_one_result_at_once(ledger, archive, clock, written):
    senders = [Sender(ledger, archive), Sender(ledger, archive)]
    threads = [threading.Thread(target=sender.step) for sender in senders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert archive.sent == ["2.25.1"]
