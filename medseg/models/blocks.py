"""Building blocks shared by two or more networks, for 2D and 3D alike."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError

Norm = Literal["instance", "batch", "group", "none"]
Activation = Literal["leaky_relu", "relu", "gelu", "silu"]

GROUP_SIZE = 16
"""Channels per group of norm="group" (Wu and He 2018, ECCV, use 16 to 32 channels per group)."""


def conv(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...] | int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Module:
    """Convolution whose padding keeps the spatial shape at stride 1; odd kernels only."""
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[_checked(spatial_dims)]
    padding = tuple(dilation * (size // 2) for size in kernel_size)
    return kind(
        in_channels,
        out_channels,
        kernel_size,  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
        dilation=dilation,
        bias=bias,
    )


def up_conv(
    spatial_dims: int, in_channels: int, out_channels: int, *, stride: tuple[int, ...]
) -> nn.Module:
    """Transposed convolution that multiplies the spatial shape by `stride` exactly."""
    kind = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[_checked(spatial_dims)]
    return kind(in_channels, out_channels, kernel_size=stride, stride=stride)  # type: ignore[arg-type]


def norm_layer(norm: Norm, spatial_dims: int, channels: int) -> nn.Module:
    """Normalisation of a (N, C, ...) tensor.

    Instance normalisation is written as group normalisation with one channel per group: the values
    are the same, a group of one voxel is allowed, and it is faster on CPU (docs/decisions/0003).
    """
    if norm == "instance":
        return nn.GroupNorm(channels, channels)
    if norm == "group":
        groups = max(1, channels // GROUP_SIZE)
        while channels % groups:
            groups -= 1
        return nn.GroupNorm(groups, channels)
    if norm == "batch":
        return {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[_checked(spatial_dims)](channels)
    if norm == "none":
        return nn.Identity()
    raise ConfigError("model.norm", f"'{norm}' is none of instance, batch, group, none")


def activation_layer(activation: Activation) -> nn.Module:
    """Element-wise activation; in place where autograd allows it."""
    if activation == "leaky_relu":
        return nn.LeakyReLU(0.01, inplace=True)
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if activation == "gelu":
        return nn.GELU()
    if activation == "silu":
        return nn.SiLU(inplace=True)
    raise ConfigError("model.activation", f"'{activation}' is none of leaky_relu, relu, gelu, silu")


class ConvNormAct(nn.Module):
    """Convolution, normalisation, activation: (N, in, ...) to (N, out, .../stride)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...] | int = 1,
        norm: Norm = "instance",
        activation: Activation = "leaky_relu",
    ) -> None:
        super().__init__()
        # A bias before a normalisation is subtracted again, so it is left out.
        self.conv = conv(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            bias=norm == "none",
        )
        self.norm = norm_layer(norm, spatial_dims, out_channels)
        self.activation = activation_layer(activation)

    def forward(self, image: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(image)))


def initialise(model: nn.Module, *, negative_slope: float = 0.01) -> None:
    """He initialisation of all convolutions, zero biases (He et al. 2015, ICCV)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(module.weight, a=negative_slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def concatenate(skip: Tensor, upsampled: Tensor) -> Tensor:
    """Both along channels, in the skip connection's type (autocast may differ between them)."""
    return torch.cat((upsampled.to(skip.dtype), skip), dim=1)


def _checked(spatial_dims: int) -> int:
    if spatial_dims not in (2, 3):
        raise ConfigError("model.spatial_dims", f"is {spatial_dims}", "set it to 2 or 3")
    return spatial_dims
