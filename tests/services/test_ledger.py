from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import time

import pytest
from ledger_worker import RESULT, work_until_empty

from medseg.services.desk import find_job, retry
from medseg.services.jobs import LeaseLostError, LedgerError, NewJob, job_key
from medseg.services.ledger import Ledger
from medseg.services.ownership import new_owner


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(tmp_path, clock):
    opened = Ledger(tmp_path / "ledger.sqlite", clock=clock)
    yield opened
    opened.close()


def series(number: int) -> NewJob:
    return NewJob("series", job_key("series", number), f"case_{number}", {"number": number}, "m")


def test_what_is_received_twice_is_held_once(ledger):
    assert ledger.receive(series(1)) is True
    assert ledger.receive(series(1)) is False
    assert [job.name for job in ledger.jobs()] == ["case_1"]


def test_another_job_of_the_same_name_gets_one_of_its_own(ledger):
    ledger.receive(series(1))
    ledger.receive(NewJob("series", job_key("other"), "case_1", {}))

    assert [job.name for job in ledger.jobs()] == ["case_1", f"case_1_{job_key('other')[:12]}"]


def test_a_job_goes_from_received_to_done_and_keeps_its_results(ledger):
    ledger.receive(series(1))
    job = ledger.lease("a", lease_s=10)
    states = [find_job(ledger, "case_1").state]
    ledger.predicted(job)
    states.append(find_job(ledger, "case_1").state)
    ledger.written(job, [RESULT], deliver=False, note="")

    done = find_job(ledger, "case_1")
    assert [*states, done.state] == ["leased", "predicted", "done"]
    assert done.results == (RESULT,)
    assert done.source == {"number": 1}
    assert ledger.lease("a", lease_s=10) is None
    assert ledger.num_open() == 0


def test_a_job_with_something_to_send_stays_open_after_it_is_written(ledger):
    ledger.receive(series(1))
    ledger.written(ledger.lease("a", lease_s=10), [RESULT], deliver=True, note="")

    assert find_job(ledger, "case_1").state == "written"
    assert ledger.num_open() == 1
    assert ledger.query("SELECT state, path FROM deliveries") == [("waiting", "out/a.dcm")]


def test_two_workers_never_hold_one_job(ledger):
    ledger.receive(series(1))

    assert ledger.lease("a", lease_s=10) is not None
    assert ledger.lease("b", lease_s=10) is None


def test_a_worker_whose_lease_ran_out_can_change_nothing(ledger, clock):
    ledger.receive(series(1))
    late = ledger.lease("a", lease_s=10)
    clock.now += 11
    assert ledger.recover() == 1
    current = ledger.lease("b", lease_s=10)

    assert ledger.renew(late, lease_s=10) is False
    for step in (
        lambda: ledger.predicted(late),
        lambda: ledger.written(late, [RESULT], deliver=True, note=""),
        lambda: ledger.quarantine(late, code="E_X", sentence="x"),
        lambda: ledger.give_back(late),
        lambda: ledger.split(late, [series(2)]),
    ):
        with pytest.raises(LeaseLostError):
            step()
    assert [(job.name, job.state) for job in ledger.jobs()] == [("case_1", "leased")]
    assert ledger.query("SELECT count(*) FROM deliveries") == [(0,)]
    ledger.written(current, [RESULT], deliver=False, note="")
    assert find_job(ledger, "case_1").state == "done"


def test_what_a_lost_worker_held_together_costs_none_of_it_an_attempt(ledger, clock):
    for number in range(3):
        ledger.receive(series(number))
    for _ in range(2):
        ledger.lease("a", lease_s=10)
    ledger.lease("b", lease_s=10)
    clock.now += 11

    assert ledger.recover() == 3

    found = [(job.attempts, job.interruptions) for job in ledger.jobs()]
    assert found == [(0, 1), (0, 1), (1, 0)]
    assert ledger.lease("c", lease_s=10).name == "case_0"


def test_a_ledger_of_the_first_version_goes_on(tmp_path):
    path = tmp_path / "ledger.sqlite"
    made = Ledger(path)
    made.receive(series(1))
    made.close()
    older = sqlite3.connect(path)
    older.execute("ALTER TABLE jobs DROP COLUMN interruptions")
    older.execute("PRAGMA user_version = 1")
    older.commit()
    older.close()

    again = Ledger(path)

    assert [(job.name, job.interruptions) for job in again.jobs()] == [("case_1", 0)]
    assert again.query("PRAGMA user_version") == [(2,)]
    again.close()


def test_a_renewed_lease_is_not_taken_away(ledger, clock):
    ledger.receive(series(1))
    job = ledger.lease("a", lease_s=10)
    clock.now += 8
    assert ledger.renew(job, lease_s=10)
    clock.now += 8

    assert ledger.recover() == 0


def test_the_jobs_of_a_process_that_has_ended_are_taken_back_at_once(ledger):
    ledger.receive(series(1))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        owner = pool.apply(new_owner)
        ledger.lease(owner, lease_s=3600)
        assert ledger.recover() == 0

    assert ledger.recover() == 1
    assert find_job(ledger, "case_1").state == "received"
    assert find_job(ledger, "case_1").attempts == 1


def test_jobs_that_were_tried_before_come_after_fresh_ones(ledger):
    for number in (1, 2, 3):
        ledger.receive(series(number))
    ledger.give_back(ledger.lease("a", lease_s=10), counts=True)

    names = [ledger.lease("a", lease_s=10).name for _ in range(3)]

    assert names == ["case_2", "case_3", "case_1"]


def test_a_job_given_back_waits_as_long_as_was_said(ledger, clock):
    ledger.receive(series(1))
    ledger.give_back(ledger.lease("a", lease_s=10), delay_s=5)

    assert ledger.lease("a", lease_s=10) is None
    clock.now += 5
    assert ledger.lease("a", lease_s=10).attempts == 0


def test_a_study_ends_with_its_series_added_once(ledger):
    ledger.receive(series(1))
    ledger.receive(NewJob("study", job_key("study"), "study", {}))
    ledger.written(ledger.lease("a", lease_s=10), [], deliver=False, note="")
    study = ledger.lease("a", lease_s=10)

    assert ledger.split(study, [series(1), series(2)]) == 1

    assert [(job.name, job.state) for job in ledger.jobs()] == [
        ("case_1", "done"),
        ("study", "done"),
        ("case_2", "received"),
    ]
    assert find_job(ledger, "case_2").parent == study.id
    assert ledger.counts()["done"] == 1


def test_a_quarantined_job_says_why_and_can_be_tried_again(ledger):
    for number in (1, 2):
        ledger.receive(series(number))
        job = ledger.lease("a", lease_s=10)
        ledger.quarantine(job, code=f"E_{number}", sentence="is broken", place="in/x")

    found = find_job(ledger, "case_1")
    assert (found.state, found.code, found.sentence, found.place) == (
        "quarantined",
        "E_1",
        "is broken",
        "in/x",
    )
    assert retry(ledger, code="E_1") == ["case_1"]
    assert find_job(ledger, "case_1").state == "received"
    assert find_job(ledger, "case_1").code == ""
    assert retry(ledger, ["case_2"]) == ["case_2"]


def test_an_open_ledger_writes_ahead_and_waits_for_the_disk(ledger):
    assert ledger.query("PRAGMA journal_mode") == [("wal",)]
    assert ledger.query("PRAGMA synchronous") == [(2,)]  # FULL


def test_a_file_of_another_program_is_refused(tmp_path):
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE jobs (id)")
    other.commit()
    other.close()
    (tmp_path / "text.sqlite").write_text("no database at all, but longer than a header\n" * 9)

    with pytest.raises(LedgerError, match="another program"):
        Ledger(tmp_path / "other.sqlite")
    with pytest.raises(LedgerError, match="is no ledger"):
        Ledger(tmp_path / "text.sqlite")


def test_a_folder_is_no_ledger(tmp_path):
    with pytest.raises(LedgerError, match="is a folder"):
        Ledger(tmp_path)


def test_a_ledger_of_a_newer_medseg_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(LedgerError, match="schema version 99, this medseg reads 2"):
        Ledger(path)


def test_a_ledger_on_a_network_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("medseg.services.ledger_file.file_system_of", lambda path: "nfs4")

    with pytest.raises(LedgerError) as caught:
        Ledger(tmp_path / "ledger.sqlite")

    assert caught.value.code == "E_LEDGER_NETWORK"
    assert "paths.ledger" in caught.value.remedy
    assert not (tmp_path / "ledger.sqlite").exists()


def test_two_workers_stopped_at_random_finish_each_job_once(tmp_path):
    path, done = tmp_path / "ledger.sqlite", tmp_path / "done"
    done.mkdir()
    ledger = Ledger(path)
    for number in range(40):
        ledger.receive(series(number))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work_until_empty, args=(path, done)) for _ in range(2)]
    for worker in workers:
        worker.start()
    choice = random.Random(7)
    until = time.monotonic() + 180
    while any(worker.is_alive() for worker in workers) and time.monotonic() < until:
        worker = choice.choice(workers)
        if worker.is_alive():
            os.kill(worker.pid, signal.SIGSTOP)
            time.sleep(choice.choice([0.02, 0.3]))
            os.kill(worker.pid, signal.SIGCONT)
        time.sleep(choice.random() * 0.05)
    for worker in workers:
        worker.join(60)

    committed = [name for file in done.iterdir() for name in file.read_text().split()]
    assert sorted(committed) == sorted(f"case_{number}" for number in range(40))
    assert ledger.counts()["done"] == 40
    assert ledger.query("PRAGMA integrity_check") == [("ok",)]
