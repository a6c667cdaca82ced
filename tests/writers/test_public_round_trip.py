"""What the public names promise: a result written on a series comes back on that series."""

from __future__ import annotations

from pathlib import Path

import dicom_cases
import numpy as np
import pydicom
import pytest

import medseg
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.sources.dicom_folder import DicomFolder

LABELS = LabelSet.from_names(["background", "liver", "tumour"])


def result_on(folder: Path, *, empty: bool = False) -> LabelMap:
    (volume,) = medseg.read_volumes(folder)
    array = np.zeros(volume.spatial_shape, np.uint8)
    if not empty:
        array[3:15, 4:13, 2:9] = 1
        array[6:9, 5:12, 4:7] = 2
    return LabelMap(array, volume.geometry, LABELS)


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_result_comes_back_voxel_by_voxel(kind: str, empty: bool, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    dicom_cases.save_all(dicom_cases.slices(row=(0, 1, 0), column=(0, 0, -1)), folder)
    (case,) = DicomFolder(str(folder)).cases()
    result = result_on(folder, empty=empty)

    medseg.write_dicom_seg(result, case, tmp_path / "seg.dcm", segmentation_type=kind)
    found = medseg.read_segmentation(tmp_path / "seg.dcm", source=folder)

    np.testing.assert_array_equal(found.array, result.array)
    np.testing.assert_allclose(found.geometry.affine, result.geometry.affine, atol=1e-6)
    assert found.labels.names == LABELS.names
    with pytest.raises(medseg.InputError) as caught:
        medseg.read_volumes(tmp_path / "seg.dcm")
    assert caught.value.code == "E_NO_IMAGES"


def test_segments_name_the_algorithm_and_have_colours_of_the_label_set(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    dicom_cases.save_all(dicom_cases.slices(), folder)
    (case,) = DicomFolder(str(folder)).cases()

    medseg.write_dicom_seg(
        result_on(folder), case, tmp_path / "seg.dcm", algorithm_name="livers",
        algorithm_version="3",
    )  # fmt: skip

    segments = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    colours = {tuple(segment.RecommendedDisplayCIELabValue) for segment in segments}
    assert len(colours) == 2
    for segment in segments:
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == (
            "AUTOMATIC", "livers",
        )  # fmt: skip
        assert segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "3"
        assert segment.TrackingUID


def test_a_result_on_a_straightened_series_goes_back_onto_its_slices(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    step = np.array([0.0, 2.5 * np.tan(np.radians(15)), 2.5])
    dicom_cases.save_all(dicom_cases.slices(step_lps=step), folder)
    (case,) = DicomFolder(str(folder)).cases()
    result = result_on(folder)

    medseg.write_dicom_seg(result, case, tmp_path / "seg.dcm")

    # Nearest neighbour on shifted rows: the volume of the box is kept to the rows at its rim.
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    assert ds.NumberOfFrames == 2 * dicom_cases.SHAPE[2]
    found = medseg.read_segmentation(tmp_path / "seg.dcm", source=folder)
    assert (found.array > 0).sum() == pytest.approx((result.array > 0).sum(), rel=0.15)
