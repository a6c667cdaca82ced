import copy

import pytest
import torch
from torch import nn

from medseg.models.layout import SingleImageConv3d, in_fast_layout
from medseg.models.unet import UNet


def test_weights_on_cpu_are_channels_last_and_give_the_same_logits():
    torch.manual_seed(0)
    model = UNet(1, 3, base_channels=4, strides=(1, 2)).eval()
    image = torch.randn(2, 1, 8, 12, 16)
    before = model(image)

    after = in_fast_layout(model, "cpu")(image)

    weight = model.encoder[1][0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(before, after, atol=1e-4)


def test_weights_keep_their_names_and_values():
    model = UNet(1, 3, spatial_dims=2, base_channels=4, strides=(1, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}

    after = in_fast_layout(model, "cpu").state_dict()

    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_networks_with_instance_norm_and_gpus_keep_their_layout():
    with_norm = nn.Sequential(nn.Conv3d(2, 4, 3), nn.InstanceNorm3d(4))
    plain = nn.Sequential(nn.Conv3d(2, 4, 3))

    in_fast_layout(with_norm, "cpu")
    in_fast_layout(plain, "cuda")

    assert with_norm[0].weight.is_contiguous()
    assert plain[0].weight.is_contiguous()


def test_convolutions_that_step_over_voxels_stay_as_they_are():
    stepping, plain = nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(4, 8, 3, stride=2)

    in_fast_layout(nn.Sequential(stepping, plain), "cpu")

    assert stepping.weight.is_contiguous()
    assert plain.weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.weight.is_contiguous()


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2, "bias": False},
        {"padding": 2, "dilation": 2},
        {"padding": 1, "groups": 4},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_one_image_gives_the_features_and_gradients_of_pytorchs_convolution(options):
    torch.manual_seed(0)
    plain = nn.Conv3d(8, 8, 3, **options)
    ours = in_fast_layout(nn.Sequential(copy.deepcopy(plain)), "cpu")
    image = torch.randn(1, 8, 7, 9, 6)
    ours_image, plain_image = (image.clone().requires_grad_() for _ in range(2))

    features, wanted = ours(ours_image), plain(plain_image)
    features.square().sum().backward()
    wanted.square().sum().backward()

    assert type(ours[0]) is SingleImageConv3d
    assert torch.allclose(features, wanted, atol=1e-5)
    assert torch.allclose(ours_image.grad, plain_image.grad, atol=1e-4)
    assert torch.allclose(ours[0].weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)


def test_features_of_one_small_image_stay_channels_last():
    model = in_fast_layout(nn.Sequential(nn.Conv3d(8, 8, 3, padding=1)), "cpu")
    image = torch.randn(1, 8, 7, 9, 6).contiguous(memory_format=torch.channels_last_3d)

    with torch.no_grad():
        features = model(image)

    assert features.is_contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(image).dtype == torch.bfloat16
