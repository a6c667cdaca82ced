from itertools import pairwise

import numpy as np
import pytest
import torch
from learning_cases import numbers

from medseg.core.errors import ConfigError
from medseg.inference.sliding_window import (
    SlidingWindow,
    gaussian_importance,
    mirror_combinations,
)
from medseg.inference.tiling import grown_window, window_starts


def twice(image: torch.Tensor) -> torch.Tensor:
    """A network whose logits are the image and its double."""
    return torch.cat([image, 2 * image], dim=1)


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("shape", [(17, 23, 11), (8, 8, 8), (9, 8, 40)])
def test_windows_cover_every_voxel_and_stay_inside(shape, overlap):
    window = (8, 8, 8)
    covered = np.zeros(shape, bool)

    for start in window_starts(shape, window, overlap):
        assert min(start) >= 0
        assert all(a + n <= extent for a, n, extent in zip(start, window, shape, strict=True))
        covered[tuple(slice(a, a + n) for a, n in zip(start, window, strict=True))] = True

    assert covered.all()


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_neighbours_overlap_as_much_as_asked_for(overlap):
    for extent in range(32, 90):
        starts = sorted({start[0] for start in window_starts((extent,), (32,), overlap)})

        assert starts[0] == 0
        assert starts[-1] == extent - 32
        assert all(b - a <= max(1, int(32 * (1 - overlap))) for a, b in pairwise(starts))


@pytest.mark.parametrize("shape", [(20, 17, 13), (5, 30, 8), (4, 3, 2), (8, 8, 8)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_network_without_a_border_gives_the_same_as_on_the_whole_image(shape, overlap):
    image = torch.from_numpy(numbers((1, *shape)))

    logits = SlidingWindow(overlap=overlap).logits(
        twice, image, patch_size=(8, 8, 8), out_channels=2
    )

    assert logits.shape == (2, *shape)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, twice(image[None])[0], atol=1e-5, rtol=1e-5)


def test_a_2d_network_sees_every_slice_along_the_last_axis():
    image = torch.from_numpy(numbers((2, 20, 17, 5)))
    seen = []

    def network(patches: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(patches.shape[1:]))
        return patches * 3

    logits = SlidingWindow().logits(network, image, patch_size=(8, 8), out_channels=2)

    assert set(seen) == {(2, 8, 8)}
    torch.testing.assert_close(logits, image * 3, atol=1e-5, rtol=1e-5)


def test_images_smaller_than_the_patch_are_padded_with_zeros_on_both_sides():
    def network(patches: torch.Tensor) -> torch.Tensor:
        assert patches.shape[2:] == (8, 8, 8)
        assert (patches[:, :, :2] == 0).all()
        assert (patches[:, :, -2:] == 0).all()
        assert (patches[:, :, 2:6] == 1).all()
        return patches

    logits = SlidingWindow().logits(
        network, torch.ones(1, 4, 8, 8), patch_size=(8, 8, 8), out_channels=1
    )

    assert logits.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("window_batch", [1, 3, None])
def test_the_number_of_windows_at_once_changes_nothing(window_batch):
    image = torch.from_numpy(numbers((1, 19, 18, 10)))
    sizes = []

    def network(patches: torch.Tensor) -> torch.Tensor:
        sizes.append(len(patches))
        return twice(patches)

    logits = SlidingWindow(window_batch=window_batch).logits(
        network, image, patch_size=(8, 8, 8), out_channels=2
    )

    assert max(sizes) <= (window_batch or 32)
    torch.testing.assert_close(logits, twice(image[None])[0], atol=1e-5, rtol=1e-5)


def test_mirrored_images_are_turned_back_before_they_are_averaged():
    image = torch.from_numpy(numbers((1, 12, 9, 10)))
    tta = SlidingWindow(tta="mirror")

    logits = tta.logits(twice, image, patch_size=(8, 8, 8), out_channels=2, mirror_axes=(0, 2))

    torch.testing.assert_close(logits, twice(image[None])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("patch_size", [(8, 8, 8), (8, 8)])
def test_mirroring_makes_a_lopsided_network_even(patch_size):
    ramp = torch.arange(8.0).view(8, *[1] * (len(patch_size) - 1))

    def network(patches: torch.Tensor) -> torch.Tensor:
        return patches + ramp  # larger towards the end of the first axis, whatever the image

    logits = SlidingWindow(tta="mirror").logits(
        network, torch.zeros(1, 8, 8, 8), patch_size=patch_size, out_channels=1, mirror_axes=(0,)
    )

    torch.testing.assert_close(logits, torch.full_like(logits, 3.5))


def test_without_tta_mirror_axes_are_not_used():
    calls = []

    def network(patches: torch.Tensor) -> torch.Tensor:
        calls.append(len(patches))
        return patches

    SlidingWindow().logits(
        network, torch.zeros(1, 8, 8, 8), patch_size=(8, 8, 8), out_channels=1, mirror_axes=(0, 1)
    )

    assert calls == [1]


def test_all_subsets_of_axes_are_mirrored():
    assert sorted(mirror_combinations((0, 2))) == [(), (0,), (0, 2), (2,)]


def test_the_middle_of_a_window_counts_most_and_its_corner_still_counts():
    importance = gaussian_importance((8, 12, 1), 0.125)

    assert importance.shape == (8, 12, 1)
    assert importance.argmax() == np.ravel_multi_index((3, 5, 0), (8, 12, 1))
    assert float(importance.min()) > 0
    torch.testing.assert_close(importance, importance.flip(0, 1, 2))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"overlap": 1.0}, "inference.overlap"),
        ({"overlap": -0.1}, "inference.overlap"),
        ({"window_batch": 0}, "inference.window_batch"),
        ({"memory_budget_gib": 0}, "inference.memory_budget_gib"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options, where):
    with pytest.raises(ConfigError) as caught:
        SlidingWindow(**options)

    assert caught.value.where == where
    assert caught.value.remedy.startswith("use ")


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((35, 50, 36), (40, 56, 40)),  # each axis up to half longer than the patch: one window
        ((30, 40, 30), (32, 48, 32)),  # smaller than the patch: padded to it
        ((60, 50, 36), (32, 56, 40)),  # nearly twice as long along i: several windows there
    ],
)
def test_windows_stretch_over_images_hardly_larger_than_the_patch(shape, window):
    assert grown_window(shape, (32, 48, 32), (8, 8, 8)) == window


def test_a_stretched_window_shows_the_network_the_whole_image_once():
    seen = []

    def network(patch):
        seen.append(tuple(patch.shape))
        return patch

    SlidingWindow().logits(
        network, torch.zeros(1, 12, 8, 8), patch_size=(8, 8, 8), out_channels=1, stride=(4, 4, 4)
    )

    assert seen == [(1, 1, 12, 8, 8)]


@pytest.mark.parametrize("shape", [(20, 17, 41), (41, 9, 8), (4, 30, 3)])
@pytest.mark.parametrize("patch_size", [(8, 8, 8), (8, 8)])
def test_slabs_follow_each_other_and_come_as_soon_as_no_window_touches_them(shape, patch_size):
    image = torch.from_numpy(numbers((1, *shape)))
    inference = SlidingWindow()
    tiling = inference.tiling(shape, patch_size, None)
    axis = tiling.axis
    whole = twice(image[None])[0].movedim(axis + 1, 1)
    done = 0
    stop = 0

    def count(windows: int) -> None:
        nonlocal done
        done += windows

    for slab in inference.slabs(twice, image, tiling, out_channels=2, batch=1, on_windows=count):
        # Each begins with the last plane of the one before.
        assert slab.first == max(0, stop - 1)
        stop = slab.first + slab.logits.shape[1]
        layers = [layer for start, layer in tiling.layers if start - tiling.margin[axis] < stop]
        assert done == sum(len(layer) for layer in layers)
        torch.testing.assert_close(slab.logits, whole[:, slab.first : stop], atol=1e-5, rtol=1e-5)

    assert stop == shape[axis]
    assert done == len(tiling.starts)


@pytest.mark.parametrize(("patch_size", "tta"), [((8, 8), "none"), ((8, 8, 8), "mirror")])
def test_windows_of_different_layers_are_computed_together_with_the_same_result(patch_size, tta):
    image = torch.from_numpy(numbers((1, 8, 8, 21)))
    seen = []

    def network(patches: torch.Tensor) -> torch.Tensor:
        seen.append(len(patches))
        return twice(patches)

    def logits(batch: int) -> torch.Tensor:
        inference = SlidingWindow(window_batch=batch, tta=tta)
        return inference.logits(
            network, image, patch_size=patch_size, out_channels=2, mirror_axes=(0,)
        )

    together = logits(8)
    sizes = seen.copy()
    seen.clear()
    alone = logits(1)

    # 21 slices; or 5 windows along the axis, each seen as it is and mirrored.
    assert sizes == ([8, 8, 5] if tta == "none" else [8, 2])
    assert set(seen) == {1}
    assert torch.equal(together, alone)


def test_logits_added_up_in_half_precision_differ_by_its_rounding():
    image = torch.from_numpy(numbers((1, 20, 9, 8)))
    inference = SlidingWindow()
    tiling = inference.tiling((20, 9, 8), (8, 8, 8), None)

    for slab in inference.slabs(twice, image, tiling, out_channels=2, dtype=torch.float16):
        wanted = twice(image[None])[0][:, slab.first : slab.first + slab.logits.shape[1]]
        assert slab.logits.dtype == torch.float16
        torch.testing.assert_close(slab.logits.float(), wanted, atol=1e-2, rtol=1e-2)
