from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medseg.inference.cost import measure_cost, receptive_field
from medseg.models.build import build_model
from medseg.models.unet import UNet


class Two(nn.Module):
    """Two convolutions whose cost can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.second = nn.Conv2d(4, 2, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(self.first(image))


def measure(network):
    return measure_cost(network, in_channels=1, out_channels=2, patch_size=(16, 8), batch_size=3)


def test_parameters_and_operations_are_those_worked_out_by_hand():
    cost = measure(Two())

    first, second = 2 * 9 * 4 * 128, 2 * 4 * 2 * 128
    assert cost.parameters == 36 + 8
    assert cost.forward_flops == first + second
    # Backward: gradients of both weights and of the features between, none of the image.
    assert cost.step_flops == 3 * ((first + second) + (first + 2 * second))
    assert cost.parts["first"].flops == first
    assert cost.parts["second"].parameters == 8
    assert cost.largest("flops") == ("first", first / (first + second))


def test_memory_holds_what_the_backward_pass_needs():
    cost = measure(Two())

    features, logits = 4 * 3 * 4 * 128, 4 * 3 * 2 * 128  # bytes of fp32, batch 3
    assert cost.parts["first"].kept_bytes == features // 3
    assert cost.step_bytes > features + logits
    assert cost.step_bytes < 20 * (features + logits)


def test_times_are_measured_and_the_weights_left_alone():
    network = Two()
    before = network.first.weight.detach().clone()

    cost = measure(network)

    assert 0 < cost.forward_seconds < cost.step_seconds < 60
    assert torch.equal(network.first.weight, before)
    assert network.first.weight.grad is None


def test_the_receptive_field_is_that_worked_out_by_hand():
    # From the middle voxel 128 back through the decoder (two convolutions and a transposed one per
    # stage) and the encoder (one convolution and one of stride 2 per stage): voxels 89 to 159.
    network = UNet(1, 2, spatial_dims=2, strides=(1, 2, 2, 2), base_channels=4)

    assert receptive_field(network, torch.zeros(1, 1, 256, 256)) == (71, 71)
    # Along an axis that is never halved, each of the 14 convolutions adds a voxel on either side.
    thin = UNet(1, 2, spatial_dims=2, strides=(1, (2, 1), (2, 1), (2, 1)), base_channels=4)
    assert receptive_field(thin, torch.zeros(1, 1, 256, 64)) == (71, 29)


@pytest.mark.parametrize("size", [3, 5])
def test_the_receptive_field_sees_through_maxima_and_activations(size):
    network = nn.Sequential(nn.ReLU(), nn.MaxPool2d(size, stride=1, padding=size // 2), nn.ReLU())

    assert receptive_field(network, torch.zeros(1, 1, 32, 32)) == (size, size)


@pytest.mark.parametrize("name", ["mask_rcnn", "mask2former"])
def test_a_network_that_finds_objects_is_measured_with_its_losses(name):
    network = build_model(
        name, spatial_dims=2, in_channels=1, out_channels=2, base_channels=2, depth=18,
        pyramid_channels=8,
    )  # fmt: skip

    cost = measure_cost(network, in_channels=1, out_channels=2, patch_size=(48, 32))

    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.step_flops > 2 * cost.forward_flops / 3 > 0
    assert cost.receptive_field == (48, 32)  # the coarsest level sees all of the patch
    if name == "mask_rcnn":
        assert cost.parts["masks"].flops > 0  # the second stage counts
