"""A local Ray cluster of two workers, one of which is killed while it works."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from learning_cases import LABELS
from service_cases import ct_study, recipe, tiny_bundle

from medseg.core.segmentation import LabelMap
from medseg.services.desk import listed
from medseg.services.executors import LocalExecutor
from medseg.services.intake import receive_studies
from medseg.services.ledger import Ledger
from medseg.services.ray_executor import RayExecutor
from medseg.services.workplace import Workplace

pytestmark = pytest.mark.slow


def patient_builder(*, poison=""):
    """Builds predictors that take a second for each case, so that a worker can be killed meanwhile.

    They are made in here so that Ray sends them by value: workers do not know this file.

    Args:
        poison: name of a case that ends its worker.
    """
    labels = LABELS

    class Patient:
        def predict(self, case):
            time.sleep(1.0)
            if case.key == poison:
                os.kill(os.getpid(), signal.SIGKILL)
            image = case.read_image()
            return LabelMap((image.array[0] > 100).astype(np.uint8), image.geometry, labels)

    return lambda made, options: Patient()


def test_a_worker_that_is_killed_costs_its_job_one_attempt_and_nothing_else(tmp_path):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'medseg[ray]'")
    model = recipe(tiny_bundle(tmp_path / "bundle"))
    for number in range(8):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    places = {
        name: Workplace(
            Ledger(tmp_path / name / "ledger.sqlite"),
            {"model": model},
            tmp_path / name / "out",
            tmp_path / name / "work",
            build_predictor=patient_builder(),
        )
        for name in ("ray", "local")
    }
    for place in places.values():
        receive_studies(tmp_path / "in", ledger=place.ledger, models=[model], reading={})
    executor = RayExecutor(num_workers=2, disk_reserve_gb=0, max_attempts=20)
    ledger = places["ray"].ledger
    failures = []

    def work():
        try:
            executor.run(places["ray"], stop=threading.Event(), until_empty=True)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    until = time.monotonic() + 300
    while ledger.counts()["done"] < 2 and not failures:
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(ray.get(executor.actors[0].process.remote()), signal.SIGKILL)
    worker.join(300)

    assert failures == []
    jobs = listed(ledger)
    assert [job.state for job in jobs] == ["done"] * 8
    done = [line for line in ledger.events(limit=10**6) if '"event":"done"' in line]
    assert len(done) == 8
    assert sum(job.attempts for job in jobs) <= 1
    LocalExecutor(disk_reserve_gb=0).run(places["local"], stop=threading.Event(), until_empty=True)
    for path in (tmp_path / "local" / "out").iterdir():
        assert (tmp_path / "ray" / "out" / path.name).read_bytes() == path.read_bytes()


def test_a_study_that_ends_each_worker_is_set_aside_and_no_other(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'medseg[ray]'")
    model = recipe(tiny_bundle(tmp_path / "bundle"))
    for number in range(5):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    place = Workplace(
        Ledger(tmp_path / "ledger.sqlite"),
        {"model": model},
        tmp_path / "out",
        tmp_path / "work",
        build_predictor=patient_builder(poison="study_2"),
    )
    receive_studies(tmp_path / "in", ledger=place.ledger, models=[model], reading={})

    RayExecutor(num_workers=2, disk_reserve_gb=0, max_attempts=2).run(
        place, stop=threading.Event(), until_empty=True
    )

    found = {job.name: (job.state, job.code, job.attempts) for job in listed(place.ledger)}
    assert found.pop("study_2") == ("quarantined", "E_GAVE_UP", 2)
    assert set(found.values()) == {("done", "", 0)}
