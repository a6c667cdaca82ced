"""A disk that is full at every position a job writes to: nothing partial, and on it goes."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest
from service_cases import Threshold, ct_study, recipe, tiny_bundle

from medseg.core.errors import OutputError
from medseg.core.identity import Case
from medseg.dicom.volumes import read_dicom_volumes
from medseg.inference.cases import Segmented
from medseg.services.desk import listed
from medseg.services.executors import LocalExecutor
from medseg.services.intake import receive_studies
from medseg.services.jobs import Job, LedgerError, NewJob, job_key
from medseg.services.ledger import Ledger
from medseg.services.local_disk import is_full
from medseg.services.models import LoadedModel
from medseg.services.publish import is_intact, publish
from medseg.services.reader import Reader, ReadLimits
from medseg.services.workplace import Workplace
from medseg.sources.dicom_folder import DicomFolder

PAGE = 4096


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KiB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted; run as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def leave(folder, num_bytes):
    """Fills a disk up to so many bytes."""
    ballast = folder / "ballast"
    ballast.unlink(missing_ok=True)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(bytes(max(0, free - num_bytes)))


def results_in(folder):
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and path.name != "ballast"
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


def test_results_are_written_whole_or_not_at_all_wherever_the_room_ends(
    small_disk, tmp_path, bundle
):
    ct_study(tmp_path / "in", 0)
    (case,) = DicomFolder(str(tmp_path / "in")).cases()
    (image,) = read_dicom_volumes(tmp_path / "in")
    made = Threshold().predict(Case("x", lambda: image))
    nifti = {"nifti": {"_target_": "medseg.writers.nifti.NiftiWriter"}}
    model = recipe(bundle)
    in_nifti = type(model)(**{**model.__dict__, "output": nifti})
    writers = [*LoadedModel(model).writers, *LoadedModel(in_nifti).writers]
    job = Job(
        1,
        "k",
        "series",
        case.key,
        None,
        "leased",
        "m",
        1,
        0,
        0,
        {},
        (),
        "",
        "",
        "",
        "",
        0.0,
        0.0,
        0,
    )
    out = small_disk / "out"
    failures = 0

    for pages in range(12):
        leave(small_disk, pages * PAGE)
        try:
            results = publish(Segmented(made), case, job=job, writers=writers, folder=out)
        except OutputError as error:
            failures += 1
            assert is_full(error), pages  # noqa: PT017
            assert results_in(small_disk) == [], pages
        else:
            assert all(is_intact(result) for result in results)
            assert len(results_in(small_disk)) == 2
            break

    assert 3 <= failures < 11  # the loop has met the end of the room in more than one place


def test_the_ledger_is_whole_wherever_the_room_ends(small_disk):
    ledger = Ledger(small_disk / "ledger.sqlite")
    ledger.receive(NewJob("series", job_key(0), "case_0", {"text": "x" * 500}))
    full = 0
    for number in range(1, 40):
        leave(small_disk, (number % 13) * PAGE)
        before = len(ledger.jobs())
        try:
            ledger.receive(NewJob("series", job_key(number), f"case_{number}", {"t": "x" * 2000}))
        except LedgerError as error:
            assert error.code == "E_DISK_FULL"  # noqa: PT017
            full += 1
            assert len(ledger.jobs()) == before
        else:
            assert len(ledger.jobs()) == before + 1

    (small_disk / "ballast").unlink()
    assert full > 3
    assert ledger.query("PRAGMA integrity_check") == [("ok",)]
    assert ledger.receive(NewJob("series", job_key("last"), "last", {}))
    ledger.close()


def test_a_batch_waits_for_room_and_goes_on(small_disk, tmp_path, bundle):
    for number in range(3):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    reader = Reader(limits=ReadLimits(), folder=tmp_path / "work", options={})
    place = Workplace(
        Ledger(tmp_path / "ledger.sqlite"),
        {"model": recipe(bundle)},
        small_disk / "out",
        tmp_path / "work",
        build_predictor=lambda made, options: Threshold(),
        reader=reader,
    )
    receive_studies(
        tmp_path / "in", ledger=place.ledger, models=list(place.models.values()), reading={}
    )
    leave(small_disk, 0)
    worker = threading.Thread(
        target=LocalExecutor(disk_reserve_gb=0).run,
        args=(place,),
        kwargs={"stop": threading.Event(), "until_empty": True},
    )
    worker.start()
    until = time.monotonic() + 60
    while not any('"given back"' in line for line in place.ledger.events()):
        assert time.monotonic() < until
        time.sleep(0.05)
    # The next attempt may be under way by now; what it writes is not to be seen as a result.
    assert [name for name in results_in(small_disk) if not name.startswith(".")] == []

    (small_disk / "ballast").unlink()
    worker.join(60)

    reader.close()
    assert [job.state for job in listed(place.ledger)] == ["done"] * 3
    assert results_in(small_disk) == ["study_0.dcm", "study_1.dcm", "study_2.dcm"]
