import numpy as np
import pytest
import torch
from learning_cases import numbers
from scipy import ndimage

from medseg.transforms.patches import choose_centre, cut_mapped, cut_straight


def test_a_straight_cut_takes_the_voxels_around_its_centre():
    array = np.arange(2 * 6 * 7 * 8).reshape(2, 6, 7, 8)

    patch = cut_straight(array, np.array([2.5, 3.0, 4.5]), (4, 3, 2), outside=-1)

    assert np.array_equal(patch, array[:, 1:5, 2:5, 4:6])


def test_voxels_beyond_the_image_are_filled():
    array = np.ones((1, 2, 3), np.int16)

    patch = cut_straight(array, np.array([0.5, 1.0]), (4, 5), outside=9)

    wanted = np.full((1, 4, 5), 9)
    wanted[0, 1:3, 1:4] = 1
    assert np.array_equal(patch, wanted)


def test_a_cut_far_outside_holds_nothing_but_the_filling():
    patch = cut_straight(np.ones((1, 4, 4)), np.array([30.5, -20.5]), (4, 4), outside=5)

    assert (patch == 5).all()


@pytest.mark.parametrize("patch_size", [(4, 5, 6), (9, 4, 5)])
def test_a_mapped_cut_without_a_map_is_a_straight_cut(patch_size):
    image = numbers((2, 8, 9, 7))
    labels = np.random.default_rng(2).integers(0, 5, (8, 9, 7)).astype(np.int16)
    centre = np.floor(np.array([4.0, 4.0, 3.0])) + (np.array(patch_size) - 1) / 2 % 1
    axes = [np.arange(n) - (n - 1) / 2 for n in patch_size]
    positions = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + centre

    sampled, target = cut_mapped(
        image, labels, torch.from_numpy(positions.astype(np.float32)), outside_label=8
    )

    wanted = cut_straight(image, centre, patch_size, outside=0.0)
    np.testing.assert_allclose(sampled.numpy(), wanted, atol=1e-5)
    assert np.array_equal(
        target.numpy(), cut_straight(labels[None], centre, patch_size, outside=8)[0]
    )


def test_a_mapped_cut_has_the_values_of_scipys_linear_interpolation():
    image, labels = numbers((1, 11, 9, 10)), np.zeros((11, 9, 10), np.int16)
    rng = np.random.default_rng(3)
    positions = rng.uniform(0.1, 7.9, (4, 5, 6, 3)).astype(np.float32)

    sampled, _ = cut_mapped(image, labels, torch.from_numpy(positions), outside_label=0)

    wanted = ndimage.map_coordinates(image[0], positions.reshape(-1, 3).T, order=1)
    np.testing.assert_allclose(sampled[0].numpy().ravel(), wanted, atol=1e-5)


def test_a_mapped_cut_works_in_2d():
    image, labels = numbers((1, 11, 9)), np.zeros((11, 9), np.int16)
    positions = np.random.default_rng(4).uniform(0, 8, (4, 5, 2)).astype(np.float32)

    sampled, target = cut_mapped(image, labels, torch.from_numpy(positions), outside_label=0)

    wanted = ndimage.map_coordinates(image[0], positions.reshape(-1, 2).T, order=1)
    np.testing.assert_allclose(sampled[0].numpy().ravel(), wanted, atol=1e-5)
    assert target.shape == (4, 5)


def test_foreground_patches_hold_a_voxel_of_a_class_drawn_evenly():
    many = np.stack(np.unravel_index(np.arange(400), (20, 20, 1)), 1)
    locations = [many, np.zeros((0, 3), int), np.array([[35, 5, 30]])]
    rng = np.random.default_rng(0)

    centres = [
        choose_centre((40, 44, 48), (8, 6, 4), locations, foreground_fraction=1.0, rng=rng)
        for _ in range(300)
    ]

    near_rare = [np.abs(c - locations[2][0]).max() <= 4 for c in centres]
    # One of two present classes: 150 of 300, and three standard deviations are 26.
    assert 124 < sum(near_rare) < 176


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_patches_lie_within_the_image_where_they_fit_and_in_its_middle_where_not(fraction):
    rng = np.random.default_rng(0)
    shape, patch_size = (20, 5, 9), (8, 12, 9)
    locations = [np.array([[0, 0, 0], [19, 4, 8]])]

    for _ in range(50):
        centre = choose_centre(shape, patch_size, locations, foreground_fraction=fraction, rng=rng)

        first = centre - (np.array(patch_size) - 1) / 2
        assert 0 <= first[0] <= 12
        assert first[0] == round(first[0])
        assert centre[1] == 2.0
        assert centre[2] == 4.0


def test_every_position_is_drawn():
    rng = np.random.default_rng(0)

    starts = {
        float(choose_centre((7,), (4,), [], foreground_fraction=0.5, rng=rng)[0] - 1.5)
        for _ in range(100)
    }

    assert starts == {0.0, 1.0, 2.0, 3.0}
