"""Decathlon data sets: cases, labels and everything that is wrong with their list."""

import json
import pickle

import image_folders
import numpy as np
import pytest

from medseg.core.errors import GeometryError, InputError, LabelError
from medseg.sources.decathlon import Decathlon


def test_cases_carry_images_references_and_the_modality(tmp_path):
    image_folders.decathlon(tmp_path)

    cases = Decathlon(str(tmp_path)).cases()
    first = cases[0]
    volume, reference = first.read_image(), first.read_reference()

    assert [case.key for case in cases] == ["liver_000", "liver_001", "liver_002", "liver_100"]
    assert [case.is_held_out for case in cases] == [False, False, False, True]
    assert cases[3].read_reference is None
    assert volume.modality == "CT"
    np.testing.assert_array_equal(volume.array[0], image_folders.image(0))
    np.testing.assert_array_equal(reference.array, image_folders.label(0))
    assert reference.labels.names == ("background", "liver", "tumour")
    assert {path.name for path in first.paths} == {"liver_000.nii.gz"}


def test_cases_can_be_sent_to_another_process(tmp_path):
    image_folders.decathlon(tmp_path)

    case = pickle.loads(pickle.dumps(Decathlon(str(tmp_path)).cases()[1]))

    assert case.read_image().array.shape == (1, *image_folders.SHAPE)


def test_the_constructor_reads_nothing():
    Decathlon("/nowhere")


def test_the_description_names_labels_channels_and_what_does_not_belong(tmp_path):
    image_folders.decathlon(tmp_path)
    image_folders.write(tmp_path / "labelsTr" / "liver_050.nii.gz", image_folders.label())
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part / "liver_002.nii.gz").unlink()

    source = Decathlon(str(tmp_path))
    description = source.describe()

    assert description.labels.names == ("background", "liver", "tumour")
    assert description.channel_names == ("CT",)
    assert description.orphan_labels == ("labelsTr/liver_050.nii.gz",)
    assert description.absent_cases == ("liver_002",)
    assert "liver_002" not in [case.key for case in source.cases()]


def test_a_label_whose_image_is_missing_is_an_orphan(tmp_path):
    image_folders.decathlon(tmp_path)
    (tmp_path / "imagesTr" / "liver_001.nii.gz").unlink()

    description = Decathlon(str(tmp_path)).describe()

    assert description.orphan_labels == ("labelsTr/liver_001.nii.gz",)


def test_a_listed_label_that_is_missing_is_found_when_it_is_read(tmp_path):
    image_folders.decathlon(tmp_path)
    (tmp_path / "labelsTr" / "liver_001.nii.gz").unlink()

    case = Decathlon(str(tmp_path)).cases()[1]

    with pytest.raises(InputError) as caught:
        case.read_reference()
    assert caught.value.code == "E_NO_FILE"


def test_channels_stored_as_numbered_files_are_joined(tmp_path):
    image_folders.decathlon(tmp_path, num_test=0)
    for n in range(3):
        (tmp_path / "imagesTr" / f"liver_{n:03d}.nii.gz").unlink()
        for channel in range(2):
            name = f"liver_{n:03d}_{channel:04d}.nii.gz"
            image_folders.write(tmp_path / "imagesTr" / name, image_folders.image(n + channel))

    cases = Decathlon(str(tmp_path)).cases()

    assert [case.key for case in cases] == ["liver_000", "liver_001", "liver_002"]
    assert cases[2].read_image().num_channels == 2
    assert cases[2].read_reference().array.shape == image_folders.SHAPE


def test_a_reference_on_another_grid_is_refused(tmp_path):
    image_folders.decathlon(tmp_path)
    moved = image_folders.AFFINE.copy()
    moved[0, 3] += 1.5
    path = image_folders.write(
        tmp_path / "labelsTr" / "liver_000.nii.gz", image_folders.label(), affine=moved
    )

    with pytest.raises(GeometryError, match=r"up to 1\.5 mm apart; resample it") as caught:
        Decathlon(str(tmp_path)).cases()[0].read_reference()

    assert caught.value.code == "E_GRID_MISMATCH"
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        ({"0": "background", "2": "liver"}, "must run 0"),
        ({"0": "background", "1": "a", "2": "a"}, "appears twice"),
        ({"background": 0, "whole": [1, "two"]}, "must list whole numbers"),
        ({"background": 0.5}, "no name and number"),
        ([1, 2], "must map"),
    ],
)
def test_labels_that_make_no_sense_are_refused_but_images_still_read(labels, what, tmp_path):
    image_folders.decathlon(tmp_path, labels=labels)
    source = Decathlon(str(tmp_path))

    with pytest.raises(LabelError, match=what):
        source.describe()
    assert len(source.cases()) == 4


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold an object"),
        ('{"training": 3}', "must be lists"),
        ('{"training": ["a.nii"]}', "must hold an image and a label"),
        ('{"training": [{"image": "../../etc/a.nii.gz"}]}', "outside the data set's folder"),
        ('{"training": [{"image": "/etc/a.nii.gz"}]}', "outside the data set's folder"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(content, what, tmp_path):
    (tmp_path / "dataset.json").write_text(content)

    with pytest.raises(InputError, match=what) as caught:
        Decathlon(str(tmp_path)).cases()

    assert caught.value.code == "E_DATASET_JSON"
    assert caught.value.where == str(tmp_path / "dataset.json")
    assert caught.value.remedy


def test_a_list_without_any_of_its_files_is_refused(tmp_path):
    content = image_folders.decathlon(tmp_path / "there")
    (tmp_path / "dataset.json").write_text(json.dumps(content))

    with pytest.raises(InputError, match="none of the images it lists is there; unpack"):
        Decathlon(str(tmp_path)).cases()


@pytest.mark.real_data
def test_the_hippocampus_labels_lie_on_their_images(real_data):
    source = Decathlon(str(real_data("Task04_Hippocampus")))

    cases = source.cases()

    assert len(cases) == 208
    assert source.describe().labels.names == ("background", "Anterior", "Posterior")
    for case in cases:
        reference = case.read_reference()
        assert reference.array.dtype == np.uint8
        assert reference.geometry.difference(case.read_image().geometry) is None
