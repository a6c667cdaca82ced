import torch
from torch import nn

from medseg.models.layout import in_fast_layout
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
