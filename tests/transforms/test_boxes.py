import numpy as np
import pytest

from medseg.transforms.boxes import box_around, grown_box


def box(*bounds: tuple[int, int]) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in bounds)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        ([2, 3], [8, 9], box((2, 8), (3, 9))),
        ([2.5, 3.5], [7.5, 8.5], box((2, 8), (3, 9))),  # whole voxels
        ([5, 5], [6, 7], box((4, 8), (4, 8))),  # no smaller than a patch
        ([-3, 18], [1, 25], box((0, 4), (16, 20))),  # within the image
        ([-9, -9], [99, 99], box((0, 20), (0, 20))),
    ],
)
def test_a_box_is_grown_to_a_patch_within_the_image(low, high, wanted):
    assert grown_box(np.array(low), np.array(high), (20, 20), least=(4, 4)) == wanted


def test_an_image_smaller_than_a_patch_is_taken_whole():
    assert grown_box(np.array([1]), np.array([2]), (3,), least=(8,)) == box((0, 3))


def test_the_box_around_voxels_has_its_margin_and_none_of_the_empty_classes():
    voxels = [np.array([[5, 5, 5], [9, 6, 5]]), np.zeros((0, 3), int), np.array([[7, 12, 5]])]

    found = box_around(voxels, (30, 30, 30), margin=(1.0, 2.0, 0.0), least=(1, 1, 1))

    assert found == box((4, 11), (3, 15), (5, 6))


def test_without_voxels_it_is_the_whole_image():
    assert box_around([], (3, 4), margin=(1, 1), least=(1, 1)) == box((0, 3), (0, 4))
