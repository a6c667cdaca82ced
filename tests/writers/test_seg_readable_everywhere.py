"""Forty segmentations that differ in grid and content: valid, and read voxel by voxel by others.

Eight kinds of series times five contents, from no voxel at all to 104 segments.
"""

from __future__ import annotations

import shutil

import dicom_objects
import numpy as np
import phantoms
import pydicom
import pytest

from medseg.core.geometry import LPS_TO_RAS
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.writers.dicom_seg import write_dicom_seg

pytestmark = pytest.mark.slow

OBLIQUE = dicom_objects.oblique_geometry((19, 18, 7))
SERIES = {
    "oblique, 19 x 18": lambda folder: dicom_objects.series_case(folder, OBLIQUE),
    "axial": lambda folder: plain(folder, "LPS", (13, 16, 7)),
    "sagittal": lambda folder: plain(folder, "PIR", (17, 9, 8)),
    "coronal, left-handed": lambda folder: plain(folder, "LIP", (7, 11, 9)),
    "one slice": lambda folder: plain(folder, "LPS", (19, 18, 1)),
    "tilted": lambda folder: dicom_objects.tilted_case(folder, OBLIQUE),
    "shuffled files": lambda folder: shuffled(folder),
    "enhanced, frames reversed": lambda folder: dicom_objects.enhanced_case(folder, OBLIQUE),
}
NUM_SEGMENTS = {"empty": 3, "1": 1, "2": 2, "7, one of them empty": 7, "104": 104}


@pytest.mark.parametrize("content", NUM_SEGMENTS)
@pytest.mark.parametrize("name", SERIES)
def test_it_is_valid_and_others_read_every_voxel(tmp_path, name, content):
    case, grid = SERIES[name](tmp_path / "in")
    label_map = segments(grid, content)

    path = write_dicom_seg(label_map, case, tmp_path / "seg.dcm")

    assert dicom_objects.problems_of(path) == []
    masks = masks_by_frame(path, grid)
    assert_equal(masks, label_map)
    if name != "tilted":  # highdicom has no volume with planes that lean
        assert_equal(dicom_objects.highdicom_masks(path, grid), label_map)
        assert_equal(dicom_objects.dcmqi_masks(path, tmp_path / "q", grid), label_map)


def plain(folder, orientation, shape):
    return dicom_objects.series_case(folder, phantoms.grid(orientation=orientation, shape=shape))


def shuffled(folder):
    """A series whose file names, and order in the reference, have nothing to do with positions."""
    case, grid = dicom_objects.series_case(folder / "made", OBLIQUE)
    order = np.random.default_rng(3).permutation(len(case.series.paths))
    paths = []
    for number, position in enumerate(order):
        path = folder / f"IM{number:04d}"
        shutil.move(case.series.paths[position], path)
        paths.append(path)
    return dicom_objects.case_of(paths), grid


def segments(grid, content):
    """Random voxels, so that no two planes or directions are alike."""
    count = NUM_SEGMENTS[content]
    rng = np.random.default_rng(len(content) + count)
    array = rng.integers(0, count + 1, grid.shape).astype(np.uint8)
    array[0] = 0
    if content == "empty":
        array[:] = 0
    if content.endswith("empty"):
        array[array == 4] = 0
    names = ["background", *(f"organ_{n}" for n in range(1, count + 1))]
    return LabelMap(array, grid, LabelSet.from_names(names))


def masks_by_frame(path, grid):
    """Masks from pydicom alone, each frame placed by its own position and the source's grid."""
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    masks = {}
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = group.PlanePositionSequence[0].ImagePositionPatient
        index = grid.to_index(np.array([corner], float) @ LPS_TO_RAS[:3, :3].T)[0]
        assert np.abs(index - np.rint(index)).max() < 1e-2
        assert np.rint(index[:2]).tolist() == [0, 0]
        mask = masks.setdefault(number, np.zeros(grid.shape, bool))
        mask[:, :, round(float(index[2]))] = frame.T > 0
    return masks


def assert_equal(masks, label_map):
    for label in label_map.labels.foreground:
        expected = label_map.array == label.class_id
        found = masks.get(label.class_id, np.zeros_like(expected))
        np.testing.assert_array_equal(found > 0, expected, err_msg=label.name)
