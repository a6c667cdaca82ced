"""The class of every voxel as a loss beside boxes, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medseg.models.build import build_model
from medseg.models.detection.dense import class_shares, classes_of, dense_loss
from medseg.models.detection.objects import Objects


def objects_of(*rows):
    """Objects of 4x4 pixels: for each the rows that it fills, and its class."""
    masks = torch.zeros(len(rows), 4, 4, dtype=torch.bool)
    for mask, (chosen, _) in zip(masks, rows, strict=True):
        mask[chosen] = True
    return Objects.from_masks(masks, torch.tensor([class_id for _, class_id in rows]).long())


def test_a_coarse_cell_has_the_shares_of_its_classes():
    classes = classes_of([objects_of(([0], 1), ([2, 3], 2))])
    classes[0, 0, 3] = -1

    shares = class_shares(classes, 3, (2, 2))

    assert shares[0, :, 0, 0].tolist() == [0.5, 0.5, 0.0]
    assert shares[0, :, 1, 1].tolist() == [0.0, 0.0, 1.0]
    assert shares[0, :, 0, 1].tolist() == [0.5, 0.25, 0.0]  # nothing is known of one pixel


def test_even_logits_give_the_entropy_and_half_of_the_dice():
    # Half of the pixels are of class 1, and everything is so with a probability of a half.
    classes = classes_of([objects_of(([0, 1], 1))])

    loss = dense_loss(torch.zeros(1, 2, 4, 4), classes)

    assert float(loss) == pytest.approx(math.log(2) + 1 - 2 * 4 / (8 + 8))


def test_voxels_that_nobody_annotated_change_nothing():
    classes = classes_of([objects_of(([0, 1], 1))])
    logits = torch.zeros(1, 2, 4, 4)
    classes[0, 3] = -1
    wrong = logits.clone()
    wrong[0, 1, 3] = 20.0

    assert float(dense_loss(wrong, classes)) == float(dense_loss(logits, classes))
    assert float(dense_loss(logits, torch.full_like(classes, -1))) == 0.0


def test_images_without_objects_have_the_entropy_alone():
    none = Objects.from_masks(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0).long())

    loss = dense_loss(torch.zeros(1, 2, 4, 4), classes_of([none]))

    assert float(loss) == pytest.approx(math.log(2))


def test_right_logits_lose_nothing_and_the_dense_part_is_learnt():
    classes = classes_of([objects_of(([0, 1], 1))])
    right = torch.full((1, 2, 4, 4), -20.0)
    right[:, 1, :2], right[:, 0, 2:] = 20.0, 20.0

    assert float(dense_loss(right, classes)) == pytest.approx(0, abs=1e-6)

    options = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "base_channels": 4}
    network = build_model("mask_rcnn", depth=18, dense_weight=2.0, **options)
    image = torch.randn(1, 1, 32, 32)
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 4:14, 6:18] = True
    terms = network.losses(network(image), [Objects.from_masks(masks, torch.tensor([1]))])
    terms["dense"].backward()
    assert network.dense.weight.grad.abs().sum() > 0
    assert "dense" not in build_model("mask_rcnn", depth=18, **options).state_dict()
