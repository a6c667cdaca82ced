"""A folder's layout is recognised; what is missing is said with its remedy."""

from pathlib import Path

import image_folders
import numpy as np
import phantoms
import pytest

from medseg.core.errors import InputError
from medseg.sources.folder import Folder
from medseg.sources.nifti_files import NiftiFiles


def _keys(folder: Path, **options) -> list[str]:
    return [case.key for case in Folder(str(folder), **options).cases()]


def _labelled(folder: Path, **options) -> dict[str, str | None]:
    """Key to the label file's name for each case."""
    return {
        case.key: case.paths[-1].name if case.read_reference else None
        for case in Folder(str(folder), **options).cases()
    }


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        image_folders.write(folder / name, image_folders.image())


def test_dataset_json_tells_decathlon_from_nnunet(tmp_path):
    image_folders.decathlon(tmp_path / "a")
    image_folders.nnunet(tmp_path / "b")

    assert _keys(tmp_path / "a") == ["liver_000", "liver_001", "liver_002", "liver_100"]
    assert _keys(tmp_path / "b") == ["brainTr_00", "brainTr_01", "brainTs_00"]


def test_nnunet_is_known_without_dataset_json(tmp_path):
    image_folders.nnunet(tmp_path)
    (tmp_path / "dataset.json").unlink()

    cases = Folder(str(tmp_path)).cases()

    assert [case.key for case in cases] == ["brainTr_00", "brainTr_01", "brainTs_00"]
    assert cases[0].read_image().num_channels == 2


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["images/a.nii.gz", "labels/a.nii.gz"], {"a": "a.nii.gz"}),
        (["imagesTr/a.nii", "labelsTr/a.nii.gz"], {"a": "a.nii.gz"}),
        (["img/a.nii.gz", "masks/a_mask.nii.gz"], {"a": "a_mask.nii.gz"}),
        (["x/images/a.nii.gz", "x/labels/a.nii.gz"], {"a": "a.nii.gz"}),
        (["a_image.nii.gz", "a_label.nii.gz"], {"a": "a_label.nii.gz"}),
        (["a.nii.gz", "a_seg.nii.gz"], {"a": "a_seg.nii.gz"}),
        (["a.nii.gz", "a.seg.nii.gz"], {"a": "a.seg.nii.gz"}),
        (["t2.nii.gz", "t2_seg-manual.nii.gz"], {"t2": "t2_seg-manual.nii.gz"}),
        (
            ["c1/image.nii.gz", "c1/label.nii.gz", "c2/image.nii.gz", "c2/label.nii.gz"],
            {"c1": "label.nii.gz", "c2": "label.nii.gz"},
        ),
        (
            ["c1/imaging.nii.gz", "c1/segmentation.nii.gz"],
            {"c1": "segmentation.nii.gz"},
        ),
        (["images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz"], {"a": "a.nii.gz", "b": None}),
        (["images/a.nii.gz", "imagesTs/b.nii.gz", "labels/a.nii.gz"], {"a": "a.nii.gz", "b": None}),
        (["a.nii.gz", "b_seg.nii.gz"], {"a": None, "b_seg": None}),
        (["p1/scan.nii.gz", "p2/scan.nii.gz"], {"p1_scan": None, "p2_scan": None}),
        (["p1/a.nii.gz", "p2/b.nii.gz", ".hidden.nii.gz", "._b.nii.gz"], {"a": None, "b": None}),
    ],
)
def test_images_find_their_labels_by_folder_or_name(files, wanted, tmp_path):
    _touch(tmp_path, *files)

    assert _labelled(tmp_path) == wanted


def test_labels_without_an_image_are_told(tmp_path):
    _touch(tmp_path, "images/a.nii.gz", "labels/b.nii.gz")

    assert _labelled(tmp_path) == {"a": None}
    assert Folder(str(tmp_path)).describe().orphan_labels == ("labels/b.nii.gz",)


def test_two_labels_for_one_image_are_refused(tmp_path):
    _touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "a_mask.nii.gz")

    with pytest.raises(InputError, match=r"has several labels.*a manifest") as caught:
        _keys(tmp_path)

    assert caught.value.code == "E_AMBIGUOUS_LABEL"


def test_numbered_files_are_channels_only_when_asked_for(tmp_path):
    _touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")

    assert _keys(tmp_path) == ["a_0000", "a_0001", "b_0000", "b_0001"]
    assert _keys(tmp_path, num_channels=1) == ["a_0000", "a_0001", "b_0000", "b_0001"]
    cases = Folder(str(tmp_path), num_channels=2).cases()
    assert [case.key for case in cases] == ["a", "b"]
    assert cases[0].read_image().num_channels == 2


def test_one_name_for_two_cases_is_refused_with_both_files(tmp_path):
    _touch(tmp_path, "a.nii.gz", "a.nii")

    with pytest.raises(InputError) as caught:
        _keys(tmp_path)

    assert caught.value.code == "E_KEY_COLLISION"
    assert "a.nii.gz" in caught.value.what
    assert "rename" in caught.value.remedy


def test_a_pair_of_files_is_one_image(tmp_path):
    image_folders.write(tmp_path / "a.img", image_folders.image())
    assert {path.name for path in tmp_path.iterdir()} == {"a.hdr", "a.img"}

    (case,) = Folder(str(tmp_path)).cases()

    assert case.key == "a"
    np.testing.assert_array_equal(case.read_image().array[0], image_folders.image())


def test_a_single_file_is_a_case(tmp_path):
    path = image_folders.write(tmp_path / "head.nii.gz", image_folders.image())

    (case,) = Folder(str(path)).cases()

    assert case.key == "head"


def test_images_and_dicom_in_one_folder_are_both_read(tmp_path):
    _touch(tmp_path, "volume.nii.gz")
    series = tmp_path / "series"
    phantoms.dicom_series(series)

    cases = Folder(str(tmp_path)).cases()

    assert len(cases) == 2
    assert [case.series is not None for case in cases] == [True, False]
    assert Folder(str(series)).cases()[0].read_image().num_channels == 1


def test_what_was_read_as_what_is_told_once(tmp_path, caplog):
    caplog.set_level("INFO", "medseg")
    image_folders.write(tmp_path / "head.nii.gz", image_folders.image())
    phantoms.dicom_series(tmp_path / "series")

    folder = Folder(str(tmp_path))
    folder.cases()
    folder.labelled_by(None).cases()

    told = [line for line in caplog.messages if "cases, read as" in line]
    assert told == [f"{tmp_path}: 2 cases, read as image files and DICOM"]


@pytest.mark.parametrize("folder", [None, "", "  "])
def test_no_folder_is_an_error_with_both_options(folder):
    with pytest.raises(InputError, match=r"no folder given; set data\.source\.folder=") as caught:
        Folder(folder).cases()

    assert caught.value.code == "E_NO_FOLDER"
    assert "source.folder=<folder> for prediction" in caught.value.remedy


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file or folder") as caught:
        Folder(str(tmp_path / "nowhere")).cases()

    assert caught.value.where == str(tmp_path / "nowhere")
    assert "data.source.folder" in caught.value.remedy


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")

    with pytest.raises(InputError, match="holds no image") as caught:
        Folder(str(tmp_path)).cases()

    assert caught.value.code == "E_NO_IMAGES"
    assert caught.value.remedy


def test_pairs_are_missed_when_they_are_asked_for(tmp_path):
    _touch(tmp_path, "a.nii.gz")

    with pytest.raises(InputError, match=r"no image has a label; keep images in images/"):
        NiftiFiles(str(tmp_path), layout="pairs").cases()


def test_every_file_is_an_image_when_asked_for(tmp_path):
    _touch(tmp_path, "a.nii.gz", "a_seg.nii.gz")

    assert _labelled(tmp_path, layout="images") == {"a": None, "a_seg": None}


def test_linked_folders_are_not_followed(tmp_path):
    _touch(tmp_path / "outside", "b.nii.gz")
    _touch(tmp_path / "inside", "a.nii.gz")
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "inside" / "loop").symlink_to(tmp_path / "inside", target_is_directory=True)

    assert _keys(tmp_path / "inside") == ["a"]


@pytest.mark.real_data
def test_real_folders_are_recognised(real_data):
    assert _keys(real_data("Task04_Hippocampus_broken")) == ["hippocampus_118"]
    assert _labelled(real_data("tumours_pyradiomics")) == {
        "brain1": "brain1_label.nrrd",
        "breast1": "breast1_label.nrrd",
    }
    spine = _labelled(real_data("spine_mr_sct"))
    assert spine["t1w"] == "t1w_seg-manual.nii.gz"
    assert spine["dmri"] is None
