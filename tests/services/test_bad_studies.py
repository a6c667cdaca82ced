"""Every kind of DICOM that is refused, as a study among others: each has its record and code."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from dicom.test_invalid_kinds import REFUSED
from service_cases import build_threshold, ct_study, recipe, tiny_bundle

from medseg.services.desk import listed
from medseg.services.executors import LocalExecutor
from medseg.services.intake import receive_studies
from medseg.services.ledger import Ledger
from medseg.services.workplace import Workplace


@pytest.mark.slow
def test_every_kind_of_bad_study_is_set_aside_with_its_code(tmp_path):
    model = recipe(tiny_bundle(tmp_path / "bundle"))
    # What is not there at all is no study.
    kinds = {name: kind for name, kind in REFUSED.items() if kind[0] != "E_NO_FILE"}
    for name, (_, build) in kinds.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        build(tmp_path / "in" / name)
    ct_study(tmp_path / "in" / "good", 1)
    place = Workplace(
        Ledger(tmp_path / "ledger.sqlite"),
        {"model": model},
        tmp_path / "out",
        tmp_path / "work",
        build_predictor=build_threshold,
    )
    receive_studies(tmp_path / "in", ledger=place.ledger, models=[model], reading={})

    LocalExecutor(disk_reserve_gb=0).run(place, stop=threading.Event(), until_empty=True)

    found: dict[str, set[str]] = {}
    for job in listed(place.ledger):
        if job.state == "quarantined":
            found.setdefault(Path(job.source["path"]).name, set()).add(job.code)
    assert {
        name: code for name, (code, _) in kinds.items() if code not in found.get(name, ())
    } == {}
    assert (tmp_path / "out" / "good.dcm").is_file()
