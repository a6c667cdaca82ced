import math

import numpy as np
import phantoms
import pytest
import torch
from learning_cases import perfect_bundle

from medseg.core.volume import Volume
from medseg.inference.bundle_networks import TRIAL_FROM, BundleNetworks
from medseg.inference.postprocess import Postprocess
from medseg.inference.sliding_window import SlidingWindow


@pytest.fixture
def networks(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "learning_cases")
    bundle = perfect_bundle(tmp_path, patch_size=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0))
    return BundleNetworks(
        bundle,
        inference=SlidingWindow(window_batch=2),
        postprocess=Postprocess(),
        device="cpu",
        precision="32-true",
    )


def image(shape):
    grid = phantoms.grid(shape=shape, spacing_mm=(1.0, 1.0, 1.0), orientation="RAS")
    return Volume(np.zeros((3, *shape), np.float32), grid)


def test_a_long_image_is_estimated_from_one_patch(networks, monkeypatch):
    prepared = networks.prepare(image((60, 20, 6)))
    tiling = networks.tiling(prepared)
    seen = []
    engine = networks.engine

    def counting(patches):
        seen.append(tuple(patches.shape))
        return engine(patches)

    monkeypatch.setattr(networks, "engine", counting)

    seconds = networks.expected_seconds(torch.from_numpy(prepared.array), tiling)

    assert tiling.num_windows >= TRIAL_FROM
    assert 0 < seconds < math.inf
    assert seen == [(1, 3, 8, 8, 8)] * 2  # the first to warm up


def test_of_few_windows_nothing_is_known_until_an_image_was_computed(networks):
    prepared = networks.prepare(image((12, 8, 8)))
    tiling = networks.tiling(prepared)
    array = torch.from_numpy(prepared.array)

    before = networks.expected_seconds(array, tiling)
    networks.logits(array, tiling)
    after = networks.expected_seconds(array, tiling)

    assert math.isnan(before)
    assert after > 0
