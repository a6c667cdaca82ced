"""A conditional random field against its definition in plain loops, and what it is good for."""

from __future__ import annotations

from itertools import product
from math import exp

import numpy as np
import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.inference.random_field import RandomField, RefinedNetwork


def _by_hand(field, logits, image, *, is_multilabel):
    """The mean field of one image, voxel by voxel; logits (C, *S), image (channels, *S)."""
    shape = logits.shape[1:]
    refined = logits.copy()
    for _ in range(field.iterations):
        if is_multilabel:
            shares = 1 / (1 + np.exp(-refined))
        else:
            shares = np.exp(refined) / np.exp(refined).sum(0)
        refined = logits.copy()
        for here in np.ndindex(*shape):
            sums = {"alike": 0.0, "near": 0.0}
            means = {"alike": 0.0, "near": 0.0}
            for offset in product(range(-field.radius, field.radius + 1), repeat=len(shape)):
                there = tuple(h + o for h, o in zip(here, offset, strict=True))
                if not any(offset) or any(
                    not 0 <= t < n for t, n in zip(there, shape, strict=True)
                ):
                    continue
                closeness = exp(-sum(o * o for o in offset) / (2 * field.sigma_voxels**2))
                difference = np.mean(
                    (image[(slice(None), *here)] - image[(slice(None), *there)]) ** 2
                )
                likeness = closeness * exp(-difference / (2 * field.sigma_intensity**2))
                for name, weight in (("alike", likeness), ("near", closeness)):
                    sums[name] += weight
                    means[name] = means[name] + weight * shares[(slice(None), *there)]
            message = (
                field.appearance * means["alike"] / sums["alike"]
                + field.smoothness * means["near"] / sums["near"]
            )
            if is_multilabel:
                message = 2 * message - field.appearance - field.smoothness
            refined[(slice(None), *here)] += message
    return refined


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3), (1, 5, 4)])
@pytest.mark.parametrize("is_multilabel", [False, True])
def test_the_mean_field_equals_its_definition_in_loops(shape, is_multilabel):
    draw = np.random.default_rng(0)
    logits, image = draw.normal(size=(3, *shape)), draw.normal(size=(2, *shape))
    field = RandomField(iterations=2, radius=2)

    refined = field.refine(
        torch.from_numpy(logits)[None],
        torch.from_numpy(image)[None],
        is_multilabel=is_multilabel,
    )

    expected = _by_hand(field, logits, image, is_multilabel=is_multilabel)
    assert np.abs(refined[0].numpy() - expected).max() < 1e-5


def test_a_coarse_outline_moves_to_the_border_in_the_image():
    draw = np.random.default_rng(1)
    truth = np.zeros((24, 24), bool)
    truth[6:18, 6:18] = True
    image = torch.from_numpy(2.0 * truth + 0.1 * draw.normal(size=truth.shape))[None, None]
    shifted = np.roll(truth, 2, axis=0)
    foreground = torch.from_numpy(np.where(shifted, 1.0, -1.0))[None, None]
    logits = torch.cat([-foreground, foreground], 1)

    refined = RandomField(iterations=10).refine(logits, image)

    wrong = int((refined.argmax(1)[0].numpy() != truth).sum())
    assert (shifted != truth).sum() == 48
    assert wrong < 5


def test_a_single_voxel_has_no_neighbours_and_keeps_its_class():
    logits = torch.tensor([[0.2, 0.5, 0.1]]).view(1, 3, 1, 1)

    refined = RandomField().refine(logits, torch.zeros(1, 1, 1, 1))

    assert torch.equal(refined, logits)


def test_a_refined_network_tells_the_network_s_own_stride():
    network = torch.nn.Conv2d(1, 2, 1)
    refined = RefinedNetwork(network, RandomField(), is_multilabel=False)
    image = torch.randn(2, 1, 8, 9)

    logits = refined(image)

    assert refined.stride == network.stride
    assert torch.equal(logits, RandomField().refine(network(image), image))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"iterations": 0}, "postprocess.random_field.iterations"),
        ({"radius": 1.5}, "postprocess.random_field.radius"),
        ({"sigma_intensity": 0.0}, "postprocess.random_field.sigma_intensity"),
        ({"smoothness": -1.0}, "postprocess.random_field.smoothness"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(options, where):
    with pytest.raises(ConfigError, match=where):
        RandomField(**options)
