import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from learning_cases import numbers
from scipy import ndimage

import medseg
from medseg.transforms.patches import (
    choose_centre,
    cut_mapped,
    cut_straight,
    part_and_grid,
    sample_on_device,
)


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
    # With a knot at every voxel of the patch the displacement is the knots themselves.
    knots = rng.uniform(-1.5, 1.5, (dims, *patch_size)).astype(np.float32) * is_displaced

    sampled, target = cut_mapped(
        image,
        labels,
        matrix=matrix,
        centre=centre,
        patch_size=patch_size,
        knots=knots if is_displaced else None,
        outside_label=9,
    )

    axes = [np.arange(n) - (n - 1) / 2 for n in patch_size]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + np.moveaxis(knots, 0, -1)
    positions = (offsets @ matrix.T + centre).reshape(-1, dims).T
    wanted = ndimage.map_coordinates(image[0], positions, order=1)
    np.testing.assert_allclose(sampled[0].numpy().ravel(), wanted, atol=1e-5)
    nearest = labels[tuple(np.rint(positions).astype(int))]
    # Positions halfway between two voxels may round either way.
    assert (target.numpy().ravel() == nearest).mean() > 0.99


@pytest.mark.parametrize("outwards", [0.0, 9.0, 60.0])
@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("coarse", [None, (3, 4, 3)])
@pytest.mark.parametrize(
    ("shape", "patch_size"), [((31, 29, 30), (16, 13, 18)), ((40, 44), (19, 24)), ((20, 1), (9, 7))]
)
def test_the_compiled_loop_gives_what_grid_sample_gives(
    shape, patch_size, coarse, num_channels, outwards
):
    dims = len(shape)
    rng = np.random.default_rng(5)
    image = numbers((num_channels, *shape))
    labels = rng.integers(0, 2**20, shape).astype(np.int32)
    matrix = np.eye(dims) + rng.uniform(-0.4, 0.4, (dims, dims))
    knots = None if coarse is None else rng.normal(0, 3, (dims, *coarse[:dims]))
    where = {
        "matrix": matrix,
        "centre": np.array([14.2, 12.1, 13.7])[:dims] + outwards,
        "patch_size": patch_size,
        "knots": knots,
    }

    sampled, target = cut_mapped(image, labels, **where, outside_label=7)

    part, part_labels, grid = part_and_grid(image, labels, **where)
    patch, patch_labels = torch.empty_like(sampled), torch.empty_like(target)
    sample_on_device(part, part_labels, grid, patch, patch_labels, outside_label=7)
    # grid_sample has its positions in float32, which moves them by up to 1e-5 of a voxel.
    torch.testing.assert_close(sampled, patch, atol=1e-4, rtol=0)
    assert (target == patch_labels).float().mean() > 0.998
    positions = grid.positions(tuple(part.shape[1:]), patch_size, device=part.device)
    exact = _positions(grid, tuple(part.shape[1:]), patch_size)
    torch.testing.assert_close(positions.double(), exact, atol=1e-6, rtol=1e-6)
    wanted = F.grid_sample(part[None].double(), exact[None], align_corners=False)[0]
    torch.testing.assert_close(sampled.double(), wanted, atol=1e-5, rtol=0)
    counted = part_labels[None, None].double() - 7
    nearest = F.grid_sample(counted, exact[None], mode="nearest", align_corners=False)[0, 0] + 7
    assert torch.equal(target, nearest.long())


def _positions(grid, shape, patch_size):
    """What `Grid.positions` gives, in float64 and all at once."""
    axes = [torch.arange(n, dtype=torch.float64) for n in patch_size]
    index = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    places = index @ torch.from_numpy(grid.matrix).T + torch.from_numpy(grid.origin)
    if grid.knots is not None:
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        knots = torch.from_numpy(grid.knots)[None]
        places += F.interpolate(knots, patch_size, mode=mode, align_corners=True)[0].movedim(0, -1)
    return ((2 * places + 1) / torch.tensor(shape) - 1).flip(-1)


def test_positions_halfway_between_two_voxels_take_the_even_one_as_grid_sample_does():
    labels = np.arange(5, dtype=np.int16) + 1

    _, target = cut_mapped(
        np.zeros((1, 5, 1), np.float32), labels[:, None], matrix=np.eye(2),
        centre=np.array([2.5, 0.0]), patch_size=(7, 1), outside_label=9,
    )  # fmt: skip

    # From positions -0.5, 0.5, ... 5.5.
    assert target[:, 0].tolist() == [1, 1, 3, 3, 5, 5, 9]


ANOTHER_PROCESS = """
import numpy as np
from medseg.transforms.sampling_kernel import fill_patch

patch, labels = np.empty((1, 2, 2, 2), np.float32), np.empty((2, 2, 2), np.int64)
image = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
knots = np.zeros((3, 0, 0, 2))
fill_patch(image, image[0].astype(np.int32), np.zeros(3), np.eye(3), knots, 0, patch, labels)
assert (patch == image).all() and (labels == image[0]).all()
print(sum(fill_patch.stats.cache_hits.values()), sum(fill_patch.stats.cache_misses.values()))
"""


@pytest.mark.skipif(
    not os.access(Path(medseg.__file__).parent / "transforms", os.W_OK),
    reason="compiled code is kept where the package can be written to",
)
def test_another_process_need_not_compile_the_loop_again():
    cut_mapped(
        np.zeros((1, 4, 4, 4), np.float32), np.zeros((4, 4, 4), np.int16), matrix=np.eye(3),
        centre=np.full(3, 1.5), patch_size=(2, 2, 2), outside_label=0,
    )  # fmt: skip

    # From where this package lies: the working directory may hold another copy of it.
    found = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS],
        cwd=Path(medseg.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.split() == ["1", "0"]


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
