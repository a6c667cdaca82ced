"""Previews show classes where they are, the right way round."""

import numpy as np
import phantoms
import pytest
from PIL import Image

from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.core.labels import Label, LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.writers.preview import PreviewWriter

RED, GREEN = (255, 0, 0), (0, 255, 0)
LABELS = LabelSet(
    (Label("background", 0), Label("liver", 1, colour=RED), Label("tumour", 2, colour=GREEN))
)


def picture(tmp_path, label_map, **options):
    case = Case("case_5", lambda: phantoms.ct_of(label_map))
    result = LabelMap(label_map.array, label_map.geometry, LABELS)
    (path,) = PreviewWriter(**options).write(result, case, folder=tmp_path)
    return path, np.asarray(Image.open(path)).astype(int)


def where(pixels, colour):
    return np.argwhere((pixels == colour).all(axis=-1))


@pytest.mark.parametrize("orientation", phantoms.ALL_48_ORIENTATIONS)
def test_the_patients_right_front_and_head_are_where_radiologists_expect(tmp_path, orientation):
    array = np.zeros((20, 24, 28), np.uint8)
    array[3:17, 3:20, 4:24] = 1
    array[12:15, 13:18, 16:22] = 2  # towards the right, the front and the head
    ras = LabelMap(array, phantoms.grid(orientation="RAS", shape=array.shape))

    _, pixels = picture(tmp_path, ras.reoriented(orientation), height=70)

    # 40 x 60 x 98 mm at 70/98 pixels per mm: 29 pixels across, 4 between planes.
    first, second = 29, 29 + 4 + 29
    for low, high in ((0, first), (first + 4, second), (second + 4, None)):
        red = where(pixels[:70, low:high], RED)
        green = where(pixels[:70, low:high], GREEN)
        above, left = (red.min(axis=0) + red.max(axis=0)) - (green.min(axis=0) + green.max(axis=0))
        assert above > 0
        assert left > 0
    assert pixels.shape[0] == 70 + 2 * 14


@pytest.mark.parametrize(
    ("shape", "width"),
    [((40, 20, 1), 112), ((40, 1, 20), 80), ((1, 40, 20), 100)],  # voxels of 2 x 2.5 x 3.5 mm
)
def test_an_image_of_one_slice_is_shown_in_its_own_plane_alone(tmp_path, shape, width):
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(0, max(1, extent // 2)) for extent in shape)] = 1
    slice_ = LabelMap(array, phantoms.grid(orientation="RAS", shape=shape))

    _, pixels = picture(tmp_path, slice_, height=70)

    assert pixels.shape == (70 + 14, width, 3)


def test_equal_results_give_equal_bytes(tmp_path):
    boxes = phantoms.labelled_boxes()

    first, _ = picture(tmp_path / "a", boxes)
    second, _ = picture(tmp_path / "b", boxes)

    assert first.read_bytes() == second.read_bytes()
    assert first.name == "case_5_preview.png"


def test_an_empty_result_shows_the_image(tmp_path):
    boxes = phantoms.labelled_boxes()
    empty = LabelMap(np.zeros_like(boxes.array), boxes.geometry)
    case = Case("c", lambda: phantoms.ct_of(boxes))

    (path,) = PreviewWriter(height=64).write(empty, case, folder=tmp_path)

    assert np.asarray(Image.open(path)).std() > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 4}, "height: is 4; use 32 to 4096 pixels"),
        ({"opacity": 2.0}, "opacity: is 2.0; use 0 to 1"),
        ({"window": (5.0, 1.0)}, r"window: is \(5.0, 1.0\); give two numbers, the lower one first"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PreviewWriter(**options)


@pytest.mark.parametrize("is_panoptic", [False, True])
def test_objects_that_touch_are_outlined_one_by_one(tmp_path, is_panoptic):
    """Two squares side by side, 4 pixels for each voxel; stuff around them if panoptic."""
    grid = phantoms.grid(orientation="RAS", shape=(16, 16, 1), spacing_mm=(1.0, 1.0, 1.0))
    numbers = np.zeros((16, 16, 1), np.uint8)
    numbers[4:8, 4:12], numbers[8:12, 4:12] = 1, 2
    result = InstanceSet(
        numbers[None], grid, np.array([2, 2], np.int32), np.ones(2, np.float32), LABELS
    )
    if is_panoptic:
        classes = np.where(numbers > 0, 2, 1).astype(np.uint8)
        result = PanopticMap(LabelMap(classes, grid, LABELS), result)
    case = Case("case_5", lambda: phantoms.ct_of(LabelMap(numbers, grid)))

    (path,) = PreviewWriter(height=64).write(result, case, folder=tmp_path)

    pixels = np.asarray(Image.open(path)).astype(int)[:64]
    row = (pixels[32] == GREEN).all(axis=-1)  # through the middle of both
    assert np.flatnonzero(row).tolist() == [16, 31, 32, 47]
    assert bool((pixels == RED).all(axis=-1).any()) == is_panoptic


def test_a_long_thin_image_has_a_picture_that_can_be_looked_at(tmp_path):
    array = np.zeros((1000, 2, 1), np.uint8)
    array[400:600] = 1
    grid = phantoms.grid(shape=array.shape, spacing_mm=(1.0, 1.0, 1.0))

    _, pixels = picture(tmp_path, LabelMap(array, grid), height=64)

    assert pixels.shape[1] == 4 * 64


def test_the_highest_of_256_classes_is_outlined_at_the_rim(tmp_path):
    array = np.full((12, 12, 1), 255, np.uint8)
    grid = phantoms.grid(shape=array.shape, spacing_mm=(1.0, 1.0, 1.0))
    case = Case("case_5", lambda: phantoms.ct_of(LabelMap(np.zeros_like(array), grid)))

    (path,) = PreviewWriter(height=36).write(LabelMap(array, grid), case, folder=tmp_path)

    pixels = np.asarray(Image.open(path)).astype(int)[:36]
    assert (pixels[0] == pixels[0, 0]).all()
    assert (pixels[0, 0] != pixels[18, 18]).any()
