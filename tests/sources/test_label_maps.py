"""References: whole numbers of declared classes on the image's grid."""

import image_folders
import numpy as np
import pytest
from phantoms import TWO_LABELS

from medseg.core.errors import GeometryError, LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.sources.label_maps import read_label_map, refuse_other_grid

NAMES = ("background", "liver", "tumour")


def _saved(folder, array):
    return image_folders.write(folder / "a.nii.gz", array)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
def test_whole_numbers_of_any_type_become_small_integers(dtype, tmp_path):
    array = image_folders.label()

    label_map = read_label_map(_saved(tmp_path, array.astype(dtype)), TWO_LABELS)

    assert label_map.array.dtype == np.uint8
    np.testing.assert_array_equal(label_map.array, array)
    assert label_map.labels is TWO_LABELS


@pytest.mark.parametrize(("value", "dtype"), [(-1, "i2"), (300, "i2"), (70_000, "i4")])
def test_numbers_beyond_a_byte_keep_their_value(value, dtype, tmp_path):
    array = image_folders.label().astype("f8")
    array[1, 2, 3] = value

    label_map = read_label_map(_saved(tmp_path, array), None)

    assert label_map.array.dtype == np.dtype(dtype)
    assert label_map.array[1, 2, 3] == value


def test_the_result_lies_exactly_on_the_images_grid(tmp_path):
    affine = image_folders.AFFINE.copy()
    affine[:3, 3] += 0.004
    geometry = Geometry(image_folders.SHAPE, affine)

    label_map = read_label_map(_saved(tmp_path, image_folders.label()), None, geometry=geometry)

    assert label_map.geometry is geometry


@pytest.mark.parametrize(
    ("change", "code", "what"),
    [
        (lambda a: np.where(a == 1, np.nan, a), "E_LABEL_NAN", "voxels are NaN or infinite"),
        (lambda a: a + 0.25, "E_LABEL_NOT_INTEGER", "120 voxels are not whole numbers, such as"),
        (lambda a: a * 1e30, "E_LABEL_NOT_INTEGER", "too large for labels"),
        (lambda a: a + 2, "E_LABEL_VALUES", "holds 3, 4, but the labels are 0 background, 1 liver"),
        (lambda a: np.stack([a, a], 3), "E_LABEL_CHANNELS", "has 2 channels"),
    ],
)
def test_what_cannot_be_a_label_is_refused(change, code, what, tmp_path):
    path = _saved(tmp_path, change(image_folders.label().astype("f8")))

    with pytest.raises(LabelError, match=what) as caught:
        read_label_map(path, TWO_LABELS)

    assert caught.value.code == code
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_the_ignore_value_is_declared(tmp_path):
    array = image_folders.label()
    array[0, 0, 0] = 9
    labels = LabelSet.from_names(NAMES, ignore_id=9)

    assert read_label_map(_saved(tmp_path, array), labels).array[0, 0, 0] == 9


@pytest.mark.parametrize(
    ("spacing_mm", "shift_mm", "is_accepted"),
    [
        (1.0, 0.009, True),
        (1.0, 0.011, False),
        (5.0, 0.049, True),
        (5.0, 0.051, False),
        (0.01, 0.0009, True),
        (0.01, 0.0011, False),
    ],
)
def test_grids_may_differ_by_rounding_only(spacing_mm, shift_mm, is_accepted, tmp_path):
    image = Geometry.from_spacing((5, 4, 3), spacing_mm=(spacing_mm,) * 3)
    label = Geometry.from_spacing(
        (5, 4, 3), spacing_mm=(spacing_mm,) * 3, origin_mm=(0.0, shift_mm, 0.0)
    )

    if is_accepted:
        refuse_other_grid(label, image, path=tmp_path)
    else:
        with pytest.raises(GeometryError, match="does not lie on the grid"):
            refuse_other_grid(label, image, path=tmp_path)
