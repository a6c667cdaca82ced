import numpy as np
import phantoms

from medseg.core.labels import LabelSet
from medseg.tasks.parts import Parts
from medseg.training.overlays import (
    PLANE_PIXELS,
    REFERENCE_RGBS,
    contour_overview,
    reference_rgb,
)

LIVER_RGB = phantoms.TWO_LABELS["liver"].rgb
REFERENCE_RGB = reference_rgb(phantoms.TWO_LABELS)


def overview(reference, prediction, *, image=None, spacing_mm=(1.0, 1.0, 1.0)):
    image = np.zeros(reference.shape, np.float32) if image is None else image
    found = None if prediction is None else Parts.of_classes(prediction)
    return contour_overview(
        image, Parts.of_classes(reference), found, labels=phantoms.TWO_LABELS, spacing_mm=spacing_mm
    )


def pixels_of(picture, colour) -> np.ndarray:
    """Rows and columns below the legend that have a colour."""
    return np.argwhere((picture[18:] == colour).all(-1))


def test_pixels_are_square_in_millimetres():
    reference = np.zeros((20, 10, 1), np.uint8)

    picture = overview(reference, reference, spacing_mm=(1.0, 3.0, 1.0))

    # 20 mm from right to left and 30 mm from front to back.
    assert picture.shape == (PLANE_PIXELS + 18, round(PLANE_PIXELS * 20 / 30), 3)
    assert picture.dtype == np.uint8


def test_the_patients_right_is_left_and_front_is_up():
    reference = np.zeros((20, 20, 1), np.uint8)
    reference[14:18, 13:17, 0] = 1  # towards the patient's right and front

    rows, columns = pixels_of(overview(reference, reference * 0), REFERENCE_RGB).T

    assert columns.max() < PLANE_PIXELS / 2
    assert rows.max() < PLANE_PIXELS / 2


def test_reference_and_prediction_have_their_own_contours():
    reference, prediction = np.zeros((2, 30, 30, 30), np.uint8)
    reference[5:14, 5:14, 10:20] = 1
    prediction[18:25, 8:25, 10:20] = 1

    picture = overview(reference, prediction)

    assert len(pixels_of(picture, REFERENCE_RGB)) > 50
    assert len(pixels_of(picture, LIVER_RGB)) > 50


def test_a_reference_alone_has_the_colours_of_its_labels():
    reference = np.zeros((30, 30, 30), np.uint8)
    reference[5:12, 5:12, 5:12] = 1

    picture = overview(reference, None)

    assert len(pixels_of(picture, REFERENCE_RGB)) == 0
    assert len(pixels_of(picture, LIVER_RGB)) > 50


def test_objects_that_touch_are_drawn_apart():
    numbers = np.zeros((40, 40, 1), np.int64)
    numbers[10:20, 10:30], numbers[20:30, 10:30] = 1, 2
    image = np.zeros(numbers.shape, np.float32)

    def pixels(classes) -> int:
        picture = contour_overview(
            image, Parts(numbers, np.array(classes)), None, labels=phantoms.TWO_LABELS,
            spacing_mm=(1.0, 1.0, 1.0),
        )  # fmt: skip
        return len(pixels_of(picture, LIVER_RGB))

    together = overview(np.minimum(numbers, 1), None)
    assert pixels([0, 1, 1]) > 1.2 * len(pixels_of(together, LIVER_RGB))
    assert pixels([0, 0, 1]) < 0.8 * pixels([0, 1, 1])  # class 0 is not drawn


def test_three_planes_through_the_middle_of_the_reference_are_shown_at_one_scale():
    reference = np.zeros((40, 20, 10), np.uint8)
    reference[30:34, 4:8, 6:8] = 1
    image = np.zeros(reference.shape, np.float32)
    image[32], image[:, 6], image[..., 7] = 1.0, 2.0, 3.0

    picture = overview(reference, reference, image=image, spacing_mm=(1.0, 1.0, 2.0))

    # Transverse 40 x 20 mm, coronal 40 x 20 mm, sagittal 20 x 20 mm, at 7 pixels per millimetre.
    assert picture.shape == (18 + 140, 280 + 280 + 140, 3)
    corners = [int(picture[18 + 139, right - 1, 0]) for right in (280, 560, 700)]
    assert corners[0] > corners[1] > corners[2] > 0


def test_a_constant_image_without_reference_is_drawn():
    empty = np.zeros((8, 8, 8), np.uint8)

    assert overview(empty, empty).shape[2] == 3


def test_the_reference_is_not_drawn_in_a_colour_like_that_of_a_label():
    green, *others = REFERENCE_RGBS

    liver_and_tumour = labels_of((221, 130, 101), (144, 238, 144))

    assert reference_rgb(liver_and_tumour) in others
    assert reference_rgb(labels_of((230, 0, 200), (255, 200, 0), (0, 150, 255))) == green


def labels_of(*colours) -> LabelSet:
    names = {f"label_{n}": {"id": n, "colour": rgb} for n, rgb in enumerate(colours, start=1)}
    return LabelSet.from_mapping({"background": 0, **names})
