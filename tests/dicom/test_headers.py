"""The index says what was found, what was left out and why, and names no patient."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import dicom_cases as cases
import pydicom
import pytest
from dicom_cases import SHAPE, save, save_all, slices

import medseg
from medseg.core.errors import InputError
from medseg.core.identity import SeriesRef
from medseg.dicom.headers import index_folder
from medseg.dicom.volumes import read_series


def test_index_lists_volumes_with_grid_and_files_in_order(tmp_path: Path) -> None:
    save_all(slices(), tmp_path)

    (found,) = index_folder(tmp_path).volumes

    assert found.geometry.shape == SHAPE
    assert found.series.modality == "CT"
    heights = [pydicom.dcmread(path).ImagePositionPatient[2] for path in found.series.paths]
    assert [float(h) for h in heights] == sorted(map(float, heights))


def test_index_says_why_files_are_left_out(tmp_path: Path) -> None:
    datasets = slices()
    save_all(datasets, tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    report = cases.other_object("1.2.840.10008.5.1.4.1.1.88.33", modality="SR")
    save(report, tmp_path / "report.dcm")
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "000.dcm").read_bytes())
    (tmp_path / "link.dcm").symlink_to(tmp_path / "000.dcm")

    reasons = {item.path.name: item.reason for item in index_folder(tmp_path).left_out}

    assert reasons["notes.txt"] == "is not a DICOM file"
    assert reasons["report.dcm"] == "is a report, not an image"
    assert "copy" in (reasons.get("copy.dcm", "") + reasons.get("000.dcm", ""))
    assert "links are not followed" in reasons["link.dcm"]


def test_index_of_a_multi_frame_file_numbers_its_frames_along_k(tmp_path: Path) -> None:
    order = [3, 0, 10, 7, 1, 9, 2, 8, 4, 6, 5]
    path = save(cases.enhanced(order=order), tmp_path / "one.dcm")

    (found,) = index_folder(tmp_path).volumes

    assert found.series.paths == (path,)
    assert found.series.frames == tuple(order.index(k) + 1 for k in range(11))


def test_one_time_of_a_multi_frame_file_can_be_read_by_its_reference(tmp_path: Path) -> None:
    save(cases.enhanced(times=2), tmp_path / "one.dcm")
    first, second = (found.series for found in index_folder(tmp_path).volumes)

    difference = read_series(second).array - read_series(first).array

    assert (difference == 100).all()


def test_patients_are_grouped_by_a_hash_that_does_not_name_them(tmp_path: Path) -> None:
    save_all(slices(), tmp_path / "a")
    save_all(slices(), tmp_path / "b")

    first, second = index_folder(tmp_path).volumes

    assert first.patient == second.patient != ""
    assert "LEAK" not in first.patient


def test_no_patient_identifier_reaches_messages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    datasets = slices()
    cases.any_value(datasets[2], "PatientName", b"LEAK^\xff\xfeTEST" * 20)
    cases.any_value(datasets[2], "PixelSpacing", b"LEAK\\TEST")
    save_all(datasets, tmp_path)

    index = index_folder(tmp_path)

    assert len(index.refused) == 1
    texts = [str(error) for error in index.refused] + [caplog.text, *capfd.readouterr()]
    assert not any("LEAK" in text for text in texts)


def test_index_entries_can_be_sent_to_worker_processes(tmp_path: Path) -> None:
    save_all(slices(), tmp_path)
    (found,) = index_folder(tmp_path).volumes

    again = pickle.loads(pickle.dumps(found))

    assert again.series == found.series


def test_a_series_reference_to_two_volumes_is_refused(tmp_path: Path) -> None:
    datasets = slices()
    save_all(datasets, tmp_path, name="a{k}")
    for ds in datasets:
        ds.SOPInstanceUID, ds.TemporalPositionIdentifier = pydicom.uid.generate_uid(), 2
    save_all(datasets, tmp_path, name="b{k}")
    first, second = (found.series for found in index_folder(tmp_path).volumes)
    both = SeriesRef("1", "2", "3", "CT", first.paths + second.paths)

    with pytest.raises(InputError, match="holds 2 volumes") as caught:
        read_series(both)

    assert caught.value.code == "E_MULTI_VOLUME"
    assert "index_folder" in caught.value.remedy


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on_gap") as caught:
        index_folder(tmp_path, on_gap="guess")

    assert "'refuse' or 'resample'" in caught.value.remedy


def test_every_code_of_the_reader_is_documented() -> None:
    root = Path(medseg.__file__).parent
    document = root.parent / "docs" / "input_errors.md"
    if not document.is_file():
        pytest.skip("the installed package carries no docs")
    names = "codestream files frames headers intensity lattice parse partition pixels selection"
    names += " values volumes"
    code = "".join((root / "dicom" / f"{name}.py").read_text() for name in names.split())

    undocumented = set(re.findall(r"\bE_[A-Z_]+", code)) - set(
        re.findall(r"\bE_[A-Z_]+", document.read_text())
    )

    assert not undocumented
