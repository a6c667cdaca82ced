"""Measurement reports hold the right numbers and refer to the segmentation they are of."""

import dataclasses

import dicom_objects
import highdicom
import numpy as np
import phantoms
import pytest

from medseg.core.errors import OutputError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.writers.dicom_seg import write_dicom_seg
from medseg.writers.dicom_sr import DicomSrWriter, longest_diameter_mm, write_dicom_sr

LABELS = LabelSet.from_names(["background", "liver", "kidney_left_cyst", "spleen"])
GRID = phantoms.grid(orientation="LPS", spacing_mm=(2.0, 3.0, 5.0), shape=(14, 12, 6))


def boxes(tmp_path):
    """A box of 100 HU, a smaller one of 20 HU, an empty class, and their case."""
    case, grid = dicom_objects.series_case(tmp_path / "in", GRID)
    array = np.zeros(grid.shape, np.uint8)
    array[1:11, 2:6, 1:4] = 1  # 10 x 4 x 3 voxels
    array[3:5, 8:9, 2:3] = 2
    hu = np.where(array == 1, 100, np.where(array == 2, 20, -50)).astype(np.int16)
    hu[1, 2, 1] = 220  # 100 + 120 / 120 voxels
    case = dataclasses.replace(case, read_image=lambda: Volume(hu[None], grid, "CT"))
    return LabelMap(array, grid, LABELS), case


def written(tmp_path):
    label_map, case = boxes(tmp_path)
    seg = write_dicom_seg(label_map, case, tmp_path / "case_1.dcm")
    (path,) = DicomSrWriter(algorithm_name="liver-3d").write(label_map, case, folder=tmp_path)
    return highdicom.sr.srread(path), path, seg


def measurements(group):
    return {m.name.meaning: (m.value, m.unit.value) for m in group.get_measurements()}


def test_numbers_are_those_worked_out_by_hand(tmp_path):
    report, _, _ = written(tmp_path)

    groups = report.content.get_volumetric_roi_measurement_groups()

    liver, cyst, spleen = (measurements(group) for group in groups)
    assert liver["Volume"] == (120 * 30.0, "mm3")
    assert liver["Long axis"] == (pytest.approx(np.hypot(10 * 2, 4 * 3), rel=1e-5), "mm")
    assert liver["Attenuation Coefficient"] == (101.0, "[hnsf'U]")
    assert cyst["Volume"] == (60.0, "mm3")
    assert cyst["Long axis"] == (5.0, "mm")  # 4 mm by 3 mm
    assert cyst["Attenuation Coefficient"][0] == 20.0
    assert spleen == {"Volume": (0.0, "mm3")}


def test_each_group_refers_to_its_segment(tmp_path):
    report, _, seg_path = written(tmp_path)
    seg = highdicom.seg.segread(seg_path)

    groups = report.content.get_volumetric_roi_measurement_groups()

    for number, group in enumerate(groups, start=1):
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert reference[0].ReferencedSOPSequence[0].ReferencedSegmentNumber == number
        assert group.tracking_uid == seg.SegmentSequence[number - 1].TrackingUID
    assert groups[0].finding_type.value == "10200004"
    assert groups[1].finding_type.meaning == "Cyst"
    assert groups[1].finding_sites[0].laterality.meaning == "Left"
    assert groups[1].finding_sites[0].value.meaning == "Kidney"


def test_dciodvfy_finds_nothing_wrong(tmp_path):
    _, path, _ = written(tmp_path)

    assert dicom_objects.problems_of(path) == []


def test_the_report_is_not_verified_and_lies_in_the_patients_study(tmp_path):
    report, _, seg_path = written(tmp_path)
    seg = highdicom.seg.segread(seg_path)

    assert report.StudyInstanceUID == seg.StudyInstanceUID
    assert report.PatientID == seg.PatientID
    assert report.VerificationFlag == "UNVERIFIED"
    assert "not reviewed" in report.SeriesDescription
    assert report.SeriesNumber == 103


def test_the_same_result_gives_the_same_bytes(tmp_path):
    label_map, case = boxes(tmp_path)
    seg = write_dicom_seg(label_map, case, tmp_path / "seg.dcm")

    first = write_dicom_sr(label_map, case, tmp_path / "1.dcm", seg_path=seg)
    second = write_dicom_sr(label_map, case, tmp_path / "2.dcm", seg_path=seg)

    assert first.read_bytes() == second.read_bytes()


def test_the_diameter_is_the_longest_in_any_slice_not_across_slices():
    mask = np.zeros((8, 8, 3), bool)
    mask[1:3, 1, 0] = True
    mask[1:6, 1:4, 2] = True

    assert longest_diameter_mm(mask, (1.0, 2.0)) == pytest.approx(np.hypot(5, 6))


def test_without_the_segmentation_there_is_nothing_to_refer_to(tmp_path):
    label_map, case = boxes(tmp_path)

    with pytest.raises(
        OutputError, match=r"case_1: has no DICOM segmentation case_1.dcm .*output="
    ):
        DicomSrWriter().write(label_map, case, folder=tmp_path)


def test_the_segmentation_of_another_series_is_refused(tmp_path):
    label_map, case = boxes(tmp_path)
    other, grid = dicom_objects.series_case(tmp_path / "other", GRID, key="other")
    seg = write_dicom_seg(LabelMap(label_map.array, grid, LABELS), other, tmp_path / "seg.dcm")

    with pytest.raises(OutputError, match=r"seg.dcm was made from another series; write the seg"):
        write_dicom_sr(label_map, case, tmp_path / "sr.dcm", seg_path=seg)


def test_a_case_that_is_no_dicom_is_refused():
    label_map = LabelMap(np.zeros(GRID.shape, np.uint8), GRID, LABELS)

    with pytest.raises(OutputError, match="is no DICOM series, so DICOM-SR"):
        write_dicom_sr(label_map, Case("n", lambda: None), "x.dcm", seg_path="y.dcm")
