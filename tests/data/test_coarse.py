import numpy as np
import pytest
from learning_cases import small_plan

from medseg.core.errors import ConfigError
from medseg.data.coarse import coarse_given, coarse_spacing, with_cascade
from medseg.data.plan import Plan

LARGE = np.array([160, 160, 80])


def decided(given: Plan | None = None, *, median=LARGE, **plan) -> Plan:
    return with_cascade(small_plan(**plan), given=given or Plan(), median=median)


def test_a_patch_that_covers_enough_needs_no_cascade():
    plan = decided(median=np.array([20, 18, 12]))

    assert plan.cascade is False
    # 16 x 16 x 8 of 20 x 18 x 12 voxels.
    assert plan.reasons["cascade"] == "a patch covers 47% of the median case"


def test_a_patch_larger_than_the_case_covers_it_all():
    assert "100%" in decided(median=np.array([8, 8, 8])).reasons["cascade"]


def test_a_patch_that_covers_little_is_told():
    assert "a patch covers 0.1 % of the median case" in decided().reasons["cascade"]


def test_a_cascade_gets_a_spacing_at_which_the_case_fits_into_a_patch():
    plan = decided(Plan(cascade=True))

    spacing = np.array(plan.coarse_spacing_mm)
    shape = LARGE * np.array(plan.spacing_mm) / spacing
    assert plan.cascade is True
    assert 0.9 * np.prod(plan.patch_size) < np.prod(shape) <= 1.02 * np.prod(plan.patch_size)
    # Ten times fewer voxels per axis: isotropic, as the coarse axis has been reached.
    assert spacing.max() < 1.02 * spacing.min()
    assert plan.coarse_margin_mm == pytest.approx(spacing.max(), rel=0.01)
    assert {"coarse_spacing_mm", "coarse_margin_mm"} <= set(plan.reasons)
    assert "cascade" not in plan.reasons  # set by hand


def test_a_coarse_axis_stays_until_the_others_have_become_as_coarse():
    assert coarse_spacing((100, 100, 10), (1.0, 1.0, 8.0), 100 * 100 * 10 / 4) == pytest.approx(
        [2.0, 2.0, 8.0], rel=0.02
    )


def test_numbers_set_by_hand_are_kept():
    plan = decided(Plan(cascade=True, coarse_spacing_mm=(5, 6, 7), coarse_margin_mm=3.0))

    assert plan.coarse_spacing_mm == (5.0, 6.0, 7.0)
    assert plan.coarse_margin_mm == 3.0


def test_there_is_no_cascade_in_2d():
    flat = {
        "spatial_dims": 2, "patch_size": (16, 16), "strides": ((1, 1), (2, 2)),
        "kernel_sizes": ((3, 3), (3, 3)),
    }  # fmt: skip

    assert decided(**flat).cascade is False
    with pytest.raises(ConfigError) as caught:
        decided(Plan(spatial_dims=2, cascade=True), **flat)
    assert caught.value.where == "plan.cascade"
    assert caught.value.remedy == "set plan.cascade=false or model.spatial_dims=3"


def test_the_coarse_plan_sees_the_same_intensities_at_its_own_spacing():
    fine = decided(Plan(cascade=True))

    coarse = coarse_given(fine)

    assert coarse.spacing_mm == fine.coarse_spacing_mm
    assert (coarse.normalisation, coarse.orientation) == (fine.normalisation, fine.orientation)
    assert (coarse.patch_size, coarse.batch_size, coarse.cascade) == (None, None, False)


@pytest.mark.parametrize(
    ("entry", "value"), [("coarse_spacing_mm", (1.0, 2.0)), ("coarse_margin_mm", -1.0)]
)
def test_numbers_that_cannot_be_are_refused(entry, value):
    with pytest.raises(ConfigError) as caught:
        Plan(**{entry: value})

    assert caught.value.where == f"plan.{entry}"
