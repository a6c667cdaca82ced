import json
from pathlib import Path

import pytest

from medseg.core.errors import InputError, LabelError
from medseg.reports.label_files import find_predictions, find_references, refuse_objects

DATASET_JSON = {"labels": {"0": "background", "1": "liver"}, "training": []}


def touch(folder: Path, *names: str) -> Path:
    """Empty files below a folder; only names are looked at."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_predictions_are_the_image_files_named_without_extensions(tmp_path):
    touch(tmp_path, "b.nii.gz", "a.mha", "c.png", "a.1.nrrd", "run.json", "b.dcm", ".c.nii.gz")
    touch(tmp_path / "previews", "d.png")

    found = find_predictions(tmp_path)

    assert list(found.paths) == ["a", "a.1", "b", "c"]
    assert found.paths["b"] == tmp_path / "b.nii.gz"


@pytest.mark.parametrize("find", [find_predictions, find_references])
def test_two_files_of_one_case_are_refused(tmp_path, find):
    touch(tmp_path, "a.nii.gz", "a.nrrd")

    with pytest.raises(
        InputError, match=r"two label maps of the case a: a\.\w+.* and a\..*keep one"
    ):
        find(tmp_path)


@pytest.mark.parametrize(
    ("find", "option"), [(find_predictions, "predictions"), (find_references, "references")]
)
def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(tmp_path, find, option):
    touch(tmp_path, "file.nii.gz")
    (tmp_path / "empty").mkdir()

    with pytest.raises(InputError, match=rf"nowhere: there is no such folder; set {option}="):
        find(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=rf"file.nii.gz: is a file, must be a folder; set {option}="
    ):
        find(tmp_path / "file.nii.gz")
    with pytest.raises(InputError, match=rf"empty: holds no label map .*; set {option} to"):
        find(tmp_path / "empty")


@pytest.mark.parametrize("part", [".", "instances"])
def test_numbers_of_objects_are_no_classes(tmp_path, part):
    touch(tmp_path, "images/a.png", "instances/a.png")

    with pytest.raises(InputError, match=r"numbers objects.*set instances_from=components"):
        refuse_objects(tmp_path / part)


@pytest.mark.parametrize("folder", ["labels", "masks", "labelsTr"])
def test_objects_with_classes_beside_them_are_references_of_both(tmp_path, folder):
    touch(tmp_path, "images/a.png", "instances/a.png", f"{folder}/a.png")

    refuse_objects(tmp_path)

    assert list(find_references(tmp_path).paths) == ["a"]


def test_pictures_of_predictions_are_none(tmp_path):
    touch(tmp_path, "a.png", "a_preview.png", "b_preview.png")

    assert list(find_predictions(tmp_path).paths) == ["a", "b_preview"]


def test_a_plain_folder_of_references_is_no_dataset(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")

    found = find_references(tmp_path)

    assert list(found.paths) == ["a", "b"]
    assert not found.is_dataset
    assert found.labels is None


def test_the_labels_of_a_decathlon_folder_are_found_with_their_names(tmp_path):
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    touch(tmp_path, "labelsTs/c.nii.gz", "labelsTr/._a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON))

    found = find_references(tmp_path)

    assert list(found.paths) == ["a", "b", "c"]
    assert found.paths["c"] == tmp_path / "labelsTs" / "c.nii.gz"
    assert found.is_dataset
    assert found.labels.names == ("background", "liver")


def test_labels_tr_itself_is_a_part_of_its_dataset(tmp_path):
    touch(tmp_path, "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET_JSON))

    found = find_references(tmp_path / "labelsTr")

    assert found.is_dataset
    assert found.labels.names == ("background", "liver")


def test_a_folder_of_images_and_labels_gives_its_labels(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")

    found = find_references(tmp_path)

    assert found.paths == {"a": tmp_path / "labels" / "a.nii.gz"}
    assert found.is_dataset


def test_images_and_labels_side_by_side_are_told_apart_by_name(tmp_path):
    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b_image.nii.gz", "b_label.nii.gz")

    found = find_references(tmp_path)

    assert found.paths == {"a": tmp_path / "a_seg.nii.gz", "b": tmp_path / "b_label.nii.gz"}


def test_a_dataset_json_that_cannot_be_understood_is_refused(tmp_path):
    touch(tmp_path, "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 3}}))

    with pytest.raises(LabelError, match=r"dataset\.json: .*without gaps"):
        find_references(tmp_path)
