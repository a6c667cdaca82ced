"""Objects in DICOM: a segment, a tracking UID and a group of measurements for each."""

from __future__ import annotations

from dataclasses import replace

import dicom_objects
import highdicom
import numpy as np
import object_cases
import phantoms
import pytest

from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.core.volume import Volume
from medseg.sources.segmentations import read_segments
from medseg.writers.dicom_seg import DicomSegWriter
from medseg.writers.dicom_sr import DicomSrWriter

LABELS = LabelSet.from_mapping({"background": 0, "liver": 1, "tumour": {"id": 2, "thing": True}})
GRID = phantoms.grid(orientation="LPS", spacing_mm=(2.0, 3.0, 5.0), shape=(14, 12, 6))


def lesions(tmp_path, *, empty=False):
    """Two lesions, the second partly below the first, in a CT."""
    case, grid = dicom_objects.series_case(tmp_path / "in", GRID)
    hu = np.full(grid.shape, 50, np.int16)
    hu[1:5, 2:6, 1:3] = 120
    case = replace(case, read_image=lambda: Volume(hu[None], grid, "CT"))
    masks = [((1, 2, 1), np.ones((4, 4, 2), np.bool_)), ((4, 5, 2), np.ones((5, 3, 3), np.bool_))]
    instances = InstanceSet.from_masks(
        [] if empty else masks,
        grid,
        class_ids=[] if empty else [2, 2],
        scores=[] if empty else [0.9, 0.6],
        labels=LABELS,
    )
    return instances, case


def test_each_object_is_a_tracked_segment(tmp_path):
    result, case = lesions(tmp_path)

    (path,) = DicomSegWriter().write(result, case, folder=tmp_path)
    found = read_segments(path, source=case.series)

    assert [segment.label.name for segment in found.segments] == ["tumour 1", "tumour 2"]
    assert [segment.num_voxels for segment in found.segments] == [32, 45]
    assert len({segment.tracking_uid for segment in found.segments}) == 2
    assert all(segment.tracking_uid for segment in found.segments)
    assert {segment.label.type.meaning for segment in found.segments} == {"Neoplasm"}


def test_dcmqi_reads_every_object_whole_where_they_overlap(tmp_path):
    result, case = lesions(tmp_path)

    (path,) = DicomSegWriter().write(result, case, folder=tmp_path)

    masks = dicom_objects.dcmqi_masks(path, tmp_path / "dcmqi", result.geometry)
    first, second = np.zeros((2, *GRID.shape), np.bool_)
    first[1:5, 2:6, 1:3] = True
    second[4:9, 5:8, 2:5] = True
    assert (first & second).any()
    assert sorted(masks) == [1, 2]
    assert np.array_equal(masks[1], first)
    assert np.array_equal(masks[2], second)


def test_each_object_is_a_group_of_measurements(tmp_path):
    result, case = lesions(tmp_path)
    (seg_path,) = DicomSegWriter().write(result, case, folder=tmp_path)
    seg = highdicom.seg.segread(seg_path)

    (path,) = DicomSrWriter().write(result, case, folder=tmp_path)
    groups = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()

    volumes = [{m.name.meaning: m.value for m in group.get_measurements()} for group in groups]
    assert [entry["Volume"] for entry in volumes] == [32 * 30.0, 45 * 30.0]
    assert volumes[0]["Attenuation Coefficient"] == 120.0
    assert [group.tracking_uid for group in groups] == [
        item.TrackingUID for item in seg.SegmentSequence
    ]


def test_stuff_is_a_segment_behind_the_objects(tmp_path):
    instances, case = lesions(tmp_path)
    classes = np.where(instances.array > 0, 2, 0).astype(np.uint8)
    classes[:, :2] = 1
    result = PanopticMap(LabelMap(classes, instances.geometry, LABELS), instances)

    (path,) = DicomSegWriter().write(result, case, folder=tmp_path)

    found = read_segments(path, source=case.series)
    assert [segment.label.name for segment in found.segments] == ["tumour 1", "tumour 2", "liver"]
    assert found.segments[2].num_voxels == 14 * 2 * 6


def test_no_objects_are_written_as_looked_for(tmp_path):
    result, case = lesions(tmp_path, empty=True)

    (path,) = DicomSegWriter().write(result, case, folder=tmp_path)
    (report,) = DicomSrWriter().write(result, case, folder=tmp_path)

    seg = highdicom.seg.segread(path)
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["tumour"]
    assert not seg.pixel_array.any()
    groups = highdicom.sr.srread(report).content.get_volumetric_roi_measurement_groups()
    assert [m.value for group in groups for m in group.get_measurements()] == [0.0]


def test_more_objects_than_segments_are_refused():
    from medseg.core.errors import OutputError
    from medseg.writers.object_segments import object_segments

    numbers = np.arange(1, 66_001, dtype=np.uint32).reshape(660, 100)
    with pytest.raises(OutputError, match=r"a: has 66000 objects, .* 65535 segments; set output="):
        object_segments(object_cases.instances(numbers, labels=object_cases.NUCLEI), where="a")
