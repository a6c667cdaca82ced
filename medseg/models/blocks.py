"""Building blocks shared by two or more networks, for 2D and 3D alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.norms import BatchNorm2d, BatchNorm3d, InstanceNorm

Norm = Literal["instance", "batch", "group", "none"]
Activation = Literal["leaky_relu", "relu", "gelu", "silu"]
Initialisation = Literal["he", "xavier", "pytorch"]

GROUP_SIZE = 16
"""Channels per group of norm="group" (Wu and He 2018, ECCV, use 16 to 32 channels per group)."""


def conv(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...] | int = 1,
    dilation: tuple[int, ...] | int = 1,
    bias: bool = True,
) -> nn.Module:
    """Convolution whose padding keeps the spatial shape at stride 1; odd kernels only."""
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[_checked(spatial_dims)]
    rates = (dilation,) * spatial_dims if isinstance(dilation, int) else dilation
    padding = tuple(rate * (size // 2) for rate, size in zip(rates, kernel_size, strict=True))
    return kind(
        in_channels,
        out_channels,
        kernel_size,  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
        dilation=rates,  # type: ignore[arg-type]
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
        return InstanceNorm(channels)
    if norm == "group":
        groups = max(1, channels // GROUP_SIZE)
        while channels % groups:
            groups -= 1
        return nn.GroupNorm(groups, channels)
    if norm == "batch":
        return {2: BatchNorm2d, 3: BatchNorm3d}[_checked(spatial_dims)](channels)
    if norm == "none":
        return nn.Identity()
    raise ConfigError("model.norm", f"is '{norm}'", "use instance, batch, group or none")


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
    raise ConfigError(
        "model.activation", f"is '{activation}'", "use leaky_relu, relu, gelu or silu"
    )


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
        dilation: tuple[int, ...] | int = 1,
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
            dilation=dilation,
            bias=norm == "none",
        )
        self.norm = norm_layer(norm, spatial_dims, out_channels)
        self.activation = activation_layer(activation)

    def forward(self, image: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(image)))


def initialise(
    model: nn.Module, initialisation: Initialisation = "he", *, negative_slope: float = 0.01
) -> None:
    """Random weights for all convolutions and zero biases: "he" (He et al. 2015, ICCV), "xavier"
    (Glorot and Bengio 2010, AISTATS), or as PyTorch made them.
    """
    if initialisation not in ("he", "xavier", "pytorch"):
        raise ConfigError(
            "model.initialisation", f"is '{initialisation}'", "use he, xavier or pytorch"
        )
    for module in model.modules() if initialisation != "pytorch" else ():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            if initialisation == "he":
                nn.init.kaiming_normal_(module.weight, a=negative_slope)
            else:
                nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def concatenate(skip: Tensor, upsampled: Tensor) -> Tensor:
    """Both along channels, in the skip connection's type (autocast may differ between them)."""
    return torch.cat((upsampled.to(skip.dtype), skip), dim=1)


def resize(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear interpolation of (N, C, *S) to another spatial shape; x itself where it has it."""
    if tuple(x.shape[2:]) == tuple(shape):
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, size=tuple(shape), mode=mode, align_corners=False)


def crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The first `shape` voxels of (N, C, *S) along each axis."""
    return x[(slice(None), slice(None), *(slice(0, extent) for extent in shape))]


def _checked(spatial_dims: int) -> int:
    if spatial_dims not in (2, 3):
        raise ConfigError("model.spatial_dims", f"is {spatial_dims}", "set it to 2 or 3")
    return spatial_dims
