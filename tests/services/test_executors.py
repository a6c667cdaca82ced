from __future__ import annotations

import io
import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest
from service_cases import (
    Threshold,
    build_threshold,
    ct_study,
    recipe,
    states,
    tiny_bundle,
)

from medseg.services import reading
from medseg.services.desk import listed, retry
from medseg.services.executors import LocalExecutor
from medseg.services.intake import receive_studies
from medseg.services.ledger import Ledger
from medseg.services.publish import is_intact
from medseg.services.reader import Reader, ReadLimits
from medseg.services.rules import SeriesRule
from medseg.services.workplace import Workplace

READER: list[Reader] = []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module", autouse=True)
def reader(tmp_path_factory):
    """One reading process for all tests, as each takes a second or two to start."""
    made = Reader(limits=ReadLimits(), folder=tmp_path_factory.mktemp("unpacking"), options={})
    READER.append(made)
    yield made
    READER.pop().close()


@pytest.fixture
def place(tmp_path, bundle):
    return workplace(tmp_path, {"model": recipe(bundle)})


def workplace(folder, models, **options):
    return Workplace(
        Ledger(folder / "state" / "ledger.sqlite"),
        models,
        folder / "out",
        folder / "state" / "work",
        **{"build_predictor": build_threshold, "reader": READER[0], **options},
    )


def receive(place, root):
    return receive_studies(
        root, ledger=place.ledger, models=list(place.models.values()), reading=place.reading
    )


def work(place, stop=None, **options):
    executor = LocalExecutor(**{"disk_reserve_gb": 0.0, **options})
    return executor.run(place, stop=stop or threading.Event(), until_empty=True)


def test_good_studies_are_done_and_a_bad_one_is_set_aside_untouched(place, tmp_path):
    for number in range(3):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    removed = sorted((tmp_path / "in" / "study_1").rglob("*.dcm"))[4]
    removed.unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*.dcm")}
    receive(place, tmp_path / "in")

    assert work(place) is True

    (bad, *good) = sorted(listed(place.ledger), key=lambda job: job.state == "done")
    assert (bad.state, bad.code, bad.source["path"]) == (
        "quarantined",
        "E_SLICE_GAP",
        str(tmp_path / "in" / "study_1"),
    )
    assert "slice missing" in bad.sentence
    assert [(job.name, job.state) for job in good] == [("study_0", "done"), ("study_2", "done")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "study_0.dcm",
        "study_2.dcm",
    ]
    assert all(is_intact(result) for job in good for result in job.results)
    assert {path: path.read_bytes() for path in (tmp_path / "in").rglob("*.dcm")} == before


def test_a_repetition_does_nothing_and_a_lost_ledger_gives_the_same_bytes(place, tmp_path, bundle):
    ct_study(tmp_path / "in" / "study_0", 0)
    receive(place, tmp_path / "in")
    work(place)
    path = tmp_path / "out" / "study_0.dcm"
    before, written = path.read_bytes(), path.stat().st_mtime_ns

    receive(place, tmp_path / "in")
    work(place)
    assert path.stat().st_mtime_ns == written

    place.ledger.close()
    shutil.rmtree(tmp_path / "state")
    again = workplace(tmp_path, {"model": recipe(bundle)})
    receive(again, tmp_path / "in")
    work(again)
    assert path.stat().st_mtime_ns != written
    assert path.read_bytes() == before


def test_a_study_that_was_mended_takes_the_place_of_the_one_set_aside(place, tmp_path):
    paths = ct_study(tmp_path / "in" / "study_0", 0)
    content = paths[4].read_bytes()
    paths[4].unlink()
    receive(place, tmp_path / "in")
    work(place)
    assert place.ledger.counts()["quarantined"] == 1

    paths[4].write_bytes(content)
    receive(place, tmp_path / "in")
    work(place)

    assert place.ledger.counts()["quarantined"] == 0
    assert [job.name for job in listed(place.ledger) if job.results] == ["study_0"]


def test_a_study_set_aside_is_looked_at_again_on_retry(place, tmp_path):
    paths = ct_study(tmp_path / "in" / "study_0", 0)
    hidden = tmp_path / "hidden.dcm"
    paths[4].rename(hidden)
    receive(place, tmp_path / "in")
    work(place)
    hidden.rename(paths[4])

    retry(place.ledger, code="E_SLICE_GAP")
    work(place)

    assert states(listed(place.ledger)) == [("study_0", "done", "")]


def test_the_readable_series_of_a_study_goes_on_without_the_broken_one(place, tmp_path):
    ct_study(tmp_path / "in" / "study" / "a", 0)
    sorted((tmp_path / "in" / "study" / "a").rglob("*.dcm"))[4].unlink()
    ct_study(tmp_path / "in" / "study" / "b", 1)
    receive(place, tmp_path / "in")

    work(place)

    found = {job.name: (job.state, job.code) for job in listed(place.ledger)}
    assert found.pop("study_b") == ("done", "")
    assert list(found.values()) == [("quarantined", "E_SLICE_GAP")]


def test_each_model_takes_the_series_of_its_rule(tmp_path, bundle):
    models = {
        "thin": recipe(bundle, name="thin", rule=SeriesRule(slice_thickness_mm=(0, 3))),
        "all": recipe(bundle, name="all", rule=SeriesRule(modality=["CT"])),
        "mr": recipe(bundle, name="mr", rule=SeriesRule(modality=["MR"])),
    }
    built = []

    def build(made, options):
        built.append(made.name)
        return Threshold()

    place = workplace(tmp_path, models, build_predictor=build)
    for number in range(2):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    receive(place, tmp_path / "in")

    work(place)

    assert sorted(job.name for job in listed(place.ledger)) == [
        "study_0_all", "study_0_thin", "study_1_all", "study_1_thin",
    ]  # fmt: skip
    assert sorted(built) == ["all", "thin"]  # each once, and none that no series asked for


def test_a_study_that_no_model_is_for_is_done_with_a_note(tmp_path, bundle):
    place = workplace(tmp_path, {"mr": recipe(bundle, name="mr", rule=SeriesRule(modality=["MR"]))})
    ct_study(tmp_path / "in" / "study_0", 0)
    receive(place, tmp_path / "in")

    work(place)

    (job,) = listed(place.ledger)
    assert (job.state, job.note) == ("done", "no model is for any of its series")


def test_jobs_of_another_model_are_left_to_its_own_workers(place, tmp_path, bundle):
    ct_study(tmp_path / "in" / "study_0", 0)
    receive(place, tmp_path / "in")
    other = workplace(tmp_path, {"other": recipe(bundle, name="other")})

    work(other)

    assert [job.state for job in listed(place.ledger)] == ["received"]


def test_a_case_that_needs_too_much_memory_is_tried_with_less(tmp_path, bundle):
    steps = []

    class Greedy(Threshold):
        def __init__(self, options):
            self.options = options

        def predict(self, case):
            steps.append(self.options)
            if self.options.get("device") != "cpu":
                raise MemoryError
            return super().predict(case)

    place = workplace(
        tmp_path,
        {"model": recipe(bundle)},
        build_predictor=lambda made, options: Greedy(options),
    )
    ct_study(tmp_path / "in" / "study_0", 0)
    receive(place, tmp_path / "in")

    work(place)

    (job,) = listed(place.ledger)
    assert job.state == "done"
    assert job.note == "on the CPU, for want of memory"
    assert [step.get("device") for step in steps] == [None, None, "cpu"]


def test_a_case_that_fits_into_no_memory_is_set_aside(tmp_path, bundle):
    class Endless(Threshold):
        def predict(self, case):
            raise MemoryError

    place = workplace(
        tmp_path, {"model": recipe(bundle)}, build_predictor=lambda made, options: Endless()
    )
    ct_study(tmp_path / "in" / "study_0", 0)
    receive(place, tmp_path / "in")

    work(place)

    assert states(listed(place.ledger)) == [("study_0", "quarantined", "E_MEMORY")]


def test_a_job_that_ended_its_worker_too_often_is_set_aside(place, tmp_path):
    ct_study(tmp_path / "in" / "study_0", 0)
    receive(place, tmp_path / "in")
    for _ in range(3):
        place.ledger.lease("a worker that ends", lease_s=-1)
        place.ledger.recover()

    work(place, max_attempts=3)

    (job,) = listed(place.ledger)
    assert (job.state, job.code) == ("quarantined", "E_GAVE_UP")
    assert "begun 3 times" in job.sentence


def test_blows_that_hit_all_jobs_at_hand_set_none_of_them_aside(place, tmp_path):
    for number in range(4):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    receive(place, tmp_path / "in")
    for number in range(12):
        for _ in range(2):
            place.ledger.lease(f"worker {number}", lease_s=-1)
        place.ledger.recover()

    work(place, max_attempts=2)

    jobs = listed(place.ledger)
    assert [(job.state, job.attempts) for job in jobs] == [("done", 0)] * 4


def test_a_job_that_was_at_hand_when_a_worker_was_lost_is_worked_on_alone(tmp_path, bundle):
    held = {}

    class Watched(Threshold):
        def predict(self, case):
            time.sleep(0.2)  # so that others would be read meanwhile
            rows = place.ledger.query("SELECT name FROM jobs WHERE state = 'leased'")
            held[case.key] = {name for (name,) in rows}
            return super().predict(case)

    place = workplace(
        tmp_path, {"model": recipe(bundle)}, build_predictor=lambda made, options: Watched()
    )
    for number in range(3):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    receive(place, tmp_path / "in")
    for _ in range(3):
        place.ledger.lease("a worker that ends", lease_s=-1)
    place.ledger.recover()
    work(place)  # studies are looked at alone, and their series are fresh
    place.ledger.query("UPDATE jobs SET state = 'received' WHERE kind = 'series'")
    for _ in range(3):
        place.ledger.lease("a worker that ends", lease_s=-1)
    place.ledger.recover()
    held.clear()

    work(place)

    assert held == {f"study_{number}": {f"study_{number}"} for number in range(3)}
    assert {job.state for job in listed(place.ledger)} == {"done"}


def test_what_a_killed_worker_has_left_unfinished_is_swept(place, tmp_path):
    left = tmp_path / "out" / ".medseg-unfinished" / "1-1"
    left.mkdir(parents=True)
    (left / "half.dcm").write_bytes(b"half")
    ct_study(tmp_path / "in" / "study_0", 0)
    receive(place, tmp_path / "in")

    work(place)

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study_0.dcm"]


def test_a_stop_gives_back_what_is_not_finished(tmp_path, bundle):
    began, go_on = threading.Event(), threading.Event()

    class Slow(Threshold):
        def predict(self, case):
            began.set()
            go_on.wait(20)
            return super().predict(case)

    place = workplace(
        tmp_path, {"model": recipe(bundle)}, build_predictor=lambda made, options: Slow()
    )
    for number in range(3):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    receive(place, tmp_path / "in")
    stop, outcome = threading.Event(), []
    worker = threading.Thread(target=lambda: outcome.append(work(place, stop, grace_s=0.5)))
    worker.start()
    assert began.wait(30)

    stop.set()
    worker.join(10)

    assert outcome == [False]  # the step that is being done is not waited for
    assert {job.state for job in listed(place.ledger)} == {"received"}
    assert all(job.attempts == 0 for job in listed(place.ledger))
    go_on.set()
    time.sleep(0.3)  # the late step finds that the job is no longer its own
    assert list((tmp_path / "out").glob("*.dcm")) == []


def test_two_workers_share_one_ledger(place, tmp_path, bundle):
    for number in range(6):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    receive(place, tmp_path / "in")
    other = workplace(tmp_path, {"model": recipe(bundle)})
    workers = [threading.Thread(target=work, args=(one,)) for one in (place, other)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [job.state for job in listed(place.ledger)] == ["done"] * 6
    done = [line for line in place.ledger.events(limit=10**6) if '"event":"done"' in line]
    assert len(done) == 6


def test_links_are_never_followed_out_of_the_folder(place, tmp_path):
    ct_study(tmp_path / "outside", 0)
    (tmp_path / "in" / "study").mkdir(parents=True)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "outside")
    for path in (tmp_path / "outside").rglob("*.dcm"):
        (tmp_path / "in" / "study" / path.name).symlink_to(path)
    ct_study(tmp_path / "in" / "own", 1)

    receive(place, tmp_path / "in")

    work(place)

    found = {Path(job.source["path"]).name: (job.state, job.code) for job in listed(place.ledger)}
    assert found == {
        "linked": ("quarantined", "E_NO_IMAGES"),
        "own": ("done", ""),
        "study": ("quarantined", "E_NO_IMAGES"),
    }
    sentences = "".join(job.sentence for job in listed(place.ledger))
    assert sentences.count("links are not followed") == 2


def test_what_holds_nothing_that_can_be_read_is_set_aside_too(place, tmp_path, monkeypatch):
    for name in ("empty", "pipe", "socket", "dangling"):
        (tmp_path / "in" / name / "below").mkdir(parents=True)
    os.mkfifo(tmp_path / "in" / "pipe" / "below" / "image.dcm")
    (tmp_path / "in" / "dangling" / "image.dcm").symlink_to(tmp_path / "nothing")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path / "in" / "socket")  # the names of sockets must be short
        bound.bind("image.dcm")
    ct_study(tmp_path / "in" / "good", 1)
    receive(place, tmp_path / "in")

    work(place)

    found = {Path(job.source["path"]).name: (job.state, job.code) for job in listed(place.ledger)}
    assert found.pop("good") == ("done", "")
    assert found == dict.fromkeys(
        ["empty", "pipe", "socket", "dangling"], ("quarantined", "E_NO_IMAGES")
    )
    ct_study(tmp_path / "in" / "empty", 2)
    receive(place, tmp_path / "in")
    work(place)
    assert place.ledger.counts()["quarantined"] == 3
    assert sum(bool(job.results) for job in listed(place.ledger)) == 2


def test_a_folder_that_cannot_be_listed_is_told_of_as_that(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", closed)  # the superuser may list everything

    answers = io.BytesIO()
    request = {
        "do": "index", "path": str(tmp_path), "root": str(tmp_path), "keep": "", "on_gap": "refuse",
        "trust_positions": False,
    }  # fmt: skip
    reading.answer_each([json.dumps(request).encode()], answers)

    told = json.loads(answers.getvalue()[4:])
    assert [(item["code"], item["remedy"]) for item in told["refused"]] == [
        ("E_UNREADABLE", "check the permissions")
    ]


def test_a_part_that_ends_the_reading_process_does_not_take_the_others_with_it(
    place, tmp_path, monkeypatch
):
    from medseg.core.errors import InputError

    ct_study(tmp_path / "in" / "study" / "good", 0)
    ct_study(tmp_path / "in" / "study" / "poison", 1)
    real = Reader.index

    def index(self, path, **options):
        if any(part.name == "poison" for part in [path, *path.rglob("*")]):
            raise InputError(path, "has ended", code="E_READER_CRASH")
        return real(self, path, **options)

    monkeypatch.setattr(Reader, "index", index)
    receive(place, tmp_path / "in")

    work(place)

    found = {job.source["path"].rpartition("/")[2]: job.state for job in listed(place.ledger)}
    assert found == {"good": "done", "poison": "quarantined"}
