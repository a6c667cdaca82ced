import math

import pytest
import torch
import torch.nn.functional as F

from medseg.core.errors import ConfigError
from medseg.losses.dice_ce import DiceCELoss


def test_cross_entropy_of_even_odds_is_the_log_of_the_number_of_classes():
    loss = DiceCELoss(dice_weight=0.0)

    value = loss(torch.zeros(2, 4, 3, 3, 3), torch.zeros(2, 3, 3, 3, dtype=torch.long))

    assert float(value) == pytest.approx(math.log(4))


def test_dice_worked_by_hand():
    # One foreground class, four voxels with probability 1/2 each, two of them in the target:
    # overlap 1, volumes 2 + 2, Dice 2 * 1 / 4 = 1/2.
    loss = DiceCELoss(ce_weight=0.0, smooth=0.0)

    value = loss(torch.zeros(1, 2, 4), torch.tensor([[1, 1, 0, 0]]))

    assert float(value) == pytest.approx(0.5)


def test_batch_dice_sums_before_it_divides():
    # Sample 1 as above; sample 2 has no foreground: overlap 0, volume 2.
    logits, target = torch.zeros(2, 2, 4), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])

    together = DiceCELoss(ce_weight=0.0, smooth=0.0)(logits, target)
    each = DiceCELoss(ce_weight=0.0, smooth=0.0, batch_dice=False)(logits, target)

    assert float(together) == pytest.approx(1 - 2 / 6)
    assert float(each) == pytest.approx(1 - (0.5 + 0.0) / 2)


def test_both_terms_are_added_with_their_weights():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    dice = DiceCELoss(ce_weight=0.0)(logits, target)

    value = DiceCELoss(dice_weight=2.0, ce_weight=3.0)(logits, target)

    torch.testing.assert_close(value, 2 * dice + 3 * F.cross_entropy(logits, target))


@pytest.mark.parametrize("shape", [(8, 8), (6, 6, 6)])
def test_a_perfect_prediction_costs_almost_nothing(shape):
    target = torch.randint(0, 3, (2, *shape), generator=torch.Generator().manual_seed(0))
    logits = 50.0 * F.one_hot(target, 3).movedim(-1, 1).float()

    assert float(DiceCELoss()(logits, target)) < 1e-4


def test_a_class_absent_from_target_and_prediction_costs_nothing():
    target = torch.zeros(1, 5, 5, dtype=torch.long)
    logits = 50.0 * F.one_hot(target, 3).movedim(-1, 1).float()

    assert float(DiceCELoss(ce_weight=0.0)(logits, target)) == pytest.approx(0.0, abs=1e-4)


def test_ignored_voxels_change_neither_value_nor_gradient():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    target = torch.randint(0, 3, (2, 6, 6))
    target[:, :2] = 255
    loss = DiceCELoss(ignore_id=255)

    value = loss(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)

    wanted = DiceCELoss()(logits[:, :, 2:], target[:, 2:])
    torch.testing.assert_close(value, wanted)
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2:] != 0).any()


def test_a_batch_without_any_known_voxel_gives_zero_gradients():
    logits = torch.randn(1, 2, 4, requires_grad=True)

    value = DiceCELoss(ignore_id=-1)(logits, torch.full((1, 4), -1))
    value.backward()

    assert torch.isfinite(value)
    assert (logits.grad == 0).all()


def test_half_precision_logits_are_summed_in_full_precision():
    # 3 * 32^3 voxels overflow half precision, whose largest number is 65504.
    logits = torch.zeros(1, 2, 3 * 32**3, dtype=torch.float16)

    value = DiceCELoss()(logits, torch.ones(1, 3 * 32**3, dtype=torch.long))

    assert float(value) == pytest.approx(math.log(2) + 1 - 2 * 0.5 / 1.5, rel=1e-4)


def test_label_smoothing_worked_by_hand():
    # Two classes, logits (0, log 3): probabilities 1/4 and 3/4. Smoothing 0.2 makes the target
    # (0.1, 0.9): cross entropy 0.1 * log 4 + 0.9 * log(4/3).
    logits = torch.tensor([[[0.0], [math.log(3)]]])

    value = DiceCELoss(dice_weight=0.0, label_smoothing=0.2)(logits, torch.tensor([[1]]))

    assert float(value) == pytest.approx(0.1 * math.log(4) + 0.9 * math.log(4 / 3))


def test_class_weights_worked_by_hand():
    # Even odds cost log 2 everywhere; with unequal ones the mean is weighted: voxel 0 has class 0
    # (weight 1) and costs log 4, voxel 1 class 1 (weight 3) and costs log(4/3).
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), math.log(3)]]])

    value = DiceCELoss(dice_weight=0.0, class_weights=[1, 3])(logits, torch.tensor([[0, 1]]))

    assert float(value) == pytest.approx((math.log(4) + 3 * math.log(4 / 3)) / 4)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0]])
def test_ignored_voxels_change_nothing_whatever_the_weights(weights):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 6, 6))
    target[:, :2] = 255
    options = {"class_weights": weights, "label_smoothing": 0.1}
    if weights is not None:
        options["label_smoothing"] = 0.0  # PyTorch divides smoothed weights in its own way

    value = DiceCELoss(ignore_id=255, **options)(logits, target)

    wanted = DiceCELoss(**options)(logits[:, :, 2:], target[:, 2:])
    torch.testing.assert_close(value, wanted)


def test_a_number_of_weights_that_does_not_fit_is_told():
    with pytest.raises(ConfigError, match="has 2 numbers, but the network has 3 channels") as told:
        DiceCELoss(class_weights=[1, 1])(torch.zeros(1, 3, 4), torch.zeros(1, 4, dtype=torch.long))

    assert told.value.where == "loss.class_weights"
    assert "background first" in told.value.remedy


@pytest.mark.parametrize(
    "options", [{"label_smoothing": 1.0}, {"class_weights": [0, 0]}, {"class_weights": [1, -1]}]
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        DiceCELoss(**options)


REGIONS = ((1, 2), (2,))


def test_the_loss_of_regions_worked_by_hand():
    # Voxels of class 0, 1, 2, 2; every logit 0, so every probability is 1/2.
    # Region (1, 2) has 3 voxels: Dice 2 * 1.5 / (2 + 3) = 0.6. Region (2) has 2: 2 * 1 / 4 = 0.5.
    # Binary cross entropy is log 2 throughout.
    target = torch.tensor([[0, 1, 2, 2]])

    value = DiceCELoss(smooth=0.0, regions=REGIONS)(torch.zeros(1, 2, 4), target)

    assert float(value) == pytest.approx(math.log(2) + 1 - (0.6 + 0.5) / 2)


def test_smoothing_and_weights_of_regions_worked_by_hand():
    # One voxel of class 1: inside the first region, outside the second. Both logits log 3, so both
    # probabilities are 3/4. Smoothing 0.2: targets 0.9 and 0.1. Weights 1 and 2.
    inside = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    outside = 0.1 * math.log(4 / 3) + 0.9 * math.log(4)
    loss = DiceCELoss(
        dice_weight=0.0, regions=REGIONS, label_smoothing=0.2, class_weights=[1.0, 2.0]
    )

    value = loss(torch.full((1, 2, 1), math.log(3)), torch.tensor([[1]]))

    assert float(value) == pytest.approx((inside + 2 * outside) / 3)


def test_ignored_voxels_of_regions_change_neither_value_nor_gradient():
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 6, 6, requires_grad=True)
    target = torch.randint(0, 3, (2, 6, 6))
    target[:, :2] = 255

    value = DiceCELoss(ignore_id=255, regions=REGIONS)(logits, target)
    (gradient,) = torch.autograd.grad(value, logits)

    wanted = DiceCELoss(regions=REGIONS)(logits[:, :, 2:], target[:, 2:])
    torch.testing.assert_close(value, wanted)
    assert (gradient[:, :, :2] == 0).all()
