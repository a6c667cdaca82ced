from dataclasses import replace

import numpy as np
import phantoms
import pytest
import torch
from learning_cases import perfect_bundle, small_plan

from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.core.volume import Volume
from medseg.inference.air import air_levels, without_air
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import SlidingWindow
from medseg.inference.tiling import tile

CT = {"kind": "clip_zscore", "low": -1000.0, "high": 1000.0, "mean": 100.0, "std": 200.0}
MR = {"kind": "zscore"}


def test_the_level_of_air_is_that_of_ct_after_clipping_and_normalising():
    soft = {**CT, "low": -60.0}  # clipped above air, which then is as dark as fat
    plan = small_plan(normalisation=(CT, MR, soft))

    assert air_levels(plan) == [pytest.approx(-5.0), float("inf"), pytest.approx(-0.8)]


def test_without_ct_nothing_is_known_of_air():
    with pytest.raises(ConfigError) as caught:
        air_levels(small_plan(normalisation=(MR,)))

    assert caught.value.where == "inference.skip_air"
    assert "CT alone" in caught.value.what


@pytest.mark.parametrize("shape", [(40, 16, 16), (40, 12, 5)])
def test_windows_stay_if_a_single_voxel_is_no_air(shape):
    image = torch.full((1, *shape), -5.0)
    image[0, 37, 3, 4] = -4.9
    tiling = tile(shape, (8, 8, 8), overlap=0.5, stride=None)

    left = without_air(tiling, image, [-5.0])

    holds = {
        start
        for start in tiling.starts
        if all(
            first - margin <= place < first - margin + 8
            for first, margin, place in zip(start, tiling.margin, (37, 3, 4), strict=True)
        )
    }
    assert left.chosen == holds
    assert 0 < len(holds) < len(tiling.starts)


def test_a_scan_in_air_is_segmented_as_without_skipping_in_fewer_windows(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_ALLOWED_TARGETS", "learning_cases")
    labels = LabelSet.from_mapping({"background": 0, "body": 1, "regions": {"body": [1]}})
    rule = {"kind": "clip_zscore", "low": -1000.0, "high": 1000.0, "mean": 0.0, "std": 100.0}
    grid = phantoms.grid(shape=(48, 16, 16), spacing_mm=(1.0, 1.0, 1.0), orientation="RAS")
    array = np.full((1, 48, 16, 16), -1000.0, np.float32)
    array[0, 2:9, 4:12, 4:12] = 40.0
    bundle = perfect_bundle(
        tmp_path, labels=labels, options={"in_channels": 1}, normalisation=(rule,),
        spacing_mm=(1.0, 1.0, 1.0), patch_size=(8, 8, 8),
    )  # fmt: skip
    told = {False: [], True: []}
    found = {}

    for skips in (False, True):
        predictor = NetworkPredictor(
            bundle,
            device="cpu",
            inference=SlidingWindow(skip_air=skips),
            on_progress=told[skips].append,
        )
        found[skips] = predictor.predict_volume(Volume(array, grid, "CT"))
        empty = predictor.predict_volume(Volume(np.full_like(array, -1000.0), grid, "CT"))
        assert not empty.array.any()

    assert np.array_equal(found[True].array, found[False].array)
    assert np.array_equal(found[True].array, (array[0] > 0).astype(int))
    assert told[True][0].total < 0.5 * told[False][0].total
    assert told[True][-1].total == 0  # nothing but air


def test_a_cascade_looks_no_further_than_its_coarse_network_says():
    tiling = tile((40, 8, 8), (8, 8, 8), overlap=0.5, stride=None)
    some = frozenset(tiling.starts[:2])
    image = torch.zeros(1, 40, 8, 8)

    assert without_air(replace(tiling, chosen=some), image, [-5.0]).chosen == some
