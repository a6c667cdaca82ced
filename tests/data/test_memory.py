import numpy as np
import pytest
from learning_cases import small_plan

from medseg.core.errors import ConfigError
from medseg.data.memory import GIB, fit_to_memory
from medseg.data.plan import Plan

FIXED, PER_VOXEL = 1000, 10
REASONS = {"batch_size": "planned", "patch_size": "planned"}


def start(edge: int = 32, batch: int = 8) -> Plan:
    return small_plan(patch_size=(edge,) * 3, batch_size=batch, reasons=REASONS)


class Device:
    """A step takes 1000 bytes and 10 for each voxel; patches are cubes with edges of multiples
    of 8.
    """

    def __init__(self, bytes_there: int, largest: int = 64) -> None:
        self.bytes_there = bytes_there
        self.largest = largest
        self.tried: list[tuple[int, int]] = []

    def measure(self, plan: Plan) -> int | None:
        self.tried.append((plan.patch_size[0], plan.batch_size))
        peak = FIXED + PER_VOXEL * int(np.prod(plan.patch_size)) * plan.batch_size
        return peak if peak <= self.bytes_there else None

    def replan(self, voxels: float) -> Plan:
        edge = int(np.clip((voxels ** (1 / 3) + 1e-6) // 8 * 8, 8, self.largest))
        return start(edge, batch=32)

    def fit(self, plan: Plan, given: Plan | None = None, **options):
        return fit_to_memory(
            plan,
            given=given or Plan(),
            budget_bytes=self.bytes_there,
            measure=self.measure,
            replan=self.replan,
            **options,
        )


def test_a_plan_that_fits_is_tried_once_and_kept():
    device = Device(GIB)

    fit = device.fit(start())

    assert fit.plan == start()
    assert fit.peak_bytes == FIXED + PER_VOXEL * 32**3 * 8
    assert device.tried == [(32, 8)]


def test_the_batch_is_lowered_first():
    device = Device(FIXED + PER_VOXEL * 32**3 * 3)

    fit = device.fit(start())

    assert (fit.plan.patch_size, fit.plan.batch_size) == ((32, 32, 32), 3)
    assert device.tried == [(32, 8), (32, 5), (32, 3)]
    assert "a step of 5 x 32x32x32 voxels takes more than" in fit.plan.reasons["batch_size"]
    assert fit.plan.reasons["patch_size"] == "planned"


def test_the_patch_follows_once_two_patches_do_not_fit():
    device = Device(FIXED + PER_VOXEL * 16**3 * 2)

    fit = device.fit(start())

    assert (fit.plan.patch_size, fit.plan.batch_size) == ((16, 16, 16), 2)
    assert fit.peak_bytes == device.bytes_there
    for name in ("batch_size", "patch_size"):
        assert fit.plan.reasons[name].startswith("planned; a step of 2 x 24x24x24 voxels takes")
    assert len(device.tried) <= 7


def test_one_patch_is_the_last_resort():
    device = Device(FIXED + PER_VOXEL * 16**3)

    fit = device.fit(start())

    assert (fit.plan.patch_size, fit.plan.batch_size) == ((16, 16, 16), 1)


def test_where_nothing_fits_the_error_says_what_was_tried_and_what_to_do():
    with pytest.raises(ConfigError) as caught:
        Device(500).fit(start())

    assert caught.value.where == "plan.memory_budget_gib"
    assert "even with 1 of the smallest patches, 16x16x16 voxels" in caught.value.what
    assert "plan.base_channels" in caught.value.remedy
    assert caught.value.code == "E_MEMORY"


@pytest.mark.parametrize(
    ("given", "patch", "batch"),
    [
        (Plan(patch_size=(32, 32, 32)), 32, 1),
        (Plan(patch_size=(32, 32, 32), batch_size=8), 32, 8),
    ],
)
def test_a_patch_set_by_hand_is_kept_though_it_does_not_fit(given, patch, batch):
    fit = Device(FIXED).fit(start(), given)

    assert fit.peak_bytes is None
    assert (fit.plan.patch_size, fit.plan.batch_size) == ((patch,) * 3, batch)


def test_a_batch_set_by_hand_is_kept_and_the_patch_lowered():
    fit = Device(FIXED + PER_VOXEL * 16**3 * 8).fit(start(), Plan(batch_size=8))

    assert (fit.plan.patch_size, fit.plan.batch_size) == ((16, 16, 16), 8)
    assert fit.plan.reasons["batch_size"] == "planned"


def test_the_patch_grows_only_where_it_may():
    device = Device(FIXED + PER_VOXEL * 48**3 * 32)

    assert device.fit(start(), may_grow=False).plan.patch_size == (32, 32, 32)
    grown = device.fit(start(), may_grow=True)

    assert grown.plan.patch_size == (48, 48, 48)
    assert grown.peak_bytes == FIXED + PER_VOXEL * 48**3 * 32
    assert grown.plan.reasons["patch_size"].endswith("enlarged from 32x32x32 as the memory allows")


def test_the_patch_grows_no_further_than_the_case():
    grown = Device(GIB, largest=40).fit(start(), may_grow=True)

    assert grown.plan.patch_size == (40, 40, 40)
