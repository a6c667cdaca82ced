"""Numbered objects from files: maps, lists, one mask per object; odd ones right or refused."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import object_cases
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from medseg.core.errors import GeometryError, InputError, LabelError
from medseg.core.run_lengths import encode_runs
from medseg.core.segmentation import InstanceSet, PanopticMap
from medseg.sources.folder import Folder


def read_only_case(folder):
    (case,) = Folder(str(folder)).cases()
    assert case.read_reference is not None
    return case.read_reference()


def one_case(folder, numbers, *, suffix=".png"):
    """A folder with the case `a` whose objects have the given numbers."""
    shape = numbers.shape
    object_cases.picture(folder / "images" / "a.png", np.full(shape, 9, np.uint8))
    if suffix == ".png":
        object_cases.picture(folder / "instances" / "a.png", numbers)
    else:
        (folder / "instances").mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(numbers.T), str(folder / "instances" / "a.tif"))
    return folder


def test_pictures_with_maps_are_recognised_and_alpha_is_left_out(tmp_path):
    object_cases.nuclei_folder(tmp_path, 2, objects=4)

    first, second = Folder(str(tmp_path)).cases()

    assert (first.key, second.key) == ("n00", "n01")
    assert first.read_image().array.shape == (3, 64, 48, 1)
    reference = first.read_reference()
    assert isinstance(reference, InstanceSet)
    assert len(reference) == 4
    assert np.array_equal(reference.array, object_cases.discs((64, 48), 4, seed=0))
    assert Folder(str(tmp_path)).describe().labels.foreground[0].is_thing


def test_numbers_of_32_bits_and_gaps_are_read(tmp_path):
    numbers = np.zeros((4, 3), np.uint32)
    numbers[0, 0], numbers[1, 1], numbers[2, 2] = 70_000, 3_000_000_000, 2**32 - 1
    one_case(tmp_path, numbers, suffix=".tif")

    reference = read_only_case(tmp_path)

    assert len(reference) == 3
    assert reference.array[1, 1, 0] == 2
    assert reference.array[2, 2, 0] == 3


def test_seventy_thousand_objects_are_read_from_nifti(tmp_path):
    array = np.zeros((50, 50, 40), np.uint32)
    array.reshape(-1)[:70_000] = np.arange(1, 70_001)
    for name, voxels in (("images", np.zeros(array.shape, np.int16)), ("instances", array)):
        (tmp_path / name).mkdir()
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / name / "a.nii.gz")

    assert len(read_only_case(tmp_path)) == 70_000


@pytest.mark.parametrize("value", [0, 5])
def test_an_empty_map_and_one_full_object_are_read(tmp_path, value):
    one_case(tmp_path, np.full((4, 3), value, np.uint16))

    assert len(read_only_case(tmp_path)) == (1 if value else 0)


def test_a_label_map_beside_it_gives_classes_and_stuff(tmp_path):
    numbers = np.array([[1, 1, 0, 2], [0, 0, 0, 2]], np.uint8)
    classes = np.array([[1, 1, 2, 1], [2, 2, 2, 3]], np.uint8)
    one_case(tmp_path, numbers)
    object_cases.picture(tmp_path / "labels" / "a.png", classes)

    reference = read_only_case(tmp_path)

    assert isinstance(reference, PanopticMap)
    assert reference.instances.class_ids.tolist() == [1, 1]
    assert reference.label_map.array[..., 0].tolist() == classes.tolist()


def test_an_object_on_background_alone_is_refused(tmp_path):
    one_case(tmp_path, np.array([[1, 0], [0, 2]], np.uint8))
    object_cases.picture(tmp_path / "labels" / "a.png", np.array([[1, 0], [0, 0]], np.uint8))

    with pytest.raises(
        LabelError, match=r"a\.png: 1 objects lie where the label map is background"
    ):
        read_only_case(tmp_path)


def listed(objects, **changes):
    return json.dumps(
        {"format": "medseg-instances", "version": 1, "labels": {"background": 0, "cell": 1},
         "instances": objects, **changes}
    )  # fmt: skip


def test_a_list_gives_classes_scores_and_covered_voxels(tmp_path):
    numbers = np.array([[4, 4, 9], [4, 9, 9]], np.uint8)
    one_case(tmp_path, numbers)
    # Object 4 goes on below object 9 at (1, 1); object 12 lies below 9 altogether.
    below = np.zeros((2, 2, 1), np.bool_)
    below[1, 1] = True
    objects = [
        {"id": 9, "class_id": 1, "score": 0.5, "box": [0, 1, 0, 2, 3, 1]},
        {"id": 4, "class_id": 1, "score": 0.75, "box": [0, 0, 0, 2, 2, 1],
         "hidden": encode_runs(below)},
        {"id": 12, "class_id": 1, "score": 0.25, "box": [1, 2, 0, 2, 3, 1], "hidden": [0, 1]},
    ]  # fmt: skip
    (tmp_path / "instances" / "a.json").write_text(listed(objects))

    reference = read_only_case(tmp_path)

    assert reference.scores.tolist() == [0.75, 0.5, 0.25]
    assert reference.num_voxels.tolist() == [4, 3, 1]
    assert np.array_equal(reference.array[..., 0] == 2, numbers == 9)
    assert Folder(str(tmp_path)).describe().labels.names == ("background", "cell")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            [{"id": 1, "class_id": 1, "score": 1, "box": [0, 0, 0, 1, 1, 1]}],
            r"object 2 and 0 others",
        ),
        ([{"id": 1, "class_id": 1, "score": 2, "box": [0] * 6}], r"score 2"),
        ([{"id": 1, "class_id": 1, "box": [0] * 6}], r"KeyError"),
        ("text", r"cannot be understood"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, objects, message):
    one_case(tmp_path, np.array([[1, 2], [0, 0]], np.uint8))
    (tmp_path / "instances" / "a.json").write_text(listed(objects))

    with pytest.raises(LabelError, match=message):
        read_only_case(tmp_path)


def test_maps_that_hold_no_numbers_of_objects_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "instances").mkdir()
    geometry = np.eye(4)
    voxels = np.zeros((3, 3, 2), np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, geometry), tmp_path / "images" / "a.nii.gz")
    path = tmp_path / "instances" / "a.nii.gz"

    nibabel.save(nibabel.Nifti1Image(voxels - 1, geometry), path)
    with pytest.raises(LabelError, match=r"holds -1, objects have positive numbers"):
        read_only_case(tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 2), 0.5, np.float32), geometry), path)
    with pytest.raises(LabelError, match=r"18 voxels are not whole numbers"):
        read_only_case(tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), geometry), path)
    with pytest.raises(GeometryError, match=r"does not lie on the grid of its image"):
        read_only_case(tmp_path)


def data_science_bowl(folder):
    """One case as the Data Science Bowl 2018 packs it, with two overlapping objects."""
    place = folder / "ab12"
    object_cases.picture(place / "images" / "ab12.png", np.full((6, 5, 4), 200, np.uint8))
    first, second = np.zeros((6, 5), np.uint8), np.zeros((6, 5), np.uint8)
    first[1:4, 1:4] = second[3:5, 2:5] = 255
    object_cases.picture(place / "masks" / "1.png", first)
    object_cases.picture(place / "masks" / "2.png", second)
    return place


def test_one_mask_per_object_is_recognised_and_overlaps_are_kept(tmp_path):
    data_science_bowl(tmp_path)

    reference = read_only_case(tmp_path)

    assert isinstance(reference, InstanceSet)
    assert reference.num_voxels.tolist() == [9, 6]
    assert len(reference.layers) == 2


def test_masks_without_a_pixel_are_left_out_and_other_sizes_refused(tmp_path):
    place = data_science_bowl(tmp_path)
    object_cases.picture(place / "masks" / "3.png", np.zeros((6, 5), np.uint8))
    assert len(read_only_case(tmp_path)) == 2

    object_cases.picture(place / "masks" / "4.png", np.zeros((6, 6), np.uint8))
    with pytest.raises(GeometryError, match=r"4\.png: does not lie on the grid of its image"):
        read_only_case(tmp_path)


def test_a_mask_under_the_images_name_is_a_label_map(tmp_path):
    object_cases.picture(tmp_path / "x" / "images" / "a.png", np.zeros((4, 4), np.uint8))
    object_cases.picture(tmp_path / "x" / "masks" / "a.png", np.ones((4, 4), np.uint8))

    (case,) = Folder(str(tmp_path)).cases()

    assert not isinstance(case.read_reference(), InstanceSet)


def test_two_maps_of_one_case_are_refused(tmp_path):
    one_case(tmp_path, np.zeros((4, 3), np.uint16))
    Image.new("L", (4, 3)).save(tmp_path / "instances" / "a.tif")

    with pytest.raises(InputError, match=r"a\.png and a\.tif are both of the case a"):
        Folder(str(tmp_path)).cases()


def test_a_map_without_an_image_is_told(tmp_path):
    object_cases.nuclei_folder(tmp_path, 2)
    (tmp_path / "images" / "n01.png").unlink()

    assert Folder(str(tmp_path)).describe().orphan_labels == ("instances/n01.png",)
