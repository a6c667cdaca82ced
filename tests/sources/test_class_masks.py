"""BIDS folders with one mask per class, grey values and second channels included."""

from __future__ import annotations

import numpy as np
import object_cases
import pytest

from medseg.core.components import components
from medseg.core.errors import ConfigError, InputError, LabelError
from medseg.core.labels import LabelSet
from medseg.sources.class_masks import ClassMasks
from medseg.sources.nifti_files import NiftiFiles

MASKS = {2: "seg-myelin-manual", 1: "seg-axon-manual"}


def bids(folder):
    """Two subjects, the second with two images; the masks overlap in one pixel."""
    for subject, name in (("sub-1", "a"), ("sub-2", "b"), ("sub-2", "c")):
        object_cases.picture(
            folder / subject / "micr" / f"{name}.png", np.full((6, 5), 9, np.uint8)
        )
        place = folder / "derivatives" / "labels" / subject / "micr"
        axon, myelin = np.zeros((6, 5), np.uint8), np.zeros((6, 5), np.uint8)
        axon[1:3, 1:3] = 255
        axon[4, 1], axon[4, 3] = 130, 100
        myelin[2:4, 1:4] = 255
        grey_with_alpha = np.stack([axon, np.full((6, 5), 255, np.uint8)], axis=-1)
        object_cases.picture(place / f"{name}_seg-axon-manual.png", grey_with_alpha)
        object_cases.picture(place / f"{name}_seg-myelin-manual.png", myelin)
        object_cases.picture(place / f"{name}_seg-both-manual.png", myelin)
    return folder


def test_masks_become_classes_and_grey_values_are_told(tmp_path, caplog):
    cases = ClassMasks(str(bids(tmp_path)), masks=MASKS).cases()

    reference = cases[0].read_reference()

    assert [case.key for case in cases] == ["a", "b", "c"]
    assert [case.patient for case in cases] == ["sub-1", "sub-2", "sub-2"]
    expected = np.zeros((6, 5), np.uint8)
    expected[2:4, 1:4] = 2
    expected[1:3, 1:3] = expected[4, 1] = 1  # named last, so on top; 130 is more than half of 255
    assert np.array_equal(reference.array[..., 0], expected)
    assert "2 grey pixels" in caplog.text


@pytest.mark.parametrize(("dtype", "value"), [(np.uint16, 255), (np.uint8, 2), (np.uint8, 1)])
def test_a_mask_of_one_value_has_its_class_where_it_has_that(tmp_path, caplog, dtype, value):
    bids(tmp_path)
    place = tmp_path / "derivatives" / "labels" / "sub-1" / "micr"
    mask = np.zeros((6, 5), dtype)
    mask[1:3, 1:3] = value
    object_cases.picture(place / "a_seg-axon-manual.png", mask)

    reference = ClassMasks(str(tmp_path), masks={1: "seg-axon-manual"}).cases()[0].read_reference()

    assert np.array_equal(reference.array[..., 0], mask > 0)
    assert "grey" not in caplog.text


def test_two_masks_of_one_class_are_refused(tmp_path):
    place = bids(tmp_path) / "derivatives" / "labels" / "sub-1" / "micr"
    (place / "a_seg-axon-manual.tif").write_bytes((place / "a_seg-axon-manual.png").read_bytes())

    with pytest.raises(InputError, match=r"is one of two masks of the same name"):
        ClassMasks(str(tmp_path), masks=MASKS).cases()


def test_a_missing_mask_is_told(tmp_path):
    bids(tmp_path)
    labels = tmp_path / "derivatives" / "labels" / "sub-1" / "micr"
    (labels / "a_seg-axon-manual.png").unlink()

    with pytest.raises(LabelError, match=r"a\.png: has masks, but none that ends in seg-axon"):
        ClassMasks(str(tmp_path), masks=MASKS).cases()[0].read_reference()


def test_images_without_any_mask_have_no_reference(tmp_path):
    bids(tmp_path)
    object_cases.picture(tmp_path / "sub-3" / "micr" / "d.png", np.zeros((4, 4), np.uint8))

    assert ClassMasks(str(tmp_path), masks=MASKS).cases()[3].read_reference is None


def test_wrong_options_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"source\.masks: is \{\}; write it as"):
        ClassMasks(str(tmp_path), masks={})
    with pytest.raises(ConfigError, match=r"with numbers from 1 to 65535"):
        ClassMasks(str(tmp_path), masks={10**11: "seg-axon-manual"})
    with pytest.raises(ConfigError, match=r"give each class a mask of its own"):
        ClassMasks(str(tmp_path), masks={1: "seg-axon-manual", 2: "seg-axon-manual"})
    with pytest.raises(InputError, match=r"holds no image outside derivatives"):
        ClassMasks(str(tmp_path), masks=MASKS).cases()


def test_prediction_takes_the_images_of_a_bids_folder_alone(tmp_path):
    cases = NiftiFiles(str(bids(tmp_path))).cases()

    assert [case.key for case in cases] == ["a", "b", "c"]
    assert NiftiFiles(str(tmp_path / "derivatives")).cases()


def test_a_folder_called_derivatives_counts_where_the_data_are_not_bids(tmp_path):
    for name in ("x/a.png", "derivatives/b.png"):
        object_cases.picture(tmp_path / name, np.full((6, 5), 9, np.uint8))

    assert [case.key for case in NiftiFiles(str(tmp_path)).cases()] == ["a", "b"]


@pytest.mark.real_data
def test_real_micrographs_have_axons_and_myelin(real_data):
    folder = real_data("axon_sem")

    cases = ClassMasks(str(folder), masks=MASKS).cases()
    reference = cases[1].read_reference()
    image = cases[6].read_image()

    assert len(cases) == 7
    assert len({case.patient for case in cases}) == 6
    assert image.num_channels == 1  # one of them has a second channel
    labels = LabelSet.from_names(["background", "axon", "myelin"])
    axons = components(type(reference)(reference.array, reference.geometry, labels), [1])
    assert len(axons) > 50
    assert (reference.array == 2).mean() > 0.2
