"""Where objects seem to lie: maps of middles and blobs, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medseg.models.detection.middles import (
    OUTSIDE,
    STEEPNESS,
    MiddleMap,
    blobs,
    centres_of,
    likely_middles,
    middle_loss,
    middles_of,
)
from medseg.models.detection.objects import Objects


def cube(shape, *spans):
    """Objects that are boxes, from (start, end) along every axis."""
    masks = torch.zeros(len(spans), *shape, dtype=torch.bool)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[(slice(start, end),) * len(shape)] = True
    return Objects.from_masks(masks, torch.ones(len(spans)).long())


def test_the_middle_of_a_ring_lies_in_the_ring():
    masks = torch.ones(2, 5, 5, dtype=torch.bool)
    masks[1, 1:4, 1:4] = False

    middle, of_ring = middles_of(Objects.from_masks(masks, torch.ones(2))).tolist()

    assert middle == [2, 2]
    assert masks[1][tuple(of_ring)]
    assert sorted(abs(n - 2) for n in of_ring) == [0, 2]


def test_no_object_has_no_middle():
    assert middles_of(Objects.none((4, 4, 4))).shape == (0, 3)


def test_middles_far_from_the_corner_stand_in_half_precision():
    masks = torch.zeros(1, 260, 260, dtype=torch.bool)
    masks[0, 200:241, 190:251] = True

    with torch.autocast("cpu", torch.float16):
        middle = middles_of(Objects.from_masks(masks, torch.ones(1)))

    assert middle.tolist() == [[220, 220]]


def test_peaks_come_before_higher_voxels_beside_them():
    logits = torch.linspace(-9, -8, 25).reshape(1, 1, 5, 5)  # no voxel above all beside it
    logits[0, 0, 0, 0], logits[0, 0, 0, 1], logits[0, 0, 4, 4] = 5.0, 4.0, 0.0

    assert likely_middles(logits, 2).tolist() == [[0, 24]]
    assert likely_middles(logits, 3).tolist() == [[0, 1, 24]]
    assert likely_middles(logits, 99).tolist() == [list(range(25))]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_an_index_of_a_level_is_a_place_in_the_image(shape):
    index = torch.arange(math.prod(shape))[None]
    stride = (2, 4, 1)[: len(shape)]

    places = centres_of(index, shape, stride)[0]

    wanted = [(torch.tensor(n) + 0.5) * torch.tensor(stride) for n in torch.cartesian_prod(
        *(torch.arange(n) for n in shape)
    ).tolist()]  # fmt: skip
    assert torch.equal(places, torch.stack(wanted))


def test_a_blob_is_highest_in_its_middle_and_zero_at_its_half_extents():
    maps = blobs(
        torch.tensor([[[5.0, 9.0]]]), torch.tensor([[[2.0, 4.0]]]), shape=(5, 9), stride=(2, 2)
    )[0, 0]

    assert float(maps[2, 4]) == pytest.approx(STEEPNESS)
    assert float(maps[3, 4]) == pytest.approx(0.0)
    assert float(maps[2, 6]) == pytest.approx(0.0)
    assert float(maps[0, 0]) == OUTSIDE


def test_a_right_map_costs_little_and_a_wrong_one_much():
    objects = [cube((16, 16), (2, 7))]
    right = torch.full((1, 1, 8, 8), -12.0)
    right[0, 0, 2, 2] = 12.0  # the cell of the voxel (4, 4)
    wrong = torch.full((1, 1, 8, 8), -12.0)
    wrong[0, 0, 6, 6] = 12.0

    low = middle_loss(right, objects, None, stride=(2, 2))
    high = middle_loss(wrong, objects, None, stride=(2, 2))

    assert float(low) < 1e-3
    assert float(high) == pytest.approx(24.0, rel=1e-3)  # a middle missed and one made up


def test_what_nobody_annotated_costs_nothing():
    semantic = torch.zeros(1, 16, 16).long()
    semantic[0, 8:] = -1
    logits = torch.full((1, 1, 8, 8), -12.0)
    logits[0, 0, 6, 6] = 12.0
    none = [Objects.none((16, 16))]

    assert float(middle_loss(logits, none, semantic, stride=(2, 2))) < 1e-3
    assert float(middle_loss(logits, none, None, stride=(2, 2))) == pytest.approx(12.0, rel=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_middles_are_learnt(dims):
    torch.manual_seed(0)
    objects = [cube((16,) * dims, (0, 5), (9, 15))]
    image = objects[0].masks.any(0)[None, None].float()
    network = MiddleMap(dims, 8, norm="group", activation="relu")
    network.reset_outputs()
    level = torch.nn.functional.avg_pool2d if dims == 2 else torch.nn.functional.avg_pool3d
    features = level(image, 2).repeat(1, 8, *(1,) * dims)
    waves = torch.linspace(0, 1, 8)  # nothing else says where a voxel lies
    features = features * waves.reshape(-1, *(1,) * (dims - 1)) + features
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(150):
        loss = middle_loss(network(features), objects, None, stride=(2,) * dims)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    places = centres_of(likely_middles(network(features), 2), (8,) * dims, (2,) * dims)[0]

    cells = middles_of(objects[0]) // 2
    assert sorted(places.tolist()) == sorted(((cells + 0.5) * 2).tolist())
