"""CT series: geometry and values as other libraries read them, and validity by the standard."""

from __future__ import annotations

import shutil
import subprocess

import highdicom
import numpy as np
import phantoms
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg.core.errors import GeometryError, InputError, OutputError
from medseg.core.geometry import LPS_TO_RAS, Geometry
from medseg.core.volume import Volume
from medseg.dicom.ct_series import series_geometry, write_ct_series

SMALL = {"spacing_mm": (2.0, 2.5, 3.5), "shape": (13, 11, 7)}


def small_ct(orientation: str = "LPS") -> Volume:
    return phantoms.ct_of(phantoms.labelled_boxes(orientation=orientation, **SMALL))


def tilted(volume: Volume) -> Volume:
    """The same voxels on a grid turned about two axes."""
    c, s = np.cos(0.2), np.sin(0.2)
    turn = np.eye(4)
    turn[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    turn[:3, :3] @= [[1, 0, 0], [0, c, -s], [0, s, c]]
    geometry = Geometry(volume.geometry.shape, turn @ volume.geometry.affine)
    return Volume(volume.array, geometry, "CT")


def read_by_simpleitk(folder) -> tuple[np.ndarray, Geometry]:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine_lps = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine_lps[:3, :3] = direction * np.array(image.GetSpacing())
    affine_lps[:3, 3] = image.GetOrigin()
    array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return array, Geometry(array.shape, LPS_TO_RAS @ affine_lps)


def value_at(array: np.ndarray, geometry: Geometry, point_mm: np.ndarray) -> float:
    return array[tuple(np.round(geometry.to_index(point_mm)).astype(int))]


@pytest.mark.parametrize("orientation", phantoms.ALL_48_ORIENTATIONS)
def test_simpleitk_reads_every_voxel_back_at_its_position(orientation, tmp_path):
    volume = small_ct(orientation)

    write_ct_series(volume, tmp_path, case_key="boxes", seed=0)

    array, geometry = read_by_simpleitk(tmp_path)
    expected = volume.array[0]
    if np.linalg.det(volume.geometry.affine[:3, :3]) < 0:
        expected = expected[:, :, ::-1]
    # SimpleITK keeps origins as doubles of the decimal strings, which hold over ten digits.
    assert geometry.difference(series_geometry(volume.geometry), tolerance_mm=1e-6) is None
    assert np.array_equal(array, expected)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LSA"])
def test_highdicom_reads_a_tilted_series_back_at_its_position(orientation, tmp_path):
    volume = tilted(small_ct(orientation))

    paths = write_ct_series(volume, tmp_path, case_key="boxes", seed=0)

    read = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in paths])
    affine = LPS_TO_RAS @ read.affine
    hu = read.array
    for index in ((0, 0, 0), (12, 3, 1), (5, 10, 6)):
        point = volume.geometry.to_world_mm(index)
        # highdicom orders axes as slice, row, column; its affine follows.
        found = np.linalg.solve(affine[:3, :3], point - affine[:3, 3])
        assert found == pytest.approx(np.round(found), abs=1e-6)
        assert hu[tuple(np.round(found).astype(int))] == volume.array[(0, *index)]


def test_slices_follow_row_direction_cross_column_direction(tmp_path):
    paths = write_ct_series(small_ct("RPS"), tmp_path, case_key="boxes", seed=0)

    headers = [pydicom.dcmread(path) for path in paths]
    row, column = np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype(float)
    step = np.subtract(headers[1].ImagePositionPatient, headers[0].ImagePositionPatient)
    assert np.dot(np.cross(row, column), step) == pytest.approx(3.5)
    assert [header.InstanceNumber for header in headers] == [1, 2, 3, 4, 5, 6, 7]


def test_values_between_whole_hounsfield_units_are_rounded(tmp_path):
    ct = small_ct()
    array = np.full(ct.array.shape, -1000.4, np.float32)
    array[0, 3, 2, 1] = 57.6

    write_ct_series(Volume(array, ct.geometry, "CT"), tmp_path, case_key="boxes", seed=0)

    read, _ = read_by_simpleitk(tmp_path)
    assert read[3, 2, 1] == 58
    assert read[0, 0, 0] == -1000


def test_writing_twice_gives_the_same_bytes(tmp_path):
    first = write_ct_series(small_ct(), tmp_path / "a", case_key="boxes", seed=4)

    second = write_ct_series(small_ct(), tmp_path / "b", case_key="boxes", seed=4)

    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]


def test_other_keys_and_seeds_give_other_uids_under_2_25(tmp_path):
    uids = set()
    for n, (key, seed) in enumerate((("a", 0), ("b", 0), ("a", 1))):
        paths = write_ct_series(small_ct(), tmp_path / str(n), case_key=key, seed=seed)
        header = pydicom.dcmread(paths[0])
        uids |= {header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID}
        uids.add(header.FrameOfReferenceUID)

    assert len(uids) == 12
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def test_the_patient_is_synthetic_and_not_named_like_the_case(tmp_path):
    header = pydicom.dcmread(write_ct_series(small_ct(), tmp_path, case_key="a1", seed=7)[0])

    assert str(header.PatientName).startswith("SYNTHETIC^")
    assert "a1" not in str(header.PatientName).lower().split("^")
    assert header.PatientID
    assert (header.WindowCenter, header.WindowWidth) == (40, 400)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is absent")
def test_dciodvfy_finds_neither_errors_nor_warnings(tmp_path):
    paths = write_ct_series(small_ct("PIR"), tmp_path, case_key="boxes", seed=0)

    for path in paths[:2]:
        report = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in report.stdout + report.stderr
        assert "Warning" not in report.stdout + report.stderr


def test_a_sheared_grid_is_refused(tmp_path):
    volume = small_ct()
    affine = volume.geometry.affine.copy()
    affine[1, 2] += 0.5
    sheared = Volume(volume.array, Geometry(volume.geometry.shape, affine), "CT")

    with pytest.raises(GeometryError, match=r"case7: .*not at right angles.*; resample it"):
        write_ct_series(sheared, tmp_path, case_key="case7", seed=0)


@pytest.mark.parametrize("value", [-1100.0, 70000.0, np.nan])
def test_values_that_do_not_fit_are_refused(value, tmp_path):
    volume = small_ct()
    array = volume.array.astype(np.float32)
    array[0, 1, 2, 3] = value

    with pytest.raises(InputError, match=r"case7: values run from .* holds -1024 to 64511; clip"):
        write_ct_series(Volume(array, volume.geometry), tmp_path, case_key="case7", seed=0)


def test_two_channels_are_refused(tmp_path):
    volume = small_ct()
    two = Volume(np.concatenate([volume.array, volume.array]), volume.geometry)

    with pytest.raises(InputError, match=r"case7: .*one channel, the volume has 2; write each"):
        write_ct_series(two, tmp_path, case_key="case7", seed=0)


def test_a_folder_with_a_series_is_refused(tmp_path):
    write_ct_series(small_ct(), tmp_path, case_key="a", seed=0)

    with pytest.raises(OutputError, match=r"already holds a series.*; name an empty folder"):
        write_ct_series(small_ct(), tmp_path, case_key="b", seed=0)


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "taken").write_text("")

    with pytest.raises(OutputError, match=r"taken: .*cannot be written .*; check the folder's"):
        write_ct_series(small_ct(), tmp_path / "taken", case_key="a", seed=0)
