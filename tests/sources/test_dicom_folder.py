"""Folders of DICOM as cases: keys from folder names, patients kept together, files in order."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import dicom_cases as cases
import numpy as np
import phantoms
import pydicom
import pytest
from dicom_cases import SHAPE, save, save_all, slices

from medseg.core.errors import InputError
from medseg.sources.dicom_folder import DicomFolder


def test_one_volume_per_folder_is_named_after_its_folders(tmp_path: Path) -> None:
    save_all(slices(), tmp_path / "Study1" / "13_HCropVolume")
    save_all(slices(), tmp_path / "Study2" / "7 T1 (post)")

    keys = [case.key for case in DicomFolder(str(tmp_path)).cases()]

    assert keys == ["Study1_13_HCropVolume", "Study2_7_T1_post"]


def test_a_folder_given_directly_names_its_case(tmp_path: Path) -> None:
    save_all(slices(), tmp_path / "Study1" / "13_HCropVolume")

    (case,) = DicomFolder(str(tmp_path / "Study1" / "13_HCropVolume")).cases()

    assert case.key == "13_HCropVolume"


def test_several_volumes_in_a_folder_get_a_hash_and_a_number(tmp_path: Path) -> None:
    save_all(slices(), tmp_path / "mixed", name="a{k}")
    save(cases.enhanced(times=2), tmp_path / "mixed" / "two_times.dcm")

    keys = [case.key for case in DicomFolder(str(tmp_path)).cases()]

    assert len(set(keys)) == 3
    assert sum(bool(re.fullmatch(r"mixed_[0-9a-f]{8}", key)) for key in keys) == 1
    assert sum(bool(re.fullmatch(r"mixed_[0-9a-f]{8}_00[12]", key)) for key in keys) == 2


def test_keys_hold_nothing_of_the_headers(tmp_path: Path) -> None:
    datasets = slices()
    save_all(datasets, tmp_path / "x")

    (case,) = DicomFolder(str(tmp_path)).cases()

    for forbidden in ("LEAK", datasets[0].SeriesInstanceUID, datasets[0].StudyInstanceUID):
        assert forbidden not in case.key
        assert forbidden not in case.group


def test_a_case_reads_its_volume_and_knows_its_series(tmp_path: Path) -> None:
    save_all(slices(), tmp_path)

    (case,) = DicomFolder(str(tmp_path)).cases()
    volume = case.read_image()

    expected = cases.expected_values(volume.geometry.affine, SHAPE)
    assert np.abs(volume.array[0] - expected).max() <= 0.6
    assert case.series is not None
    assert case.series.paths == case.paths
    assert len(case.paths) == SHAPE[2]


def test_cases_of_one_patient_share_their_group(tmp_path: Path) -> None:
    save_all(slices(), tmp_path / "a")
    save_all(slices(), tmp_path / "b")
    other = slices()
    for ds in other:
        ds.PatientID, ds.PatientName = "LEAK-2", "LEAK^TWO"
    save_all(other, tmp_path / "c")

    groups = [case.group for case in DicomFolder(str(tmp_path)).cases()]

    assert groups[0] == groups[1] != groups[2]


def test_a_case_can_be_sent_to_a_worker_process(tmp_path: Path) -> None:
    save_all(slices(), tmp_path)
    (case,) = DicomFolder(str(tmp_path)).cases()

    volume = pickle.loads(pickle.dumps(case)).read_image()

    assert volume.spatial_shape == SHAPE


def test_an_archive_can_be_read_after_its_index_is_gone(tmp_path: Path) -> None:
    paths = save_all(slices(), tmp_path / "in")
    archive_path = tmp_path / "study 1.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:
        for path in paths:
            archive.write(path, path.name)

    (case,) = DicomFolder(str(archive_path)).cases()

    assert case.key == "study_1"
    assert case.read_image().spatial_shape == SHAPE
    assert pickle.loads(pickle.dumps(case)).read_image().spatial_shape == SHAPE


def test_refused_series_are_logged_and_the_rest_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_all(slices(), tmp_path / "good")
    bad = slices()
    save_all([*bad[:4], *bad[6:]], tmp_path / "bad")

    cases_found = DicomFolder(str(tmp_path)).cases()

    assert [case.key for case in cases_found] == ["good"]
    assert "left out, E_" in caplog.text


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no DICOM image") as caught:
        DicomFolder(str(tmp_path)).cases()

    assert caught.value.code == "E_NO_IMAGES"
    assert "DICOMDIR" in caught.value.remedy


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        DicomFolder(str(tmp_path / "nowhere")).cases()


def test_options_are_checked_when_the_source_is_made() -> None:
    with pytest.raises(InputError, match=r"source\.on_tilt: is 'guess'"):
        DicomFolder("x", on_tilt="guess")


@pytest.mark.parametrize("name", ["LEAK-77", "Leak, T.", "TEST 19010203", "leak_test"])
def test_folders_named_after_the_patient_do_not_become_keys(tmp_path, name):
    series = tmp_path / name / "CT abdomen"
    phantoms.dicom_series(series, phantoms.sphere(centre_mm=(1, 2, 3), radius_mm=8))
    for path in series.iterdir():
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.PatientName = "LEAK-77", "LEAK^TEST"
        ds.save_as(path)

    (case,) = DicomFolder(str(tmp_path)).cases()

    assert case.key.startswith("series_")
    assert "leak" not in case.key.lower()
    assert "test" not in case.key.lower()


def test_companions_of_files_copied_by_macos_are_left_out(tmp_path):
    save_all(slices(), tmp_path)
    (tmp_path / "._003.dcm").write_bytes(b"\x00\x05\x16\x07" + bytes(100))

    (case,) = DicomFolder(str(tmp_path)).cases()

    assert case.read_image().spatial_shape == SHAPE
