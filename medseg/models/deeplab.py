"""DeepLab v1 (large field of view) and v2 (parallel dilated classifiers)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import (
    Activation,
    Initialisation,
    Norm,
    conv,
    initialise,
    resize,
)
from medseg.models.heads import vgg_classifier
from medseg.models.resnet import Depth, ResNet
from medseg.models.strides import Strides, scaled
from medseg.models.vgg import VGG16

# At stride 8 a 3D patch of 64 voxels has 8 voxels of features: the papers' rates of 12 and more
# would reach beyond it on both sides and leave 1x1x1 convolutions (Chen et al. 2017, section 3.3).
RATES_3D = (2, 4, 6)


class DeepLabV1(nn.Module):
    """VGG-16 at stride 8, its classifier a 3x3 convolution of large dilation.

    DeepLab-LargeFOV. Deviations: poolings that halve span 2 voxels, where the authors' span 3; in
    3D the classifier's dilation is 4 instead of 12. The paper's conditional random field is no part
    of the network.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: 32 gives the paper's widths; others scale them.
        strides: of the poolings, see `medseg.models.strides.encoder_strides`.
        output_stride: beyond it, poolings keep the resolution and convolutions are dilated.
        rate: dilation of the classifier; None takes 12 in 2D and 4 in 3D.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has norm "none".
        dropout: share of the classifier's features set to zero while training.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Chen et al. 2015, ICLR.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        base_channels: int = 32,
        strides: Strides | None = None,
        output_stride: int = 8,
        rate: int | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder = VGG16(
            in_channels,
            spatial_dims=spatial_dims,
            base_channels=base_channels,
            strides=strides,
            output_stride=output_stride,
            norm=norm,
            activation=activation,
        )
        self.classifier = vgg_classifier(
            spatial_dims,
            self.encoder.channels[-1],
            out_channels,
            width=scaled(1024, base_channels),
            kernel_size=3,
            dilation=rate or (12 if spatial_dims == 2 else 4),
            norm=norm,
            activation=activation,
            dropout=dropout,
        )
        self.stride = self.encoder.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)

    def forward(self, image: Tensor) -> Tensor:
        return resize(self.classifier(self.encoder(image)[-1]), image.shape[2:])


class DeepLabV2(nn.Module):
    """A dilated ResNet and the sum of four dilated classifiers.

    Deviations: one scale of the image, where the paper joins three; in 3D the rates are 1, 2, 4 and
    6 instead of 6, 12, 18 and 24. The paper's conditional random field is no part of the network.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the ResNet's own widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        output_stride: of the encoder.
        rates: dilations of the classifiers; None as above.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has "batch".

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Chen et al. 2018, TPAMI 40:834.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        depth: Depth = 101,
        base_channels: int = 32,
        strides: Strides | None = None,
        output_stride: int = 8,
        rates: Sequence[int] | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        self.encoder = ResNet(
            in_channels,
            spatial_dims=spatial_dims,
            depth=depth,
            base_channels=base_channels,
            strides=strides,
            output_stride=output_stride,
            norm=norm,
            activation=activation,
        )
        default = (6, 12, 18, 24) if spatial_dims == 2 else (1, *RATES_3D)
        self.classifiers = nn.ModuleList(
            conv(
                spatial_dims,
                self.encoder.channels[3],
                out_channels,
                kernel_size=(3,) * spatial_dims,
                dilation=rate,
            )
            for rate in checked_rates(rates or default)
        )
        self.stride = self.encoder.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)

    def forward(self, image: Tensor) -> Tensor:
        x = self.encoder(image)[3]
        parts = [classifier(x) for classifier in self.classifiers]  # each (N, out, S / stride)
        return resize(torch.stack(parts).sum(0), image.shape[2:])


def checked_rates(rates: Sequence[int]) -> Sequence[int]:
    if min(rates) < 1:
        raise ConfigError("model.rates", f"is {list(rates)}", "give positive numbers")
    return rates
