"""The parts that architectures are made of, and what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from network_options import random_image
from torch import nn

from medseg.core.errors import ConfigError
from medseg.models.deeplab import DeepLabV1, DeepLabV2
from medseg.models.deeplab_v3 import DeepLabV3
from medseg.models.extents import padded, require_extents
from medseg.models.fcn import FCN, LinearUp
from medseg.models.heads import pool_to
from medseg.models.hrnet import HRNet
from medseg.models.monai_fixed_nets import UNETR, MedNeXt
from medseg.models.norms import BatchNorm2d, InstanceNorm
from medseg.models.pspnet import PSPNet
from medseg.models.resnet import ResNet
from medseg.models.segnet import SegNet, pool_with_places, unpool
from medseg.models.strides import dilate_beyond, encoder_strides
from medseg.models.unet import UNet
from medseg.models.vgg import VGG16


def test_steps_that_a_plan_does_not_name_keep_the_resolution():
    assert encoder_strides([1, 2, [2, 1]], 2) == [(2, 2), (2, 1), (1, 1), (1, 1), (1, 1)]
    assert encoder_strides([[1, 1, 1]] + [[2, 2, 2]] * 7, 3) == [(2, 2, 2)] * 5
    assert encoder_strides(None, 2) == [(2, 2)] * 5


def test_beyond_the_output_stride_axes_are_dilated_one_by_one():
    # The second axis reaches 8 one step later, since the first step leaves it alone.
    rows = [(2, 1), (2, 2), (2, 2), (2, 2), (2, 2)]

    steps, dilations = dilate_beyond(rows, 8)

    assert steps == [(2, 1), (2, 2), (2, 2), (1, 2), (1, 1)]
    assert dilations == [(1, 1), (1, 1), (1, 1), (2, 1), (4, 2)]


def test_a_resnet_halves_only_what_it_is_told_to():
    strides = [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
    encoder = ResNet(1, spatial_dims=3, depth=18, base_channels=2, strides=strides)

    features = encoder(torch.zeros(1, 1, 32, 32, 6))

    assert [tuple(part.shape[2:]) for part in features] == [(8, 8, 6)] + [(4, 4, 3)] * 3
    assert encoder.conv.kernel_size == (7, 7, 3)
    assert encoder.stride == (8, 8, 2)


def test_multi_grid_multiplies_the_dilation_of_the_last_stage():
    plain = ResNet(1, spatial_dims=2, base_channels=2, output_stride=16)
    grid = ResNet(1, spatial_dims=2, base_channels=2, output_stride=16, multi_grid=(1, 2, 4))

    def rates(encoder):
        return [block.convs[1].dilation[0] for block in encoder.stages[3]]

    assert rates(plain) == [1, 2, 2]
    assert rates(grid) == [2, 4, 8]


def test_poolings_whose_stride_was_taken_away_span_three_voxels():
    encoder = VGG16(1, spatial_dims=2, base_channels=2, output_stride=8)

    assert [pool.kernel_size for pool in encoder.pools] == [(2, 2)] * 3 + [(3, 3)] * 2
    assert encoder.stages[4][0].conv.dilation == (2, 2)
    assert encoder(torch.zeros(1, 1, 33, 40))[-1].shape[2:] == (5, 5)


@pytest.mark.parametrize("shape", [(7, 12), (5, 7, 4)])
def test_pooling_to_bins_has_the_values_of_adaptive_pooling(shape):
    x = random_image(2, 3, *shape)
    adaptive = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(shape)]

    for bins in (1, 2, 3, 6):
        wanted = adaptive(x, tuple(min(bins, extent) for extent in shape))
        torch.testing.assert_close(pool_to(x, bins), wanted)


@pytest.mark.parametrize("shape", [(9, 6), (5, 6, 7)])
def test_unpooling_puts_the_maxima_back_and_zeros_elsewhere(shape):
    x = random_image(2, 3, *shape)

    pooled, places = pool_with_places(x, (2,) * len(shape))
    back = unpool(pooled, places, shape)

    assert torch.equal(back[back != 0], x[back != 0])
    assert int((back != 0).sum()) == pooled.numel()
    assert torch.equal(pool_with_places(back.where(back != 0, -9.0), (2,) * len(shape))[0], pooled)


def test_learnt_enlargement_begins_as_linear_interpolation():
    up = LinearUp(2, (2, 1))
    x = random_image(1, 2, 5, 4)

    enlarged = up(x)

    wanted = F.interpolate(x, size=(10, 4), mode="bilinear", align_corners=False)
    # At the border interpolation repeats the last value, where the convolution has zeros.
    torch.testing.assert_close(enlarged[:, :, 1:-1], wanted[:, :, 1:-1])


def test_a_map_of_one_voxel_keeps_its_content_under_instance_normalisation():
    norm, x = InstanceNorm(8), random_image(2, 8, 1, 1)

    torch.testing.assert_close(norm(x)[..., 0, 0], F.layer_norm(x[..., 0, 0], (8,)))


def test_batch_normalisation_of_a_single_value_takes_the_running_statistics():
    norm, x = BatchNorm2d(4).train(), random_image(1, 4, 1, 1)
    norm.running_mean[:], norm.running_var[:] = 0.5, 4.0

    torch.testing.assert_close(norm(x), (x - 0.5) / (4.0 + norm.eps) ** 0.5)
    assert float(norm.running_mean[0]) == 0.5
    torch.testing.assert_close(norm(random_image(2, 4, 3, 3)).mean(), torch.tensor(0.0))


def test_zeros_come_after_the_last_voxels():
    image = torch.ones(1, 1, 3, 4)

    larger = padded(image, (2, 4))

    assert larger.shape == (1, 1, 4, 4)
    assert float(larger[0, 0, 3].sum()) == 0
    assert padded(image, (3, 2)) is image


@pytest.mark.parametrize(
    ("limits", "what", "remedy"),
    [
        ({"min_size": (32, 1)}, "is 20x7, smaller than the network's minimum 32x1", "[32,7]"),
        (
            {"min_size": (1, 1), "multiple_of": (8, 1)},
            "is 20x7, no multiple of the network's stride 8x1",
            "[24,7]",
        ),
        (
            {"min_size": (1, 1), "max_size": (16, 16)},
            "is 20x7, larger than the 16x16 that the network was built for",
            "[16,7]",
        ),
    ],
)
def test_an_extent_that_does_not_fit_comes_with_one_that_does(limits, what, remedy):
    with pytest.raises(ConfigError) as caught:
        require_extents((20, 7), **limits)

    assert caught.value.where == "plan.patch_size"
    assert caught.value.what == what
    assert caught.value.remedy == f"set plan.patch_size={remedy}"


def test_unetr_takes_no_patch_larger_than_its_positions():
    network = UNETR(1, 2, spatial_dims=2, base_channels=2, patch_size=(20, 32))

    assert network(torch.zeros(1, 1, 20, 32)).shape == (1, 2, 20, 32)
    with pytest.raises(ConfigError, match="larger than the 32x32"):
        network(torch.zeros(1, 1, 40, 32))


def test_initialisation_has_the_same_names_everywhere():
    for kind in (FCN, SegNet, DeepLabV1, DeepLabV3, PSPNet, HRNet, UNet):
        for name in ("he", "xavier", "pytorch"):
            kind(1, 2, spatial_dims=2, base_channels=2, initialisation=name)
    torch.manual_seed(0)
    network = SegNet(1, 2, spatial_dims=2, base_channels=8)
    layer: nn.Module = network.encoder[1][0].conv
    # He: variance 2 / (inputs of a filter) before a rectifier (He et al. 2015, equation 10).
    fan_in = layer.weight[0].numel()
    assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("kind", "options", "where", "what"),
    [
        (FCN, {"finest": 4}, "model.finest", "is 4"),
        (FCN, {"strides": [2, 2]}, "model.strides", "must begin with 1"),
        (FCN, {"strides": [1, 3]}, "model.strides", "is [(1, 1), (3, 3)]"),
        (FCN, {"base_channels": 0}, "model.base_channels", "is 0"),
        (FCN, {"spatial_dims": 4}, "model.spatial_dims", "is 4"),
        (SegNet, {"norm": "layer"}, "model.norm", "'layer'"),
        (SegNet, {"initialisation": "zero"}, "model.initialisation", "'zero'"),
        (DeepLabV1, {"output_stride": 7}, "model.output_stride", "is 7"),
        (DeepLabV2, {"depth": 20}, "model.depth", "is 20"),
        (DeepLabV2, {"rates": (0, 3)}, "model.rates", "is [0, 3]"),
        (DeepLabV3, {"multi_grid": ()}, "model.multi_grid", "is []"),
        (PSPNet, {"bins": ()}, "model.bins", "is []"),
        (HRNet, {"width": 40}, "model.width", "is 40"),
        (MedNeXt, {"size": "XL"}, "model.size", "is 'XL'"),
        (MedNeXt, {"kernel_size": 4}, "model.kernel_size", "is 4"),
        (UNETR, {"patch_size": (16,)}, "model.patch_size", "is [16]"),
    ],
)
def test_what_does_not_fit_is_named(kind, options, where, what):
    with pytest.raises(ConfigError) as caught:
        kind(1, 2, **{"spatial_dims": 2, **options})

    assert caught.value.where == where
    assert what in caught.value.what
