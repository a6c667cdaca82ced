"""The data set check names every bad case once, with its reason."""

from dataclasses import replace

import image_folders
import numpy as np
import pytest
from phantoms import TWO_LABELS, grid

from medseg.core.volume import Volume
from medseg.data.check import check_cases, check_source, image_digest
from medseg.sources.decathlon import Decathlon
from medseg.sources.folder import Folder


@pytest.fixture
def folder(tmp_path):
    image_folders.decathlon(tmp_path, num_cases=4, num_test=1)
    return tmp_path


def _codes(folder):
    return {
        (problem.key, problem.code, problem.severity)
        for problem in check_source(Decathlon(str(folder)))
    }


def _image(folder, array, number=0):
    image_folders.write(folder / "imagesTr" / f"liver_{number:03d}.nii.gz", array)


def _label(folder, array, number=0, **options):
    image_folders.write(folder / "labelsTr" / f"liver_{number:03d}.nii.gz", array, **options)


def test_a_good_data_set_has_no_problems(folder):
    assert _codes(folder) == set()


def test_each_kind_of_problem_is_found(folder):
    holes = image_folders.image().astype("f4")
    holes[1, 1, 1] = np.nan
    moved = image_folders.AFFINE.copy()
    moved[2, 3] += 1.0

    _image(folder, holes, 0)
    _label(folder, image_folders.label() + 2, 1)
    _label(folder, image_folders.label(), 2, affine=moved)
    _label(folder, image_folders.label() * 0, 3)

    assert _codes(folder) == {
        ("liver_000", "E_IMAGE_NAN", "error"),
        ("liver_001", "E_LABEL_VALUES", "error"),
        ("liver_002", "E_GRID_MISMATCH", "error"),
        ("liver_003", "E_EMPTY_LABEL", "warning"),
    }


def test_missing_and_unreadable_files_are_found(folder):
    path = folder / "imagesTr" / "liver_000.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    (folder / "labelsTr" / "liver_001.nii.gz").unlink()
    (folder / "imagesTr" / "liver_002.nii.gz").unlink()
    (folder / "imagesTr" / "liver_003.nii.gz").unlink()
    (folder / "labelsTr" / "liver_003.nii.gz").unlink()

    assert _codes(folder) == {
        ("liver_000", "E_TRUNCATED", "error"),
        ("liver_001", "E_NO_FILE", "error"),
        ("labelsTr/liver_002.nii.gz", "E_ORPHAN_LABEL", "error"),
        ("liver_002", "E_ABSENT_CASE", "warning"),
        ("liver_003", "E_ABSENT_CASE", "warning"),
    }


def test_an_empty_image_is_an_error(folder):
    _image(folder, image_folders.image() * 0 + 7, 2)

    (problem,) = check_source(Decathlon(str(folder)))

    assert (problem.key, problem.code) == ("liver_002", "E_EMPTY_IMAGE")
    assert problem.what == "the image is empty: every voxel is 7"


def test_an_empty_channel_among_others_is_a_warning(folder):
    for n in range(4):
        channels = image_folders.image(n, shape=(*image_folders.SHAPE, 2))
        if n == 2:
            channels[..., 1] = 0
        _image(folder, channels, n)

    (problem,) = check_cases(
        [case for case in Decathlon(str(folder)).cases() if not case.is_held_out], TWO_LABELS
    )

    assert (problem.key, problem.code, problem.severity) == (
        "liver_002", "E_EMPTY_IMAGE", "warning",
    )  # fmt: skip
    assert problem.what == "channel 1 is empty: every voxel is 0"


def test_a_channel_more_than_the_others_is_an_error(folder):
    _image(folder, image_folders.image(shape=(*image_folders.SHAPE, 2)), 1)

    assert _codes(folder) == {("liver_001", "E_CHANNELS", "error")}


def test_the_same_image_twice_is_a_warning_and_across_the_split_an_error(folder):
    _image(folder, image_folders.image(1), 0)
    assert _codes(folder) == {
        ("liver_000", "E_DUPLICATE_IMAGE", "warning"),
        ("liver_001", "E_DUPLICATE_IMAGE", "warning"),
    }

    image_folders.write(folder / "imagesTs" / "liver_100.nii.gz", image_folders.image(1))
    (problem, *_) = check_source(Decathlon(str(folder)))
    assert problem.severity == "error"
    assert problem.what == "has the same image as liver_001, liver_100; training and test share it"


def test_only_held_out_cases_may_lack_a_label(folder):
    cases = Decathlon(str(folder)).cases()
    bare = [replace(case, read_reference=None) for case in cases]

    problems = check_cases(bare, TWO_LABELS, num_threads=1)

    assert [problem.key for problem in problems] == [f"liver_{n:03d}" for n in range(4)]
    assert {problem.code for problem in problems} == {"E_NO_LABEL"}


def test_labels_given_here_are_the_ones_that_count(folder):
    cases = Decathlon(str(folder)).cases()
    narrow = type(TWO_LABELS).from_names(["background", "liver"])

    problems = check_cases(cases, narrow)

    assert {problem.what for problem in problems} == {"the label holds 2, which no class has"}


@pytest.mark.real_data
def test_the_broken_data_set_is_named_case_by_case(real_data):
    problems = check_source(Folder(str(real_data("Task04_Hippocampus_broken"))))

    assert [(problem.key, problem.code) for problem in problems] == [
        ("hippocampus_118", "E_NO_LABEL"),
        ("labels/hippocampus_010.nii.gz", "E_ORPHAN_LABEL"),
    ]


@pytest.mark.real_data
def test_the_hippocampus_data_set_has_no_problems(real_data):
    assert check_source(Folder(str(real_data("Task04_Hippocampus")))) == []


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_an_image_is_known_again_in_another_type(dtype):
    values = np.random.default_rng(0).integers(0, 255, (2, 4, 5, 6)).astype(np.uint8)
    values[0, 0, 0, 0] = 0
    geometry = grid(shape=(4, 5, 6))
    other = values.astype(dtype)
    changed = other.copy()
    changed[1, 3, 4, 5] += 1
    if np.issubdtype(dtype, np.floating):
        other[0, 0, 0, 0] = -0.0

    assert image_digest(Volume(other, geometry)) == image_digest(Volume(values, geometry))
    assert image_digest(Volume(changed, geometry)) != image_digest(Volume(values, geometry))
