"""Models of a service that find objects."""

from __future__ import annotations

import pytest
from detector_bundles import detector_bundle
from service_cases import DICOM_SEG, tiny_bundle

from medseg.services.models import ModelRecipe, build_network_predictor, recipe_of
from medseg.services.rules import SeriesRule

WINDOWS = "medseg.inference.object_windows.ObjectWindows"


def recipe(bundle, min_score: float) -> ModelRecipe:
    return recipe_of(
        "model",
        str(bundle),
        rule=SeriesRule(),
        inference={},
        postprocess={},
        objects={"_target_": WINDOWS, "min_score": min_score},
        output=DICOM_SEG,
        device="cpu",
    )


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return detector_bundle(tmp_path_factory.mktemp("detector") / "bundle", "mask_rcnn", 3).folder


def test_objects_are_kept_from_the_score_that_is_asked_for(detector):
    predictor = build_network_predictor(recipe(detector, 0.3), {})

    assert predictor.objects.min_score == 0.3


def test_results_of_other_objects_are_other_results(detector):
    assert recipe(detector, 0.3).config_hash != recipe(detector, 0.4).config_hash


def test_options_of_objects_change_nothing_for_networks_that_find_none(tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle")

    assert recipe(bundle, 0.3).config_hash == recipe(bundle, 0.4).config_hash
