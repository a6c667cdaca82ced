"""Networks at their papers' widths have as many parameters as the reference has."""

from __future__ import annotations

import pytest
from torchvision_networks import TorchvisionNetwork

from medseg.models.build import build_model


def count(name, *, dims=2, in_channels=3, out_channels=21, **options):
    network = build_model(
        name, spatial_dims=dims, in_channels=in_channels, out_channels=out_channels, **options
    )
    return sum(parameter.numel() for parameter in network.parameters())


# torchvision's own numbers with the auxiliary classifier, from its documentation of weights.
@pytest.mark.parametrize(
    ("kind", "name", "depth", "wanted"),
    [
        ("fcn", "fcn_resnet50", 50, 35_322_218),
        ("fcn", "fcn_resnet50", 101, 54_314_346),
        ("deeplabv3", "deeplab_v3", 50, 42_004_074),
        ("deeplabv3", "deeplab_v3", 101, 60_996_202),
    ],
)
def test_torchvisions_networks(kind, name, depth, wanted):
    theirs = sum(p.numel() for p in TorchvisionNetwork(kind, depth).parameters())

    assert theirs == wanted
    assert count(name, depth=depth) == wanted


VGG_CONVOLUTIONS = (
    14_714_688  # VGG-16's thirteen convolutions with biases (the paper's 138 M less fc)
)
RESNET_50 = 25_557_032 - (2048 * 1000 + 1000)  # torchvision's resnet50 without its classifier
RESNET_101 = 44_549_160 - (2048 * 1000 + 1000)


def conv(inputs, outputs, size=1, *, bias=True):
    return inputs * outputs * size**2 + (outputs if bias else 0)


def test_fcn_32s_16s_and_8s_are_vgg_16_with_a_convolutional_classifier():
    classifier = conv(512, 4096, 7) + conv(4096, 4096) + conv(4096, 21)
    up = 21 * 21 * 16  # a 4x4 transposed convolution without bias

    plain = {name: count(name, norm="none") for name in ("fcn_32s", "fcn_16s", "fcn_8s")}

    assert plain["fcn_32s"] == VGG_CONVOLUTIONS + classifier
    assert plain["fcn_16s"] == plain["fcn_32s"] + conv(512, 21) + up
    assert plain["fcn_8s"] == plain["fcn_16s"] + conv(256, 21) + up


def test_deeplab_v1_has_the_papers_20_5_million():
    classifier = conv(512, 1024, 3) + conv(1024, 1024) + conv(1024, 21)

    assert count("deeplab_v1", norm="none") == VGG_CONVOLUTIONS + classifier
    assert count("deeplab_v1", norm="none") == pytest.approx(20.5e6, rel=0.002)


def test_deeplab_v2_is_resnet_101_and_four_classifiers():
    assert count("deeplab_v2", norm="batch") == RESNET_101 + 4 * conv(2048, 21, 3)


def test_deeplab_v3plus_is_v3_at_its_encoder_with_the_decoder_of_the_paper():
    pyramid = conv(2048, 256, bias=False) + 3 * conv(2048, 256, 3, bias=False)
    pyramid += conv(2048, 256, bias=False) + conv(5 * 256, 256, bias=False) + 6 * 2 * 256
    decoder = conv(256, 48, bias=False) + 2 * 48
    decoder += conv(304, 256, 3, bias=False) + conv(256, 256, 3, bias=False) + 2 * 2 * 256
    decoder += conv(256, 21)

    assert count("deeplab_v3plus") == RESNET_50 + pyramid + decoder


def test_segnet_has_the_encoders_convolutions_twice():
    encoder = VGG_CONVOLUTIONS - sum(2 * [64, 128] + 3 * [256, 512, 512])  # without biases
    # The decoder mirrors the encoder: it ends with the classes, where the encoder begins with
    # three colours.
    decoder = encoder - conv(3, 64, 3, bias=False) + conv(64, 21, 3)
    # Every convolution but the last is followed by a normalisation with two values per channel.
    norms = 2 * sum(2 * [64, 128] + 3 * [256, 512, 512])
    norms += 2 * sum([512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64])

    assert count("segnet", norm="batch") == encoder + decoder + norms


def test_pspnet_is_resnet_50_the_pyramid_and_the_auxiliary_head():
    pyramid = 4 * (conv(2048, 512, bias=False) + 2 * 512)
    head = conv(4096, 512, 3, bias=False) + 2 * 512 + conv(512, 21)
    auxiliary = conv(1024, 256, 3, bias=False) + 2 * 256 + conv(256, 21)

    assert count("pspnet") == RESNET_50 + pyramid + head + auxiliary


def test_hrnet_w48_has_its_papers_65_8_million():
    # The authors' HRNet-Semantic-Segmentation has 65,859,379 with 19 classes; its head's 1x1
    # convolution has 720 biases, which the normalisation after it takes away again.
    assert count("hrnet_w48", out_channels=19) == 65_859_379 - 720


@pytest.mark.slow
def test_transformers_and_mednext_have_about_their_papers_numbers():
    # UNETR's paper gives 92.58 M, MedNeXt's 5.6 M (S) and 10.5 M (B) with kernel 3.
    brats = {"dims": 3, "in_channels": 4, "out_channels": 4}

    assert count("unetr", dims=3, in_channels=1, out_channels=14) == pytest.approx(
        92.58e6, rel=0.01
    )
    assert count("mednext", **brats, deep_supervision=1) == pytest.approx(5.6e6, rel=0.02)
    assert count("mednext", **brats, size="B", deep_supervision=1) == pytest.approx(
        10.5e6, rel=0.02
    )


@pytest.mark.parametrize(
    "name", ["fcn_8s", "segnet", "deeplab_v1", "deeplab_v3", "pspnet", "hrnet_w18", "fcn_resnet50"]
)
def test_half_the_width_has_about_a_quarter_of_the_parameters(name):
    full, half = count(name), count(name, base_channels=16)

    assert half == pytest.approx(full / 4, rel=0.03)
