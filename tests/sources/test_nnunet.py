"""nnU-Net's raw layout: channels, held-out cases and labels."""

import image_folders
import numpy as np
import pytest

from medseg.core.errors import InputError, LabelError
from medseg.core.labels import Region
from medseg.sources.nnunet import NnUNetRaw


def test_channels_are_stacked_in_order_and_test_cases_are_held_out(tmp_path):
    image_folders.nnunet(tmp_path)

    source = NnUNetRaw(str(tmp_path))
    cases = source.cases()
    volume = cases[1].read_image()

    assert [case.key for case in cases] == ["brainTr_00", "brainTr_01", "brainTs_00"]
    assert [case.is_held_out for case in cases] == [False, False, True]
    assert all(case.read_reference is not None for case in cases)
    assert volume.modality == "MR"
    np.testing.assert_array_equal(volume.array[0], image_folders.image(10))
    np.testing.assert_array_equal(volume.array[1], image_folders.image(11))
    assert source.describe().channel_names == ("T1", "FLAIR")
    assert source.describe().labels.names == ("background", "oedema", "core")


def test_the_number_of_a_single_channel_is_not_part_of_the_key(tmp_path):
    image_folders.nnunet(tmp_path, num_channels=1)

    cases = NnUNetRaw(str(tmp_path)).cases()

    assert [case.key for case in cases] == ["brainTr_00", "brainTr_01", "brainTs_00"]
    assert cases[0].read_reference().labels is not None


def test_a_missing_channel_is_named_when_the_case_is_read(tmp_path):
    image_folders.nnunet(tmp_path)
    (tmp_path / "imagesTr" / "brainTr_01_0001.nii.gz").unlink()

    case = NnUNetRaw(str(tmp_path)).cases()[1]

    with pytest.raises(InputError, match=r"brainTr_01_0001\.nii\.gz: there is no such file"):
        case.read_image()


def test_channels_on_different_grids_are_refused(tmp_path):
    image_folders.nnunet(tmp_path)
    other = np.diag([1.0, 1.0, 1.0, 1.0])
    image_folders.write(
        tmp_path / "imagesTr" / "brainTr_00_0001.nii.gz", image_folders.image(), affine=other
    )

    with pytest.raises(InputError) as caught:
        NnUNetRaw(str(tmp_path)).cases()[0].read_image()

    assert caught.value.code == "E_GRID_MISMATCH"


def test_orphans_and_ignored_voxels_are_described(tmp_path):
    labels = {"background": 0, "oedema": 1, "core": 2, "ignore": 3}
    image_folders.nnunet(tmp_path / "a", labels=labels)
    image_folders.write(tmp_path / "a" / "labelsTr" / "lost.nii.gz", image_folders.label())

    description = NnUNetRaw(str(tmp_path / "a")).describe()

    assert description.labels.ignore_id == 3
    assert description.orphan_labels == ("labelsTr/lost.nii.gz",)


def test_lists_of_numbers_are_regions(tmp_path):
    # KiTS as nnU-Net has it: cysts, class 3, are masses but no tumours.
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumour": 2, "ignore": 4}
    image_folders.nnunet(tmp_path, labels=labels, regions_class_order=[1, 3, 2])

    found = NnUNetRaw(str(tmp_path)).describe().labels

    assert found.names == ("background", "label_1", "tumour", "label_3")
    assert found.ignore_id == 4
    assert found.regions == (
        Region("kidney", (1, 2, 3), 1),
        Region("masses", (2, 3), 3),
        Region("tumour", (2,), 2),
    )


def test_the_order_of_regions_is_found_where_it_is_not_given(tmp_path):
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumour": 2}
    image_folders.nnunet(tmp_path, labels=labels)

    found = NnUNetRaw(str(tmp_path)).describe().labels

    assert [region.paints for region in found.regions] == [1, 3, 2]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"regions_class_order": [1]}, r"regions_class_order is \[1\], but there are 2 regions"),
        ({"regions_class_order": [2, 1]}, r"core: has the classes \[2\] and paints 1"),
        ({"labels": {"background": 0, "whole": [1, "2"], "core": 2}}, "must list whole numbers"),
    ],
)
def test_regions_that_cannot_be_are_refused(tmp_path, changes, what):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    image_folders.nnunet(tmp_path, **{"labels": labels, **changes})

    with pytest.raises(LabelError, match=what) as caught:
        NnUNetRaw(str(tmp_path)).describe()

    assert caught.value.where == str(tmp_path / "dataset.json")


def test_cases_may_be_listed_one_by_one(tmp_path):
    image_folders.write(tmp_path / "scans" / "x.nii.gz", image_folders.image())
    image_folders.write(tmp_path / "truth" / "x.nii.gz", image_folders.label())
    listed = {"case_x": {"images": ["scans/x.nii.gz"], "label": "truth/x.nii.gz"}}
    image_folders.nnunet(tmp_path, num_channels=1, dataset=listed)

    (case,) = NnUNetRaw(str(tmp_path)).cases()

    assert case.key == "case_x"
    assert case.read_reference().array.shape == image_folders.SHAPE


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="no image in imagesTr or imagesTs; set the folder"):
        NnUNetRaw(str(tmp_path)).cases()
