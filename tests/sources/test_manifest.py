"""Lists of cases: read right, or refused with everything that is wrong in one message."""

import json

import image_folders
import numpy as np
import phantoms
import pytest

from medseg.core.errors import InputError
from medseg.sources.manifest import Manifest
from medseg.sources.read import read_volumes


@pytest.fixture
def folder(tmp_path):
    for n, name in enumerate(("a", "b", "c")):
        image_folders.write(tmp_path / "scans" / f"{name}.nii.gz", image_folders.image(n))
        image_folders.write(tmp_path / "truth" / f"{name}.nii.gz", image_folders.label(n))
    return tmp_path


def _listed(folder, text, name="list.csv"):
    path = folder / name
    path.write_text(text)
    return Manifest(str(path)).cases()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_gives_keys_labels_patients_and_splits(folder, delimiter):
    text = (
        "Key,image,label,patient,split\n"
        "one,scans/a.nii.gz,truth/a.nii.gz,p1,train\n"
        "two,scans/b.nii.gz,truth/b.nii.gz,p1,\n"
        "three,scans/c.nii.gz,,p2,test\n"
    )

    cases = _listed(folder, "\ufeff" + text.replace(",", delimiter))

    assert [case.key for case in cases] == ["one", "three", "two"]
    assert [case.patient for case in cases] == ["p1", "p2", "p1"]
    assert [case.is_held_out for case in cases] == [False, True, False]
    assert cases[1].read_reference is None
    np.testing.assert_array_equal(cases[2].read_image().array[0], image_folders.image(1))
    np.testing.assert_array_equal(cases[2].read_reference().array, image_folders.label(1))


def test_several_image_columns_are_channels_in_order(folder):
    (case,) = _listed(
        folder, "image,image_10,image_2\nscans/a.nii.gz,scans/c.nii.gz,scans/b.nii.gz\n"
    )

    assert case.key == "a"
    wanted = [image_folders.image(n) for n in (0, 1, 2)]
    np.testing.assert_array_equal(case.read_image().array, np.stack(wanted))


def test_json_lists_work_the_same(folder):
    rows = [
        {"key": "x", "image": ["scans/a.nii.gz", "scans/b.nii.gz"], "label": "truth/a.nii.gz"},
        {"image": str(folder / "scans" / "c.nii.gz"), "split": "test"},
    ]

    cases = _listed(folder, json.dumps(rows), "list.json")

    assert [case.key for case in cases] == ["c", "x"]
    assert cases[1].read_image().num_channels == 2
    assert cases[0].is_held_out


def test_an_image_may_be_a_folder_with_one_dicom_series(folder):
    phantoms.dicom_series(folder / "series")
    (volume,) = read_volumes(folder / "series")
    label = np.zeros(volume.spatial_shape, np.uint8)
    label[3, 4, 5] = 1
    image_folders.write(folder / "series.nii.gz", label, affine=volume.geometry.affine)

    (case,) = _listed(folder, "key,image,label,patient\nd,series,series.nii.gz,p9\n")

    assert case.key == "d"
    assert case.patient == "p9"
    assert case.series is not None
    assert case.read_reference().array[3, 4, 5] == 1


def test_all_problems_stand_in_one_message(folder):
    text = (
        "key,image,label,split\n"
        "one,scans/none.nii.gz,truth/a.nii.gz,train\n"
        "../two,scans/a.nii.gz,truth/none.nii.gz,train\n"
        "three,scans/b.nii.gz,,sometimes\n"
        "three,scans/c.nii.gz,,\n"
        "four,,,\n"
    )

    with pytest.raises(InputError) as caught:
        _listed(folder, text)

    message = str(caught.value)
    assert caught.value.code == "E_MANIFEST"
    assert str(folder / "list.csv") in message
    for part in (
        "line 2: there is no file",
        "'../two' cannot be a file name",
        "truth/none.nii.gz",
        "the split 'sometimes' must be train or test",
        "the key 'three' is used 2 times",
        "line 6: names no image",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.csv", "", "but not 'image'"),
        ("a.csv", "key,path\nx,y\n", "but not 'image'"),
        ("a.csv", "image\n", "lists no case"),
        ("a.csv", "image,lable\nscans/a.nii.gz,x\n", "unknown column lable"),
        ("a.csv", "image\nscans/a.nii.gz,extra\n", "more fields than there are columns"),
        ("a.csv", 'image\n"open\n', "not a CSV table"),
        ("a.json", "{}", "must hold a list"),
        ("a.json", "[1]", "must hold a list"),
        ("a.json", "[", "is not JSON"),
        ("a.json", '[{"image": 3}]', "names no image"),
        ("a.json", '[{"image": "scans/a.nii.gz", "label": 3}]', "must be text"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(name, text, what, folder):
    with pytest.raises(InputError, match=what):
        _listed(folder, text, name)


def test_bytes_that_are_no_text_are_refused(folder):
    (folder / "a.csv").write_bytes(b"image\n\xff\xfe\n")

    with pytest.raises(InputError, match="it is not UTF-8 text"):
        Manifest(str(folder / "a.csv")).cases()


def test_no_list_is_an_error_with_the_option():
    with pytest.raises(InputError, match=r"no path given; set data\.source\.path="):
        Manifest(None).cases()
