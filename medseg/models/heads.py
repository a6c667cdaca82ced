"""What several networks put on top of an encoder: the plain head, the classifier after VGG-16, and
pooling to a few bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medseg.models.blocks import (
    Activation,
    ConvNormAct,
    Norm,
    activation_layer,
    conv,
    norm_layer,
)


class ConvHead(nn.Sequential):
    """A 3x3 convolution to a quarter of the channels, normalisation, activation, dropout and a 1x1
    convolution to logits.

    The head of torchvision's FCN, and the auxiliary head of FCN, DeepLab v3 and PSPNet.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm,
        activation: Activation,
        dropout: float = 0.1,
    ) -> None:
        channels = max(1, in_channels // 4)
        super().__init__(
            conv(
                spatial_dims,
                in_channels,
                channels,
                kernel_size=(3,) * spatial_dims,
                bias=norm == "none",
            ),
            norm_layer(norm, spatial_dims, channels),
            activation_layer(activation),
            nn.Dropout(dropout),
            conv(spatial_dims, channels, out_channels, kernel_size=(1,) * spatial_dims),
        )


def auxiliary_head(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    deep_supervision: int,
    norm: Norm,
    activation: Activation,
    dropout: float = 0.1,
) -> ConvHead | None:
    """The head on an earlier stage that helps while training; None with deep_supervision 1."""
    if deep_supervision <= 1:
        return None
    return ConvHead(
        spatial_dims,
        in_channels,
        out_channels,
        norm=norm,
        activation=activation,
        dropout=dropout,
    )


def vgg_classifier(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    width: int,
    kernel_size: int,
    dilation: int = 1,
    norm: Norm,
    activation: Activation,
    dropout: float,
) -> nn.Sequential:
    """VGG-16's fully connected layers as convolutions: the first of `kernel_size`, the second and
    the logits 1x1, with dropout after both.
    """
    layers: list[nn.Module] = []
    features = in_channels
    for size, spread in ((kernel_size, dilation), (1, 1)):
        layers += [
            ConvNormAct(
                spatial_dims,
                features,
                width,
                kernel_size=(size,) * spatial_dims,
                dilation=spread,
                norm=norm,
                activation=activation,
            ),
            nn.Dropout(dropout),
        ]
        features = width
    return nn.Sequential(
        *layers, conv(spatial_dims, width, out_channels, kernel_size=(1,) * spatial_dims)
    )


def pool_to(x: Tensor, bins: int) -> Tensor:
    """Means of (N, C, *S) over `bins` blocks along each axis, fewer along shorter axes.

    The blocks are those of adaptive average pooling; written as matrix products, which every
    runtime has for any extent.
    """
    if bins == 1:
        return x.mean(tuple(range(2, x.ndim)), keepdim=True)
    for axis in range(2, x.ndim):
        extent = int(x.shape[axis])
        weights = _bin_weights(extent, min(bins, extent)).to(device=x.device, dtype=x.dtype)
        x = torch.matmul(x.movedim(axis, -1), weights).movedim(-1, axis)
    return x


def _bin_weights(extent: int, bins: int) -> Tensor:
    """(extent, bins): share of each voxel in the mean of each block."""
    weights = torch.zeros(extent, bins)
    for n in range(bins):
        first, last = n * extent // bins, math.ceil((n + 1) * extent / bins)
        weights[first:last, n] = 1 / (last - first)
    return weights
