from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medseg.inference import upsample
from medseg.inference.upsample import LabelResult, LabelRule, MapResult, upsample_labels

MODES = {2: "bilinear", 3: "trilinear"}

CASES = [
    ((7, 9, 6), (13, 10, 17)),
    ((12, 8, 10), (5, 8, 21)),
    ((1, 4, 5), (3, 9, 9)),
    ((6, 7), (15, 9)),
    ((9, 5), (4, 5)),
]


@pytest.mark.parametrize(("old", "new"), CASES)
@pytest.mark.parametrize("slab_bytes", [1, 1 << 28])
def test_labels_are_those_of_pytorchs_interpolation(old, new, slab_bytes, monkeypatch):
    monkeypatch.setattr(upsample, "SLAB_BYTES", slab_bytes)
    logits = torch.randn(4, *old, generator=torch.Generator().manual_seed(0))
    mode = "bilinear" if len(old) == 2 else "trilinear"
    wanted = F.interpolate(logits[None], new, mode=mode, align_corners=False)[0]
    best = wanted.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-5).numpy()

    labels = upsample_labels(logits, new)

    assert labels.shape == new
    assert labels.dtype == np.uint8
    # Where two classes are equal to rounding, either may win.
    assert clear.mean() > 0.999
    assert np.array_equal(labels[clear], wanted.argmax(0).numpy()[clear])


@pytest.mark.parametrize("seed", range(40))
def test_labels_are_those_of_the_full_computation_for_any_logits_and_shapes(seed):
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(2, 4))
    channels = int(rng.choice([1, 2, 3, 7, 40, 120]))
    old = tuple(int(n) for n in rng.integers(1, 9, dims))
    # Up, down, and axes that stay as they are.
    new = tuple(int(rng.choice([n, rng.integers(1, 20)])) for n in old)
    logits = torch.as_tensor(rng.normal(size=(channels, *old)), dtype=torch.float32)
    if seed % 2:
        coarse = torch.as_tensor(rng.normal(size=(1, channels, *[3] * dims)) * 8)
        logits += F.interpolate(coarse, old, mode=MODES[dims])[0].float()
    offsets = None if seed % 3 else rng.normal(size=channels).tolist()
    paints = None if seed % 4 < 2 else rng.integers(1, 9, channels).tolist()

    labels = upsample_labels(logits, new, paints=paints, offsets=offsets)

    full = F.interpolate(logits[None], new, mode=MODES[dims])[0].double()
    if offsets is not None:
        full += torch.tensor(offsets, dtype=torch.float64).view(-1, *[1] * dims)
    wanted, clear = _labels_and_where_they_are_clear(full, paints)
    assert np.array_equal(labels[clear], wanted[clear])


def _labels_and_where_they_are_clear(full, paints):
    """Labels of all logits, and the voxels where no two logits are nearly equal (no logit nearly 0,
    of regions), so that rounding cannot decide.
    """
    # Logits are below 40: the last of 24 bits is worth 4e-6.
    if paints is None:
        best = full.topk(min(2, len(full)), dim=0).values
        return full.argmax(0).numpy(), (best[0] - best[-1] > 4e-6).numpy() | (len(full) == 1)
    wanted = np.zeros(full.shape[1:], int)
    for channel, number in enumerate(paints):
        wanted[(full[channel] > 0).numpy()] = number
    return wanted, (full.abs() > 4e-6).all(0).numpy()


def test_only_cells_whose_corners_disagree_are_interpolated():
    logits = torch.zeros(3, 10, 10, 10)
    logits[0, :5] = 1
    logits[2, 5:] = 1
    result = LabelResult((10, 10, 10), (20, 20, 20), rule=LabelRule(3))

    result.add(0, logits)

    # The cell between planes 4 and 5 holds two of the twenty rows.
    assert result.num_interpolated == 2 * 20 * 20
    assert (result.array[:10] == 0).all()
    assert (result.array[10:] == 2).all()


@pytest.mark.parametrize("cuts", [(0, 3, 9), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (0, 8, 9)])
@pytest.mark.parametrize("rows", [4, 9, 23])
def test_slabs_give_what_the_whole_gives(cuts, rows):
    logits = torch.randn(5, 9, 6, 7, generator=torch.Generator().manual_seed(3))
    labels = LabelResult((9, 6, 7), (rows, 11, 7), rule=LabelRule(5))
    shares = MapResult((9, 6, 7), (rows, 11, 7), num_maps=5, measure=partial(torch.softmax, dim=1))

    for start, stop in pairwise(cuts):
        first = max(0, start - 1)  # each slab begins with the last plane of the one before
        labels.add(first, logits[:, first:stop])
        shares.add(first, logits[:, first:stop])

    assert np.array_equal(labels.array, upsample_labels(logits, (rows, 11, 7)))
    wanted = F.interpolate(logits[None], (rows, 11, 7), mode="trilinear")[0].softmax(0)
    assert shares.array == pytest.approx(wanted.numpy(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_other_types_and_orders_of_axes_are_taken(dtype):
    logits = torch.randn(6, 5, 9, 7, generator=torch.Generator().manual_seed(4)).to(dtype)
    turned = logits.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)

    labels = upsample_labels(turned, (8, 8, 8))

    assert np.array_equal(labels, upsample_labels(logits.float(), (8, 8, 8)))


def test_a_rule_of_ones_own_decides_interpolated_logits():
    logits = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(5))

    labels = upsample_labels(logits, (7, 7, 7), decode=lambda values: values.argmin(1))

    assert np.array_equal(labels, upsample_labels(-logits, (7, 7, 7)))


def test_infinite_logits_do_not_spread():
    logits = torch.full((3, 4, 4, 4), -torch.inf)
    logits[1] = 0
    logits[2, 0] = 5

    labels = upsample_labels(logits, (4, 8, 8))

    assert (labels[0] == 2).all()
    assert (labels[1:] == 1).all()


def test_logits_of_the_wanted_shape_are_not_interpolated():
    logits = np.random.default_rng(0).normal(size=(3, 5, 6, 7))

    assert np.array_equal(upsample_labels(logits, (5, 6, 7)), logits.argmax(0))


def test_more_than_256_classes_get_a_wider_type():
    logits = torch.zeros(300, 2, 2, 2)
    logits[299] = 1

    labels = upsample_labels(logits, (3, 3, 3))

    assert labels.dtype == np.uint16
    assert (labels == 299).all()


def test_the_lowest_class_wins_a_tie():
    assert (upsample_labels(torch.zeros(3, 4, 4, 4), (7, 7, 7)) == 0).all()


def test_half_precision_logits_are_interpolated_in_full_precision():
    logits = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(1)).bfloat16()

    assert np.array_equal(
        upsample_labels(logits, (11, 12, 13)), upsample_labels(logits.float(), (11, 12, 13))
    )
