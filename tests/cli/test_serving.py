"""The models that batch and serve work with, as their options say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from learning_cases import case_of

from medseg.cli.serving import recipes_of
from medseg.config.check import load_config
from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.services.models import LoadedModel

SERVE = ["serve", "service.folder=inbox", "output=[nifti]"]
BATCH = ["batch", "source.folder=studies", "output=[nifti]"]


def recipe(words, *options):
    (found,) = recipes_of(load_config(words[0], [*words[1:], *options])).values()
    return found


def two_blocks():
    array = np.zeros((12, 12, 12), np.float32)
    array[2:6, 2:6, 2:6] = 100
    array[8:10, 8:10, 8:10] = 100
    return case_of(Volume(array[None], Geometry(array.shape, np.eye(4)), "CT"), None)


@pytest.mark.parametrize("words", [SERVE, BATCH], ids=lambda words: words[0])
def test_a_classical_method_is_a_model_whose_results_are_corrected(words):
    plain = recipe(words, "baseline=otsu")
    corrected = recipe(words, "baseline=otsu", "postprocess=largest_component")

    both, one = (
        LoadedModel(found).segment(two_blocks())[0].result.array for found in (plain, corrected)
    )

    assert both.sum() == 4**3 + 2**3
    assert one.sum() == 4**3
    assert plain.config_hash != corrected.config_hash


@pytest.mark.parametrize("words", [SERVE, BATCH], ids=lambda words: words[0])
def test_a_rule_for_probabilities_is_refused_before_any_study_is_taken(words):
    with pytest.raises(ConfigError, match=r"postprocess\.random_field: works on probabilities"):
        recipe(words, "baseline=otsu", "postprocess=random_field")


def test_without_any_model_the_ways_to_name_one_are_told():
    with pytest.raises(ConfigError, match="bundle=<folder>, baseline=<name> or models"):
        recipe(SERVE)


@pytest.mark.parametrize("weights", ["[2,1]", "[[1,2,1],[1,1,3]]"])
def test_weights_of_bundles_or_of_their_classes_are_options(weights):
    words = ["bundle=[a,b]", "source.folder=images", f"inference.weights={weights}"]

    assert load_config("predict", words).inference.weights == json.loads(weights)
