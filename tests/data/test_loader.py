import numpy as np
import pytest
import torch
from learning_cases import block_cases, small_plan

from medseg.core.errors import ConfigError
from medseg.data.cache import CaseCache
from medseg.data.loader import LoaderSpec, StepSampler, validation_loader


def test_an_epoch_holds_the_steps_after_the_one_before():
    sampler = StepSampler(4)
    sampler.set_epoch(3)

    assert list(sampler) == [12, 13, 14, 15]
    assert len(sampler) == 4


def test_a_cpu_makes_batches_in_the_training_process():
    assert LoaderSpec().workers("cpu") == 0
    assert LoaderSpec(num_workers=5).workers("cpu") == 5
    assert 1 <= LoaderSpec().workers("cuda") <= 8


def test_validation_takes_whole_cases_unchanged(tmp_path):
    cases = block_cases(2)
    cache = CaseCache(tmp_path, plan=small_plan(), num_classes=3)

    items = list(validation_loader(cases, cache))

    assert [item["key"] for item in items] == ["case_000", "case_001"]
    assert items[0]["image"].shape == (1, 16, 14, 12)
    assert items[0]["target"].dtype == torch.int64
    assert torch.equal(items[1]["target"], torch.from_numpy(cases[1].read_reference().array).long())


def test_the_last_look_takes_in_cases_that_are_not_shown_before(tmp_path):
    cache = CaseCache(tmp_path, plan=small_plan(), num_classes=3)
    loader = validation_loader(block_cases(3), cache, num_shown=1)

    shown = [item["key"] for item in loader]
    loader.sampler.takes_all = True
    at_the_end = []
    for item in loader:
        at_the_end.append(item["key"])
        loader.sampler.takes_all = len(at_the_end) < 2  # its time is over

    assert shown == ["case_000"]
    assert at_the_end == ["case_000", "case_001"]


def test_validation_of_a_fine_network_takes_the_references_region(tmp_path):
    (case,) = block_cases(1)
    plan = small_plan(patch_size=(4, 4, 4))
    cache = CaseCache(tmp_path, plan=plan, num_classes=3)

    (item,) = validation_loader([case], cache, region_margin=(1.0, 0.0, 2.0))

    labels = case.read_reference().array
    low = np.argwhere(labels).min(axis=0) - (1, 0, 2)
    high = np.argwhere(labels).max(axis=0) + 1 + (1, 0, 2)
    low, high = np.maximum(low, 0), np.minimum(high, labels.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    assert np.array_equal(item["target"].numpy(), labels[box])
    assert torch.equal(item["image"], torch.from_numpy(cache.get(case).image[(slice(None), *box)]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps_per_epoch", 0),
        ("validation_cases", 0),
        ("num_workers", -1),
        ("foreground_fraction", 1.2),
    ],
)
def test_numbers_that_cannot_be_are_refused(option, value):
    with pytest.raises(ConfigError) as caught:
        LoaderSpec(**{option: value})

    assert caught.value.where == f"loader.{option}"
    assert str(value) in caught.value.what
    assert caught.value.remedy.startswith("use ")
