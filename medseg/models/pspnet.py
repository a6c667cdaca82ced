"""PSPNet: a dilated ResNet whose features are joined with their means over parts of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import (
    Activation,
    ConvNormAct,
    Initialisation,
    Norm,
    conv,
    initialise,
    resize,
)
from medseg.models.heads import auxiliary_head, pool_to
from medseg.models.resnet import Depth, ResNet
from medseg.models.strides import Strides


class PSPNet(nn.Module):
    """Pyramid of pooled features on a ResNet, and an auxiliary head while training.

    Deviations: the ResNet begins with one 7x7 convolution, where the authors' has three 3x3. The
    auxiliary loss counts half of the main one, as in every network here, where the paper has 0.4.
    Along axes with fewer voxels of features than bins there are as many bins as voxels.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the paper's widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        output_stride: of the encoder.
        bins: along each axis, per level of the pyramid.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has "batch".
        dropout: share of the head's features set to zero while training.
        deep_supervision: 2 adds logits of the third stage while training; 1 does not.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S). In training mode with
        deep_supervision 2 a list of two of them.

    Source: Zhao et al. 2017, CVPR.
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
        bins: Sequence[int] = (1, 2, 3, 6),
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
        dropout: float = 0.1,
        deep_supervision: int = 2,
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1:
            raise ConfigError("model.bins", f"is {list(bins)}", "give positive numbers")
        self.bins = tuple(bins)
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
        features = self.encoder.channels[3]
        level = max(1, features // 4)
        one = (1,) * spatial_dims
        self.levels = nn.ModuleList(
            ConvNormAct(
                spatial_dims, features, level, kernel_size=one, norm=norm, activation=activation
            )
            for _ in self.bins
        )
        self.head = nn.Sequential(
            ConvNormAct(
                spatial_dims,
                features + level * len(self.bins),
                level,
                kernel_size=(3,) * spatial_dims,
                norm=norm,
                activation=activation,
            ),
            nn.Dropout(dropout),
            conv(spatial_dims, level, out_channels, kernel_size=one),
        )
        self.auxiliary = auxiliary_head(
            spatial_dims,
            self.encoder.channels[2],
            out_channels,
            deep_supervision=deep_supervision,
            norm=norm,
            activation=activation,
            dropout=dropout,
        )
        self.stride = self.encoder.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        features = self.encoder(image)
        x = features[3]
        parts = [x]
        for bins, level in zip(self.bins, self.levels, strict=True):
            pooled = level(pool_to(x, bins))  # (N, channels / 4, bins, ...)
            parts.append(resize(pooled, x.shape[2:]).to(x.dtype))
        logits = resize(self.head(torch.cat(parts, 1)), image.shape[2:])
        if self.training and self.auxiliary is not None:
            return [logits, resize(self.auxiliary(features[2]), image.shape[2:])]
        return logits
