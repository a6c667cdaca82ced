from __future__ import annotations

import math

import pytest
import torch

from medseg.models.detection.assignment import Segments, assigned, masks_at_points, point_losses

WEIGHTS = (2.0, 5.0, 5.0)


def stripes(shape, count):
    """Masks that divide the first axis evenly."""
    masks = torch.zeros(count, *shape, dtype=torch.bool)
    step = shape[0] // count
    for n in range(count):
        masks[n, n * step : (n + 1) * step] = True
    return masks


@pytest.mark.parametrize("shape", [(16, 12), (16, 8, 6)])
def test_each_segment_goes_to_the_query_that_draws_it(shape):
    masks = stripes(shape, 4)
    order = torch.tensor([2, 0, 3, 1])
    logits = 20.0 * masks[order].float() - 10
    classes = torch.zeros(4, 3)

    rows, columns = assigned(
        classes, logits, Segments(masks, torch.tensor([1, 1, 1, 1])), num_points=200,
        covered=shape, weights=WEIGHTS,
    )  # fmt: skip

    assert order[rows].tolist() == columns.tolist()


def test_of_equal_masks_the_class_decides():
    masks = torch.ones(2, 8, 8, dtype=torch.bool)
    classes = torch.tensor([[0.0, 0, 9, 0], [0.0, 9, 0, 0]])

    rows, columns = assigned(
        classes, torch.zeros(2, 8, 8), Segments(masks, torch.tensor([1, 2])), num_points=50,
        covered=(8, 8), weights=WEIGHTS,
    )  # fmt: skip

    assert dict(zip(columns.tolist(), rows.tolist(), strict=True)) == {0: 1, 1: 0}


def test_a_right_mask_costs_nothing_and_an_undecided_one_what_it_must():
    masks = stripes((16, 16), 2)

    sure = point_losses(40.0 * masks.float() - 20, masks, num_points=300, covered=(16, 16))
    unsure = point_losses(torch.zeros(2, 16, 16), masks, num_points=4000, covered=(16, 16))

    assert float(sum(sure)) < 0.1  # interpolation blurs the border
    assert float(unsure[0]) == pytest.approx(2 * math.log(2), rel=1e-4)
    # Half of the voxels with half certainty: 1 - 2 * (n / 4) / (n / 2 + n / 2) each.
    assert float(unsure[1]) == pytest.approx(2 * 0.5, abs=0.05)


def test_points_read_the_voxel_they_lie_in():
    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[0, 1, 3] = True
    points = torch.tensor([[[0.75, 0.9], [0.75, 0.7], [1.0, 1.0], [0.2, 0.9]]])

    assert masks_at_points(mask, points).tolist() == [[1, 0, 1, 0]]


def test_unknown_voxels_cost_nothing_and_do_not_decide():
    masks = stripes((16, 16), 2)
    known = torch.zeros(16, 16, dtype=torch.bool)
    known[:, :4] = True  # what is unknown would outvote it
    right, wrong = 40.0 * masks.float() - 20, 20.0 - 40 * masks.float()
    logits = torch.where(known, right, wrong)
    classes = torch.zeros(2, 3)
    segments = Segments(masks, torch.tensor([1, 1]), known)

    rows, columns = assigned(
        classes, logits, segments, num_points=300, covered=(16, 16), weights=WEIGHTS
    )
    seen = point_losses(logits, masks, num_points=300, covered=(16, 16))
    spared = point_losses(logits, masks, num_points=300, covered=(16, 16), known=known)
    nothing = point_losses(
        logits, masks, num_points=300, covered=(16, 16), known=torch.zeros_like(known)
    )

    assert rows.tolist() == columns.tolist()
    assert float(sum(spared)) < 0.1 * float(sum(seen))  # interpolation blurs the border
    assert float(sum(nothing)) == 0.0
