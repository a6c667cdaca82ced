"""`medseg batch` and `medseg jobs` as a person types them."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pydicom
import pytest
from command_line import medseg_main
from learning_cases import block
from service_cases import CANARY, ct_study, tiny_bundle

from medseg.cli.commands import main
from medseg.services.audit import check_chain
from medseg.sources.nifti_io import read_nifti
from medseg.writers.nifti_file import write_nifti


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Three good studies, one with a missing slice and one that is no DICOM, once through batch."""
    root = tmp_path_factory.mktemp("batch")
    tiny_bundle(root / "bundle")
    for number in range(4):
        ct_study(root / "in" / f"study_{number}", number)
    sorted((root / "in" / "study_3").rglob("*.dcm"))[4].unlink()
    (root / "in" / "broken").mkdir()
    (root / "in" / "broken" / f"{CANARY}.dcm").write_bytes(b"no DICOM at all")
    return root, medseg_main(words(root))


def words(root: Path) -> list[str]:
    return [
        "batch",
        f"bundle={root / 'bundle'}",
        f"source.folder={root / 'in'}",
        f"paths.output={root / 'out'}",
        f"paths.ledger={root / 'state' / 'ledger.sqlite'}",
        "executor.disk_reserve_gb=0",
        "output=[dicom_seg]",
        "device=cpu",
    ]


def listed(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict]:
    capsys.readouterr()
    ledger = f"paths.ledger={root / 'state' / 'ledger.sqlite'}"
    assert main(["jobs", "list", ledger, "format=json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_good_studies_have_a_result_and_bad_ones_a_reason(ran, capsys):
    root, code = ran

    assert code == 3
    jobs = {Path(job["source"]).name: job for job in listed(root, capsys)}
    assert {name: job["state"] for name, job in jobs.items()} == {
        "study_0": "done",
        "study_1": "done",
        "study_2": "done",
        "study_3": "quarantined",
        "broken": "quarantined",
    }
    assert jobs["study_3"]["code"] == "E_SLICE_GAP"
    assert jobs["broken"]["code"] == "E_HEADER"
    assert sorted(path.name for path in (root / "out").iterdir()) == [
        "study_0.dcm",
        "study_1.dcm",
        "study_2.dcm",
    ]
    (result,) = jobs["study_0"]["results"]
    seg = pydicom.dcmread(root / "out" / "study_0.dcm")
    assert result["sop_instance"] == seg.SOPInstanceUID
    assert seg.PatientID == f"{CANARY}-ID000"  # the result is the patient's, as it must be


def test_the_same_command_again_repeats_nothing(ran, capsys):
    root, _ = ran
    before = {path: path.stat().st_mtime_ns for path in (root / "out").iterdir()}

    assert main(words(root)) == 3

    assert "0 of 5 segmented" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (root / "out").iterdir()} == before


def test_it_says_where_the_results_of_earlier_runs_are(ran, capsys, tmp_path):
    root, _ = ran
    shutil.copytree(root / "state", tmp_path / "state")
    elsewhere = [*words(root)]
    elsewhere[elsewhere.index(f"paths.output={root / 'out'}")] = f"paths.output={tmp_path / 'new'}"

    assert main(elsewhere) == 3
    said = capsys.readouterr().out
    assert f"3 results of earlier runs are in {root / 'out'}" in said

    moved = root / "out" / "study_0.dcm"
    moved.rename(tmp_path / "study_0.dcm")
    assert main(words(root)) == 3
    said = capsys.readouterr().out
    assert "1 results of earlier runs are no longer where they were written" in said
    assert "earlier runs are in" not in said
    (tmp_path / "study_0.dcm").rename(moved)


def test_jobs_can_be_chosen_shown_and_exported(ran, capsys, tmp_path):
    root, _ = ran
    ledger = f"paths.ledger={root / 'state' / 'ledger.sqlite'}"

    (bad, _) = sorted(
        listed(root, capsys, "states=[quarantined]"), key=lambda job: job["code"], reverse=True
    )
    assert main(["jobs", "show", bad["name"], ledger]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "E_SLICE_GAP" in shown
    assert "slice missing between" in shown
    assert main(["jobs", "list", ledger]) == 0
    assert "study_0" in capsys.readouterr().out
    assert main(["jobs", "export", ledger, f"paths.output={tmp_path / 'exported'}"]) == 0
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == [
        "audit.jsonl",
        "jobs.csv",
        "jobs.json",
        "ledger.sqlite",
    ]


def test_the_audit_trail_is_whole_and_names_nobody(ran):
    root, _ = ran
    path = root / "state" / "ledger.audit.jsonl"
    lines = path.read_text().splitlines()

    assert check_chain(lines, where=path) == len(lines) >= 12
    assert CANARY not in path.read_text()
    assert [json.loads(line)["event"] for line in lines].count("done") == 3
    del lines[3]
    with pytest.raises(Exception, match="line 4 does not follow"):
        check_chain(lines, where=path)


def test_the_audit_trail_is_verified_against_the_ledger_and_a_copy(ran, capsys, tmp_path):
    root, _ = ran
    shutil.copytree(root / "state", tmp_path / "state")
    ledger = tmp_path / "state" / "ledger.sqlite"
    trail = ledger.with_suffix(".audit.jsonl")
    kept = trail.read_text().splitlines(keepends=True)
    command = ["jobs", "verify", f"paths.ledger={ledger}"]

    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{len(kept)} events" in said
    assert f"{len(kept)} of them" in said

    copy = tmp_path / "copy.jsonl"
    copy.write_text("".join(kept[:5]))
    assert main([*command, f"audit={copy}"]) == 0
    assert "5 of them" in " ".join(capsys.readouterr().out.split())
    copy.write_text("".join([*kept[:2], kept[2].replace("received", "RECEIVED"), *kept[3:5]]))
    assert main([*command, f"audit={copy}"]) == 1
    assert "line 3 is not in the ledger so" in capsys.readouterr().err

    assert main([*command, f"audit={tmp_path / 'none'}"]) == 1
    assert "there is no such file" in capsys.readouterr().err

    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("DELETE FROM events WHERE id = 4")
    assert main(command) == 1
    assert "line 4 does not follow" in capsys.readouterr().err


def test_a_name_without_a_job_and_a_ledger_that_is_not_there_are_told(ran, capsys, tmp_path):
    root, _ = ran

    ledger = f"paths.ledger={root / 'state' / 'ledger.sqlite'}"
    assert main(["jobs", "show", "nothing", ledger]) == 1
    assert "holds 0 jobs called 'nothing'" in capsys.readouterr().err
    assert main(["jobs", "list", f"paths.ledger={tmp_path / 'none'}"]) == 1
    assert "there is no such ledger" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_results_may_not_lie_among_the_studies(ran, capsys):
    root, _ = ran

    code = main([*words(root), f"paths.output={root / 'in' / 'out'}"])

    assert code == 1
    assert "set paths.output and paths.ledger to places outside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("a: {modality: [CT]}", "models.a: has no bundle"),
        ("a: {bundle: [x, null]}", "models.a.bundle: is ['x', None]"),
        ("a: {bundle: {x: y}}", "models.a.bundle: is {'x': 'y'}"),
        ("a: {bundle: 5}", "5: is no model bundle"),
        ("a-b: {bundle: x}", "cannot be part of a file name"),
        ("a: {bundle: BUNDLE, description: '['}", "is no regular expression"),
        ("a: {bundle: BUNDLE, modalty: [CT]}", "a model has bundle and any of modality"),
    ],
)
def test_a_wrong_rule_is_told_with_its_place(ran, capsys, model, message):
    root, _ = ran
    entry = model.replace("BUNDLE", str(root / "bundle"))

    code = main([*words(root), "bundle=null", f"models={{{entry}}}"])

    assert code == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_several_bundles_segment_studies_together(tmp_path):
    bundles = [tiny_bundle(tmp_path / name) for name in ("one", "two")]
    ct_study(tmp_path / "in" / "study", 0)
    given = [word for word in words(tmp_path) if not word.startswith(("bundle=", "output="))]

    code = main(
        [
            *given,
            f"bundle=[{bundles[0]},{bundles[1]}]",
            "output=[dicom_seg,uncertainty]",
            "output.uncertainty.format=dicom_seg",
        ]
    )

    assert code == 0
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (seg,) = [path for path in (tmp_path / "out").rglob("*.dcm") if "uncertainty" not in path.name]
    (quality,) = (tmp_path / "out").rglob("*_quality.json")
    assert seg.name.replace(".dcm", "_uncertainty.dcm") in files
    segment = pydicom.dcmread(seg).SegmentSequence[0]
    assert segment.SegmentAlgorithmName == "untrained + untrained"
    assert set(json.loads(quality.read_text())["expected_dice"]) == {"liver", "tumour"}
    assert CANARY not in quality.read_text()
    assert not [path for path in (tmp_path / "out").rglob("*") if CANARY in path.name]


def test_a_classical_method_segments_a_tree_of_studies_too(tmp_path, capsys):
    for number in range(2):
        ct_study(tmp_path / "in" / f"study_{number}", number)
    command = ["baseline=otsu" if "bundle=" in word else word for word in words(tmp_path)]

    assert main(command) == 0

    assert [job["state"] for job in listed(tmp_path, capsys)] == ["done", "done"]
    seg = pydicom.dcmread(tmp_path / "out" / "study_1.dcm")
    assert seg.SegmentSequence[0].SegmentAlgorithmName == "medseg baseline Otsu"
    assert seg.pixel_array.any()


def test_a_classical_method_and_a_bundle_are_one_too_many(tmp_path, capsys):
    (tmp_path / "in").mkdir()

    assert main([*words(tmp_path), "baseline=otsu"]) == 1

    assert "baseline: is given beside bundle or models" in capsys.readouterr().err


def test_results_go_out_without_the_patient(tmp_path, capsys):
    tiny_bundle(tmp_path / "bundle")
    ct_study(tmp_path / "in" / f"{CANARY}_1", 0)
    (tmp_path / "key").write_text("0123456789abcdef0123456789abcdef")
    command = [word for word in words(tmp_path) if not word.startswith("output=")]
    options = ["deidentify=basic", f"deidentify.key_file={tmp_path / 'key'}"]

    assert main([*command, *options, "output=[dicom_seg,dicom_sr,nifti,rtstruct]"]) == 0

    paths = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(paths) == 4
    for path in paths:
        assert CANARY not in path.name
        assert CANARY.encode() not in path.read_bytes(), path.name
    assert {path.name.partition(".")[0].split("_")[0] for path in paths} == {"case"}
    found = [pydicom.dcmread(path) for path in paths if path.suffix == ".dcm"]
    assert len({one.StudyInstanceUID for one in found}) == 1
    assert {str(one.PatientIdentityRemoved) for one in found} == {"YES"}


def test_without_a_key_nothing_is_begun(tmp_path, capsys):
    tiny_bundle(tmp_path / "bundle")
    ct_study(tmp_path / "in" / "study", 0)
    options = ["deidentify=basic", f"deidentify.key_file={tmp_path / 'none'}"]

    assert main([*words(tmp_path), *options]) == 1

    assert "deidentify.key_file: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_nifti_files_is_a_tree_of_studies_too(tmp_path, capsys):
    image, _ = block(1, modality="CT")
    for name in ("a", "b"):
        write_nifti(image.array[0], image.geometry, tmp_path / "in" / "ward" / f"{name}.nii.gz")
    content = (tmp_path / "in" / "ward" / "a.nii.gz").read_bytes()
    (tmp_path / "in" / "broken.nii.gz").write_bytes(content[: len(content) // 2])
    command = ["baseline=otsu" if "bundle=" in word else word for word in words(tmp_path)]
    command = [word for word in command if not word.startswith("output=")]

    assert main([*command, "source=nifti_files"]) == 1
    assert "output: names dicom_seg, which need DICOM series" in capsys.readouterr().err
    assert main([*command, "source=nifti_files", "output=[nifti]"]) == 3

    jobs = {Path(job["source"]).name: job for job in listed(tmp_path, capsys)}
    states = {name: job["state"] for name, job in jobs.items()}
    assert states == {"a.nii.gz": "done", "b.nii.gz": "done", "broken.nii.gz": "quarantined"}
    assert jobs["a.nii.gz"]["name"] == "ward_a"
    assert jobs["broken.nii.gz"]["code"].startswith("E_")
    written = read_nifti(tmp_path / "out" / "ward_a.nii.gz")
    np.testing.assert_allclose(written.geometry.affine, image.geometry.affine, atol=1e-4)
    assert written.array.any()
