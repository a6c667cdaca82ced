import itertools
import math

import numpy as np
import pytest

from medseg.metrics.surface_elements import corner_codes, element_sizes, is_on_surface

SPACING_MM = (0.7, 1.3, 2.9)


def corners_of(code: int) -> np.ndarray:
    """2x2x2 voxels of a code."""
    return (code >> np.arange(8) & 1).astype(bool).reshape(2, 2, 2).transpose(2, 1, 0)


def sizes_of(steps_mm: np.ndarray) -> np.ndarray:
    return element_sizes(tuple(map(tuple, steps_mm.tolist())))


def code_of(corners: np.ndarray) -> int:
    return int(corner_codes(np.ascontiguousarray(corners))[0, 0, 0])


def test_each_corner_has_its_own_bit():
    assert [code_of(corners_of(code)) for code in range(256)] == list(range(256))


def test_there_is_no_surface_where_all_corners_are_alike():
    codes = np.array([0, 1, 254, 255], dtype=np.uint8)

    assert is_on_surface(codes, num_axes=3).tolist() == [False, True, True, False]
    assert is_on_surface(codes[:2] * np.uint8(15), num_axes=2).tolist() == [False, False]


def test_one_corner_is_cut_off_by_the_triangle_of_its_edge_middles():
    x, y, z = (length / 2 for length in SPACING_MM)
    by_hand = 0.5 * math.sqrt((x * y) ** 2 + (y * z) ** 2 + (z * x) ** 2)

    areas = sizes_of(np.diag(SPACING_MM))

    assert areas[[1 << bit for bit in range(8)]] == pytest.approx([by_hand] * 8)


@pytest.mark.parametrize(
    ("code", "axes"), [(0b00001111, (0, 1)), (0b00110011, (0, 2)), (0b01010101, (1, 2))]
)
def test_a_face_has_the_area_of_a_voxel_side(code, axes):
    areas = sizes_of(np.diag(SPACING_MM))

    assert areas[code] == pytest.approx(SPACING_MM[axes[0]] * SPACING_MM[axes[1]])


def test_areas_do_not_depend_on_axis_order_direction_or_inside_and_outside():
    areas = sizes_of(np.diag(SPACING_MM))

    for order in itertools.permutations(range(3)):
        permuted = sizes_of(np.diag([SPACING_MM[axis] for axis in order]))
        for flips in itertools.product((0, 1), repeat=3):
            axes = [axis for axis in range(3) if flips[axis]]
            codes = [
                code_of(np.flip(corners_of(code).transpose(order), axes)) for code in range(256)
            ]
            assert permuted[codes] == pytest.approx(areas)
    assert areas[::-1] == pytest.approx(areas)


def test_areas_equal_those_of_deepmind_surface_distance():
    # Sums over the 256 codes of create_table_neighbour_code_to_surface_area, surface-distance 0.1.
    areas = sizes_of(np.diag(SPACING_MM))

    assert areas.sum() == pytest.approx(591.6622968920757, rel=1e-9)
    assert (areas**2).sum() == pytest.approx(1655.1392623604315, rel=1e-9)


def test_lengths_of_2d_elements_are_those_of_the_contour():
    slant = math.hypot(0.35, 0.65)

    lengths = sizes_of(np.diag([0.7, 1.3]))

    assert lengths[[0b0001, 0b0010, 0b0100, 0b1000]] == pytest.approx([slant] * 4)
    assert lengths[[0b1110, 0b0111]] == pytest.approx([slant] * 2)
    assert lengths[[0b0110, 0b1001]] == pytest.approx([2 * slant] * 2)
    assert lengths[0b0011] == pytest.approx(0.7)  # alike along i: the contour runs along i
    assert lengths[0b0101] == pytest.approx(1.3)
    assert lengths[[0, 15]].tolist() == [0, 0]


def test_a_sheared_grid_has_larger_elements():
    steps_mm = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])

    areas = sizes_of(steps_mm)

    assert areas[0b00001111] == pytest.approx(1.0)  # spanned by i and j
    assert areas[0b00110011] == pytest.approx(math.sqrt(2))  # spanned by i and the slanted k
