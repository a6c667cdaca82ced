"""Objects as files: maps and lists that come back, for pictures and volumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import object_cases
import pytest
from PIL import Image

from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.core.volume import Volume
from medseg.sources.instance_maps import read_instance_map
from medseg.writers.nifti import NiftiWriter

GRID = Geometry.from_spacing(
    (20, 16, 6), spacing_mm=(1.0, 2.0, 3.0), orientation="LPS", origin_mm=(5.0, 6.0, 7.0)
)


def case_of(geometry, *, name="a.nii.gz"):
    volume = Volume(np.zeros((1, *geometry.shape), np.float32), geometry)
    return Case("a", read_image=lambda: volume, paths=(Path(name),))


def scored(instances):
    scores = np.linspace(0.9, 0.5, len(instances)).astype(np.float32)
    return replace(instances, scores=scores, labels=object_cases.NUCLEI)


def masks_of(instances):
    return [instances.mask(n) for n in range(1, len(instances) + 1)]


def test_objects_of_a_volume_come_back_from_nifti_and_list(tmp_path):
    array = np.zeros(GRID.shape, np.uint16)
    array[2:6, 3:5, 1:3], array[10:12, 3, 0] = 1, 2
    result = scored(InstanceSet.from_map(array, GRID))

    paths = NiftiWriter().write(result, case_of(GRID), folder=tmp_path)

    assert [path.name for path in paths] == ["a.nii.gz", "a.json"]
    stored = nibabel.load(paths[0])
    assert np.array_equal(np.asarray(stored.dataobj), array)
    assert np.allclose(stored.affine, GRID.affine)
    content = json.loads(paths[1].read_text())
    first = content["instances"][0]
    assert (first["id"], first["class"], first["class_id"]) == (1, "nucleus", 1)
    assert first["volume_mm3"] == 16 * 6
    assert first["voxels"] == 16
    assert first["score"] == pytest.approx(0.9)
    assert first["box"] == [2, 3, 1, 6, 5, 3]
    # i runs to the left and j to the back: R = 5 - i, A = 6 - 2 j, S = 7 + 3 k.
    assert first["centroid_mm"] == pytest.approx([5 - 3.5, 6 - 2 * 3.5, 7 + 3 * 1.5])
    assert first["box_mm"] == pytest.approx([-0.5, -3.0, 8.5, 3.5, 1.0, 14.5])
    again = read_instance_map(paths[0])
    assert again.scores == pytest.approx(result.scores, abs=1e-6)
    assert again.labels.names == ("background", "nucleus")


def test_objects_of_a_picture_are_a_picture(tmp_path):
    numbers = object_cases.discs((30, 20), 4)
    geometry = object_cases.flat((30, 20))

    paths = NiftiWriter().write(
        scored(InstanceSet.from_map(numbers, geometry)),
        case_of(geometry, name="a.png"),
        folder=tmp_path,
    )

    assert [path.name for path in paths] == ["a.png", "a.json"]
    pixels = np.asarray(Image.open(paths[0]))
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, numbers[..., 0].T)


def test_covered_parts_are_in_the_list(tmp_path):
    large, small = np.ones((6, 6, 2), np.bool_), np.ones((2, 2, 2), np.bool_)
    result = scored(
        InstanceSet.from_masks(
            [((1, 1, 0), large), ((2, 2, 0), small), ((5, 5, 1), large)],
            GRID,
            class_ids=[1, 1, 1],
        )
    )

    paths = NiftiWriter().write(result, case_of(GRID), folder=tmp_path)
    again = read_instance_map(paths[0])

    for (box, mask), (box_again, mask_again) in zip(masks_of(result), masks_of(again), strict=True):
        assert box == box_again
        assert np.array_equal(mask, mask_again)


@pytest.mark.parametrize("count", [0, 70_000])
def test_no_objects_and_more_than_sixteen_bits_hold(tmp_path, count):
    numbers = np.zeros((300, 300, 1), np.uint32)
    numbers.reshape(-1)[:count] = np.arange(1, count + 1)
    geometry = object_cases.flat((300, 300))
    result = scored(InstanceSet.from_map(numbers, geometry))

    paths = NiftiWriter().write(result, case_of(geometry, name="a.png"), folder=tmp_path)

    assert paths[0].name == ("a.tif" if count else "a.png")
    assert np.array_equal(read_instance_map(paths[0]).array, numbers)


def test_stuff_is_a_second_map(tmp_path):
    numbers = object_cases.discs((30, 20), 3)
    geometry = object_cases.flat((30, 20))
    classes = np.where(numbers > 0, 1, 2).astype(np.uint8)
    instances = replace(InstanceSet.from_map(numbers, geometry), labels=object_cases.AXONS)
    result = PanopticMap(LabelMap(classes, geometry, object_cases.AXONS), instances)

    paths = NiftiWriter().write(result, case_of(geometry, name="a.png"), folder=tmp_path)

    assert [path.name for path in paths] == ["a.png", "a_classes.png", "a.json"]
    again = read_instance_map(paths[0], classes=paths[1])
    assert isinstance(again, PanopticMap)
    assert np.array_equal(again.label_map.array, classes)
