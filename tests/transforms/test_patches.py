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

    sampled, target = cut_mapped(
        image, labels, matrix=np.eye(3), centre=centre, patch_size=patch_size, outside_label=8
    )

    wanted = cut_straight(image, centre, patch_size, outside=0.0)
    np.testing.assert_allclose(sampled.numpy(), wanted, atol=1e-5)
    assert np.array_equal(
        target.numpy(), cut_straight(labels[None], centre, patch_size, outside=8)[0]
    )


@pytest.mark.parametrize("shape", [(31, 29, 30), (31, 29)])
@pytest.mark.parametrize("is_displaced", [False, True])
def test_a_mapped_cut_has_the_values_of_scipys_linear_interpolation(shape, is_displaced):
    dims = len(shape)
    rng = np.random.default_rng(3)
    image = numbers((1, *shape))
    labels = rng.integers(0, 6, shape).astype(np.int16)
    patch_size, centre = (8, 5, 6)[:dims], np.array([14.2, 15.1, 13.7])[:dims]
    matrix = np.eye(dims) + rng.uniform(-0.4, 0.4, (dims, dims))
    shift = rng.uniform(-1.5, 1.5, (*patch_size, dims)).astype(np.float32) * is_displaced

    sampled, target = cut_mapped(
        image,
        labels,
        matrix=matrix,
        centre=centre,
        patch_size=patch_size,
        shift=torch.from_numpy(shift) if is_displaced else None,
        outside_label=9,
    )

    axes = [np.arange(n) - (n - 1) / 2 for n in patch_size]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + shift
    positions = (offsets @ matrix.T + centre).reshape(-1, dims).T
    wanted = ndimage.map_coordinates(image[0], positions, order=1)
    np.testing.assert_allclose(sampled[0].numpy().ravel(), wanted, atol=1e-4)
    nearest = labels[tuple(np.rint(positions).astype(int))]
    # Positions halfway between two voxels may round either way.
    assert (target.numpy().ravel() == nearest).mean() > 0.99


def test_what_a_mapped_cut_takes_from_beyond_the_image_is_marked():
    image, labels = np.ones((1, 4, 4), np.float32), np.full((4, 4), 2, np.int16)

    sampled, target = cut_mapped(
        image, labels, matrix=2 * np.eye(2), centre=np.full(2, 1.5), patch_size=(4, 4),
        outside_label=7,
    )  # fmt: skip

    # Positions -1.5, 0.5, 2.5, 4.5 along both axes: the outer ones lie beyond.
    assert np.array_equal(target.numpy(), [[7, 7, 7, 7], [7, 2, 2, 7], [7, 2, 2, 7], [7, 7, 7, 7]])
    assert float(sampled[0, 0, 0]) == 0.0
    assert float(sampled[0, 1, 1]) == 1.0


def test_foreground_patches_hold_a_voxel_of_a_class_drawn_evenly():
    many = np.stack(np.unravel_index(np.arange(400), (20, 20, 1)), 1)
    locations = [many, np.zeros((0, 3), int), np.array([[35, 5, 30]])]
    rng = np.random.default_rng(0)

    centres = [choose_centre((40, 44, 48), (8, 6, 4), locations, rng=rng) for _ in range(300)]

    near_rare = [np.abs(c - locations[2][0]).max() <= 4 for c in centres]
    # One of two present classes: 150 of 300, and three standard deviations are 26.
    assert 124 < sum(near_rare) < 176


@pytest.mark.parametrize("locations", [[], [np.array([[0, 0, 0], [19, 4, 8]])]])
def test_patches_lie_within_the_image_where_they_fit_and_in_its_middle_where_not(locations):
    rng = np.random.default_rng(0)
    shape, patch_size = (20, 5, 9), (8, 12, 9)

    for _ in range(50):
        centre = choose_centre(shape, patch_size, locations, rng=rng)

        first = centre - (np.array(patch_size) - 1) / 2
        assert 0 <= first[0] <= 12
        assert first[0] == round(first[0])
        assert centre[1] == 2.0
        assert centre[2] == 4.0


def test_every_position_is_drawn():
    rng = np.random.default_rng(0)

    starts = {float(choose_centre((7,), (4,), [], rng=rng)[0] - 1.5) for _ in range(100)}

    assert starts == {0.0, 1.0, 2.0, 3.0}
