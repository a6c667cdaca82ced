import math

import numpy as np
import pytest

from medseg.core.errors import GeometryError
from medseg.metrics.overlap import Overlap, count_overlap


def masks(reference: str, prediction: str) -> tuple[np.ndarray, np.ndarray]:
    """Two masks from strings of 0 and 1."""
    return tuple(np.array([digit == "1" for digit in text]) for text in (reference, prediction))


def test_dice_and_iou_follow_from_the_counts():
    overlap = count_overlap(*masks("1111100", "0011110"))

    assert overlap == Overlap(5, 4, 3)
    assert overlap.dice == pytest.approx(6 / 9)
    assert overlap.iou == pytest.approx(3 / 6)


def test_volumes_are_in_millilitres_and_the_difference_is_prediction_minus_reference():
    overlap = count_overlap(*masks("1111100", "0011110"), voxel_volume_mm3=250.0)

    assert overlap.reference_ml == pytest.approx(1.25)
    assert overlap.prediction_ml == pytest.approx(1.0)
    assert overlap.volume_difference_ml == pytest.approx(-0.25)
    assert overlap.relative_volume_difference == pytest.approx(-0.2)


def test_two_empty_masks_have_no_dice_and_no_iou():
    overlap = count_overlap(*masks("000", "000"))

    assert math.isnan(overlap.dice)
    assert math.isnan(overlap.iou)
    assert math.isnan(overlap.relative_volume_difference)


@pytest.mark.parametrize(
    ("reference", "prediction", "relative"), [("110", "000", -1.0), ("000", "011", math.nan)]
)
def test_one_empty_mask_gives_zero(reference, prediction, relative):
    overlap = count_overlap(*masks(reference, prediction))

    assert overlap.dice == 0.0
    assert overlap.iou == 0.0
    assert overlap.relative_volume_difference == pytest.approx(relative, nan_ok=True)


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"prediction: has shape \(2,\).*\(3,\).*one grid"):
        count_overlap(np.ones(3, bool), np.ones(2, bool))
