"""Contours enclose exactly the voxels that they were traced around."""

import numpy as np
import pytest
from skimage.draw import polygon2mask

from medseg.dicom.contours import fill_contour, trace_contours


def filled(contours, shape, fill=fill_contour):
    mask = np.zeros(shape, bool)
    for contour in contours:
        mask ^= fill(contour, shape)
    return mask


def area(contour):
    following = np.roll(contour, -1, axis=0)
    return abs((contour[:, 0] * following[:, 1] - following[:, 0] * contour[:, 1]).sum() / 2)


def masks():
    rng = np.random.default_rng(2)
    ring = np.zeros((12, 15), bool)
    ring[2:10, 3:13] = True
    ring[4:8, 5:8] = False
    ring[5:7, 9:11] = False
    nested = ring.copy()
    nested[5:7, 6] = True  # an island within a hole
    return {
        "one voxel": np.pad([[True]], 2),
        "a full picture": np.ones((4, 6), bool),
        "two that touch at a corner": np.array([[1, 0], [0, 1]], bool),
        "two that touch at the other corner": np.array([[0, 1], [1, 0]], bool),
        "a ring with two holes": ring,
        "an island within a hole": nested,
        "noise": rng.random((23, 19)) < 0.5,
        "dense noise": rng.random((31, 40)) < 0.8,
        "nothing": np.zeros((5, 5), bool),
    }


@pytest.mark.parametrize("name", masks())
def test_filling_gives_the_mask_back(name):
    mask = masks()[name]

    contours = trace_contours(mask)

    np.testing.assert_array_equal(filled(contours, mask.shape), mask)


@pytest.mark.parametrize("name", masks())
def test_an_independent_filler_gives_the_mask_back(name):
    mask = masks()[name]

    contours = trace_contours(mask)

    fill = lambda points, shape: polygon2mask(shape, points)  # noqa: E731
    np.testing.assert_array_equal(filled(contours, mask.shape, fill), mask)


@pytest.mark.parametrize("name", masks())
def test_contours_enclose_the_area_of_their_voxels_and_do_not_overlap(name):
    mask = masks()[name]

    contours = trace_contours(mask)

    assert sum(area(contour) for contour in contours) == pytest.approx(mask.sum())
    total = sum(fill_contour(contour, mask.shape).astype(int) for contour in contours)
    np.testing.assert_array_equal(total, mask.astype(int))


def test_only_corners_are_kept():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 3:5] = True

    (contour,) = trace_contours(mask)

    assert sorted(map(tuple, contour.tolist())) == [(1.5, 2.5), (1.5, 4.5), (6.5, 2.5), (6.5, 4.5)]


def test_filling_is_by_voxel_centres():
    triangle = np.array([(0.0, -0.1), (4.0, -0.1), (0.0, 3.9)])

    mask = fill_contour(triangle, (6, 5))

    # Centres with i + j < 3.9 and i >= 0; those at i = 0 lie on the edge and count as inside.
    expected = np.add.outer(np.arange(6), np.arange(5)) < 3.9
    np.testing.assert_array_equal(mask, expected)


def test_contours_that_leave_the_picture_are_cut():
    square = np.array([(-3.0, -3.0), (2.2, -3.0), (2.2, 9.0), (-3.0, 9.0)])

    mask = fill_contour(square, (5, 4))

    assert mask[:3].all()
    assert not mask[3:].any()
