from pathlib import Path

import numpy as np
import phantoms
import pytest
from numpy.typing import NDArray

from medseg.core.errors import InputError
from medseg.core.volume import Volume
from medseg.data.split import split_cases
from medseg.sources.sunnybrook import Sunnybrook

# A rectangle whose inside is columns 4 to 6 and rows 2 to 3, pixels counted from 1.
INNER = [(3.5, 1.5), (6.5, 1.5), (6.5, 3.5), (3.5, 3.5)]
OUTER = [(2.5, 0.5), (7.5, 0.5), (7.5, 4.5), (2.5, 4.5)]


def write_image(folder: Path, number: int, array: NDArray[np.int16]) -> Path:
    """One DICOM image, called by its number as the data set does."""
    geometry = phantoms.grid(shape=(*array.shape, 1), orientation="LPS")
    made = phantoms.dicom_series(
        folder / "made", Volume(array[None, ..., None], geometry, "CT"), case_key=folder.name
    )
    target = folder / f"{number}.dcm"
    made[0].rename(target)
    (folder / "made").rmdir()
    return target


def write_contour(folder: Path, patient: str, number: int, kind: str, points) -> Path:
    path = folder / patient / f"{kind}-contours" / f"IM-0001-{number:04d}-{kind}contour-manual.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{x:.2f} {y:.2f}\r\n" for x, y in points))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two patients: images 59 and 68 of one (68 without an outer contour), 7 of the other."""
    for n, (patient, numbers) in enumerate({"P01": (59, 68, 70), "P02": (7,)}.items()):
        for number in numbers:
            array = np.full((9, 7), 100 * n + number, np.int16)
            write_image(tmp_path / "dicoms" / patient, number, array)
    contours = tmp_path / "contours"
    write_contour(contours, "SC-1", 59, "i", INNER)
    write_contour(contours, "SC-1", 59, "o", OUTER)
    write_contour(contours, "SC-1", 68, "i", INNER)
    write_contour(contours, "SC-2", 7, "i", INNER)
    (tmp_path / "link.csv").write_text("patient_id,original_id\nP01,SC-1\nP02,SC-2\n")
    return tmp_path


def test_every_image_with_an_inner_contour_is_a_case_of_its_patient(folder):
    cases = Sunnybrook(str(folder)).cases()

    assert [case.key for case in cases] == ["SC-1_0059", "SC-1_0068", "SC-2_0007"]
    assert [case.group for case in cases] == ["SC-1", "SC-1", "SC-2"]
    assert [int(case.read_image().array[0, 0, 0, 0]) for case in cases] == [59, 68, 107]
    assert len(split_cases(cases, fold=0, num_folds=5).validation) in (1, 2)


def test_the_inside_of_the_contour_is_the_ventricle(folder):
    source = Sunnybrook(str(folder))

    reference = source.cases()[0].read_reference()

    assert source.describe().labels.names == ("background", "left_ventricle")
    assert reference.array.shape == (9, 7, 1)
    wanted = np.zeros((9, 7), int)
    wanted[3:6, 1:3] = 1
    np.testing.assert_array_equal(reference.array[..., 0], wanted)


def test_the_wall_lies_between_the_contours(folder):
    source = Sunnybrook(str(folder), myocardium=True)

    (case,) = source.cases()

    assert case.key == "SC-1_0059"
    assert source.describe().labels.names == ("background", "left_ventricle", "myocardium")
    wanted = np.zeros((9, 7), int)
    wanted[2:7, 0:4] = 2
    wanted[3:6, 1:3] = 1
    np.testing.assert_array_equal(case.read_reference().array[..., 0], wanted)


def test_contours_beside_their_images_need_no_list(folder):
    (folder / "link.csv").unlink()
    (folder / "contours" / "SC-1").rename(folder / "dicoms" / "P01" / "contours")
    (folder / "contours" / "SC-2").rename(folder / "contours" / "P02")

    cases = Sunnybrook(str(folder)).cases()

    assert [int(case.read_image().array[0, 0, 0, 0]) for case in cases] == [59, 68, 107]


def test_contours_without_an_image_are_all_named(folder):
    for number in (59, 68):
        (folder / "dicoms" / "P01" / f"{number}.dcm").unlink()

    with pytest.raises(InputError) as caught:
        Sunnybrook(str(folder)).cases()

    assert "image 59 of SC-1" in caught.value.what
    assert "image 68 of SC-1" in caught.value.what
    assert "no DICOM files with this number lie in a folder called P01" in caught.value.what
    assert "link.csv" in caught.value.remedy


def test_two_images_of_one_number_are_refused(folder):
    write_image(folder / "dicoms" / "P02" / "longaxis", 7, np.zeros((9, 7), np.int16))

    with pytest.raises(InputError, match="2 DICOM files") as caught:
        Sunnybrook(str(folder)).cases()

    assert caught.value.code == "E_KEY_COLLISION"
    assert "short-axis series" in caught.value.remedy


def test_a_folder_without_contours_is_told(folder):
    with pytest.raises(InputError) as caught:
        Sunnybrook(str(folder / "dicoms")).cases()

    assert caught.value.code == "E_NO_LABELS"
    assert "icontour-manual.txt" in caught.value.what


def test_a_list_without_its_columns_is_told(folder):
    (folder / "link.csv").write_text("a,b\n1,2\n")

    with pytest.raises(InputError, match="no columns patient_id and original_id"):
        Sunnybrook(str(folder)).cases()


@pytest.mark.parametrize(
    "text", ["1 2\n3 4\n", "1 2 3\n4 5 6\n7 8 9\n", "a b\n", "", "1 nan\n" * 4]
)
def test_a_damaged_contour_is_named(folder, text):
    path = write_contour(folder / "contours", "SC-2", 7, "i", INNER)
    path.write_text(text)
    case = Sunnybrook(str(folder)).cases()[2]

    with pytest.raises(InputError) as caught:
        case.read_reference()

    assert caught.value.where == str(path)
    assert caught.value.code == "E_CONTOUR"


def test_two_contours_of_one_image_are_refused(folder):
    other = folder / "contours" / "SC-1" / "second-reader" / "IM-0001-0059-icontour-manual.txt"
    other.parent.mkdir()
    other.write_text("1 1\n2 1\n2 2\n")

    with pytest.raises(InputError) as caught:
        Sunnybrook(str(folder)).cases()

    assert caught.value.code == "E_AMBIGUOUS_LABEL"
    assert "one reader" in caught.value.remedy


def test_names_of_cases_never_hold_a_patients_name(folder):
    # The patients of the test series are called SYNTHETIC^...
    (folder / "contours" / "SC-2").rename(folder / "contours" / "SYNTHETIC-2")
    (folder / "link.csv").write_text("patient_id,original_id\nP01,SC-1\nP02,SYNTHETIC-2\n")

    keys = [case.key for case in Sunnybrook(str(folder)).cases()]

    assert not any("synthetic" in key.lower() for key in keys)


@pytest.mark.real_data
def test_the_published_patients_are_read(real_data):
    folder = real_data("cardiac_sunnybrook")

    cases = Sunnybrook(str(folder)).cases()

    # Counted with: ls contourfiles/*/i-contours | grep -c icontour
    assert len(cases) == 56
    assert {case.group for case in cases} == {"SC-HF-I-1", "SC-HF-I-4", "SC-HF-I-5"}
    image, reference = cases[0].read_image(), cases[0].read_reference()
    assert image.geometry.spacing_mm[:2] == pytest.approx((1.367188, 1.367188))
    inside = image.array[0][reference.array == 1]
    assert inside.mean() > 1.5 * image.array.mean()  # blood is bright in these sequences
    volume_ml = reference.array.sum() * np.prod(image.geometry.spacing_mm) / 1000
    assert 1 < volume_ml < 60
