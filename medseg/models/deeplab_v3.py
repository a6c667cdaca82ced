"""DeepLab v3 (dilated convolutions beside pooled features of the whole image) and v3+ (with a
decoder).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import (
    Activation,
    ConvNormAct,
    Initialisation,
    Norm,
    conv,
    initialise,
    resize,
)
from medseg.models.deeplab import RATES_3D, checked_rates
from medseg.models.heads import auxiliary_head, pool_to
from medseg.models.resnet import Depth, ResNet
from medseg.models.strides import Strides, scaled


class DeepLabV3(nn.Module):
    """A dilated ResNet, dilated convolutions and pooled features side by side, a plain head.

    torchvision's deeplabv3_resnet50 and deeplabv3_resnet101, whose weights it takes with norm
    "batch" (`medseg.models.weight_files`). The paper has `multi_grid=[1, 2, 4]` and
    output_stride 16. Deviation: in 3D the rates are 2, 4 and 6.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the paper's widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        output_stride: of the encoder, 8 or 16.
        multi_grid: see `medseg.models.resnet.ResNet`.
        rates: dilations; None takes 12, 24, 36 at output stride 8 and 6, 12, 18 at 16 in 2D.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has "batch".
        dropout: share of the features set to zero while training, before the head.
        deep_supervision: 2 adds logits of the third stage while training; 1 does not.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S). In training mode with
        deep_supervision 2 a list of two of them.

    Source: Chen et al. 2017, arXiv:1706.05587; torchvision.models.segmentation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        depth: Depth = 50,
        base_channels: int = 32,
        strides: Strides | None = None,
        output_stride: int = 8,
        multi_grid: Sequence[int] | None = None,
        rates: Sequence[int] | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
        dropout: float = 0.5,
        deep_supervision: int = 2,
    ) -> None:
        super().__init__()
        self.encoder = ResNet(
            in_channels,
            spatial_dims=spatial_dims,
            depth=depth,
            base_channels=base_channels,
            strides=strides,
            output_stride=output_stride,
            multi_grid=multi_grid,
            norm=norm,
            activation=activation,
        )
        width = scaled(256, base_channels)
        self.pyramid = AtrousPyramid(
            spatial_dims,
            self.encoder.channels[3],
            width,
            rates=rates or default_rates(spatial_dims, output_stride),
            norm=norm,
            activation=activation,
            dropout=dropout,
        )
        self.head = nn.Sequential(
            ConvNormAct(
                spatial_dims,
                width,
                width,
                kernel_size=(3,) * spatial_dims,
                norm=norm,
                activation=activation,
            ),
            conv(spatial_dims, width, out_channels, kernel_size=(1,) * spatial_dims),
        )
        self.auxiliary = auxiliary_head(
            spatial_dims,
            self.encoder.channels[2],
            out_channels,
            deep_supervision=deep_supervision,
            norm=norm,
            activation=activation,
        )
        self.stride = self.encoder.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        features = self.encoder(image)
        logits = resize(self.head(self.pyramid(features[3])), image.shape[2:])
        if self.training and self.auxiliary is not None:
            return [logits, resize(self.auxiliary(features[2]), image.shape[2:])]
        return logits


class DeepLabV3Plus(nn.Module):
    """DeepLab v3 at stride 16, and a decoder that joins features of stride 4.

    Deviations: the encoder is a ResNet-50 with ordinary convolutions, where the paper's best has
    Xception with separable ones; in 3D the rates are 2, 4 and 6.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the paper's widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        output_stride: of the encoder, 8 or 16.
        multi_grid: see `medseg.models.resnet.ResNet`.
        rates: dilations; None takes 6, 12, 18 at output stride 16 and 12, 24, 36 at 8 in 2D.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has "batch".
        dropout: share of the features set to zero while training, before the decoder.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Chen et al. 2018, ECCV.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        depth: Depth = 50,
        base_channels: int = 32,
        strides: Strides | None = None,
        output_stride: int = 16,
        multi_grid: Sequence[int] | None = None,
        rates: Sequence[int] | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder = ResNet(
            in_channels,
            spatial_dims=spatial_dims,
            depth=depth,
            base_channels=base_channels,
            strides=strides,
            output_stride=output_stride,
            multi_grid=multi_grid,
            norm=norm,
            activation=activation,
        )
        width, low = scaled(256, base_channels), scaled(48, base_channels)
        self.pyramid = AtrousPyramid(
            spatial_dims,
            self.encoder.channels[3],
            width,
            rates=rates or default_rates(spatial_dims, output_stride),
            norm=norm,
            activation=activation,
            dropout=dropout,
        )

        def step(in_width: int, out_width: int, size: int) -> nn.Module:
            return ConvNormAct(
                spatial_dims,
                in_width,
                out_width,
                kernel_size=(size,) * spatial_dims,
                norm=norm,
                activation=activation,
            )

        self.low = step(self.encoder.channels[0], low, 1)
        self.decoder = nn.Sequential(
            step(width + low, width, 3),
            step(width, width, 3),
            conv(spatial_dims, width, out_channels, kernel_size=(1,) * spatial_dims),
        )
        self.stride = self.encoder.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)

    def forward(self, image: Tensor) -> Tensor:
        features = self.encoder(image)
        fine = self.low(features[0])  # (N, 48, S / 4)
        coarse = resize(self.pyramid(features[3]), fine.shape[2:])  # (N, 256, S / 4)
        return resize(self.decoder(torch.cat((coarse.to(fine.dtype), fine), 1)), image.shape[2:])


class AtrousPyramid(nn.Module):
    """A 1x1 convolution, dilated 3x3 convolutions and pooled features, joined by a 1x1 convolution.

    Source: Chen et al. 2017, arXiv:1706.05587, section 3.3.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        *,
        rates: Sequence[int],
        norm: Norm,
        activation: Activation,
        dropout: float,
    ) -> None:
        super().__init__()

        def branch(in_width: int, size: int, dilation: int = 1) -> nn.Module:
            return ConvNormAct(
                spatial_dims,
                in_width,
                channels,
                kernel_size=(size,) * spatial_dims,
                dilation=dilation,
                norm=norm,
                activation=activation,
            )

        self.branches = nn.ModuleList(
            [branch(in_channels, 1), *(branch(in_channels, 3, r) for r in checked_rates(rates))]
        )
        self.pooled = branch(in_channels, 1)
        self.join = nn.Sequential(branch(channels * (len(rates) + 2), 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        pooled = self.pooled(pool_to(x, 1))  # (N, channels, 1, ...)
        parts.append(pooled.to(parts[0].dtype).expand_as(parts[0]))
        return self.join(torch.cat(parts, 1))


def default_rates(spatial_dims: int, output_stride: int) -> tuple[int, ...]:
    """Dilations of the pyramid: the paper's in 2D, RATES_3D in 3D."""
    if spatial_dims == 3:
        return RATES_3D
    return (12, 24, 36) if output_stride <= 8 else (6, 12, 18)
