"""Networks that find segments as ones that give class logits."""

from __future__ import annotations

import pytest
import torch
from network_options import small_network

from medseg.models.detection.class_logits import ClassLogits, with_class_logits


def test_a_network_of_classes_stays_as_it_is():
    network = torch.nn.Conv2d(1, 2, 1)

    assert with_class_logits(network) is network


@pytest.mark.parametrize(("name", "shape"), [("mask2former", (20, 28)), ("panoptic_fpn", (20, 28))])
def test_segments_become_logits_of_the_image_s_extents(name, shape):
    inner = small_network(name, 2, pyramid_channels=8, strides=[1, 2, 2]).eval()
    network = with_class_logits(inner)
    image = torch.randn(2, 1, *shape)

    with torch.no_grad():
        logits = network(image)
        wanted = inner.semantic_logits(inner(image), shape=shape)

    assert isinstance(network, ClassLogits)
    assert (network.stride, network.min_size) == (inner.stride, inner.min_size)
    assert logits.shape == (2, 3, *shape)
    assert torch.equal(logits, wanted)
