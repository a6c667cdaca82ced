"""Feature pyramids on a residual encoder and from a U-Net; which levels small objects need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.core.errors import ConfigError
from medseg.models.blocks import (
    Activation,
    Initialisation,
    Norm,
    conv,
    crop,
    norm_layer,
    resize,
)
from medseg.models.extents import padded
from medseg.models.resnet import Depth, ResNet
from medseg.models.strides import Strides
from medseg.models.unet import UNet

MIN_CELLS = {2: 4, 3: 2}
"""Voxels of the finest level across a small object, by the axes. In 2D neighbours have cells of
their own (chosen: nuclei 9 to 12 voxels wide get the stride 2). In 3D, where a finer level costs
eight times as much and objects are sparser, a small object just has more than one cell.
"""

Sizes = Sequence[Sequence[float]]


class PyramidEncoder(nn.Module):
    """A ResNet whose stages are joined from coarse to fine, all with the same channels.

    Stages that share a stride (those beyond the plan's strides) become one level, made from the
    last of them.

    Args:
        in_channels: image channels.
        spatial_dims, depth, base_channels, strides: see `medseg.models.resnet.ResNet`.
        channels: of every level.
        finest_stride: stride of the finest level along each axis; steps of the encoder before it
            are taken away where they are too coarse. None keeps the encoder's own (4 where the plan
            halves all axes).
        norm: of the encoder, and after each level's convolutions.

    Attributes:
        level_strides: per level and axis, finest first.
        stride: of the encoder.

    Shapes:
        image (N, in_channels, *S) to a list of (N, channels, *S / level stride, rounded up).

    Source: Lin et al. 2017, CVPR 936; normalisation in it as He et al. 2019, ICCV 4918.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        spatial_dims: int,
        depth: Depth,
        base_channels: int,
        channels: int,
        strides: Strides | None = None,
        finest_stride: Sequence[int] | None = None,
        norm: Norm = "group",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if finest_stride is not None:
            strides = with_finest_stride(strides, finest_stride, spatial_dims)
        self.encoder = ResNet(
            in_channels,
            spatial_dims=spatial_dims,
            depth=depth,
            base_channels=base_channels,
            strides=strides,
            norm=norm,
            activation=activation,
        )
        steps = self.encoder.stage_strides
        self.stages = [n for n in range(4) if n == 3 or steps[n] != steps[n + 1]]
        self.level_strides = [steps[n] for n in self.stages]
        self.channels = channels
        self.stride = self.encoder.stride

        layer = partial(_normed_conv, spatial_dims, channels=channels, norm=norm)
        self.lateral = nn.ModuleList(layer(self.encoder.channels[n], size=1) for n in self.stages)
        self.smooth = nn.ModuleList(layer(channels, size=3) for _ in self.stages)

    def smooth_only(self, levels: Sequence[int]) -> None:
        """Leaves out the last convolution of all other levels, whose features nothing reads."""
        for n in range(len(self.smooth)):
            if n not in levels:
                self.smooth[n] = nn.Identity()

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.encoder(image)
        levels: list[Tensor] = []
        joined: Tensor | None = None
        for n in reversed(range(len(self.stages))):
            x = self.lateral[n](features[self.stages[n]])
            if joined is not None:
                x = x + resize(joined.to(x.dtype), x.shape[2:])
            joined = x
            levels.append(self.smooth[n](x))
        return levels[::-1]


class UNetPyramid(nn.Module):
    """A U-Net whose decoder's resolutions below the image's are the levels, all with the same
    channels; its logits say the class of each voxel.

    It costs little at the finest resolution, and learns from every voxel what boxes alone teach it
    slowly (Jaeger et al. 2020).

    Args:
        in_channels, out_channels, spatial_dims, base_channels, strides, kernel_sizes, light_finest:
            see `medseg.models.unet.UNet`.
        channels: of every level.
        norm: of the network, and of each level's convolution.
        initialisation: see `medseg.models.blocks`.

    Attributes:
        level_strides, stride: see `PyramidEncoder`.

    Shapes:
        image (N, in_channels, *S), any S, to a list of (N, channels, *S / level stride, rounded up)
        and the logits (N, out_channels, *S).

    Source: Jaeger et al. 2020, PMLR 116:171 (Retina U-Net).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int,
        base_channels: int,
        channels: int,
        strides: Strides | None = None,
        kernel_sizes: Strides | None = None,
        light_finest: bool = False,
        norm: Norm = "group",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        self.network = UNet(
            in_channels,
            out_channels,
            spatial_dims=spatial_dims,
            base_channels=base_channels,
            strides=strides,
            kernel_sizes=kernel_sizes,
            light_finest=light_finest,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
            deep_supervision=1,
        )
        self.level_strides = self.network.stage_strides[1:]
        self.channels = channels
        self.stride = self.network.stride
        self.lateral = nn.ModuleList(
            _normed_conv(spatial_dims, features, channels=channels, size=1, norm=norm)
            for features in self.network.channels[1:]
        )

    def smooth_only(self, levels: Sequence[int]) -> None:
        """Leaves out what gives the levels that nothing reads."""
        for n in range(len(self.lateral)):
            if n not in levels:
                self.lateral[n] = nn.Identity()

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        shape = image.shape[2:]
        found = self.network.features(padded(image, self.stride))
        levels = [
            crop(layer(x), [-(-extent // step) for extent, step in zip(shape, stride, strict=True)])
            for layer, x, stride in zip(self.lateral, found[1:], self.level_strides, strict=True)
        ]
        return levels, crop(cast(Tensor, self.network.logits(found)), shape)


def with_finest_stride(
    strides: Strides | None, finest_stride: Sequence[int], spatial_dims: int
) -> list[tuple[int, ...]]:
    """Strides of an encoder whose first stage has a given stride along each axis: the first two
    steps are 2 where it asks for them, and later ones are the plan's.

    Raises:
        ConfigError: a stride is not 1, 2 or 4.
    """
    if len(finest_stride) != spatial_dims or any(n not in (1, 2, 4) for n in finest_stride):
        raise ConfigError(
            "model.finest_stride",
            f"is {list(finest_stride)}",
            f"give 1, 2 or 4 for each of {spatial_dims} axes",
        )
    rows = [(2,) * spatial_dims] * 5 if strides is None else _rows(strides, spatial_dims)[1:]
    # How often each axis may be halved in all is the plan's.
    left = [sum(row[axis] == 2 for row in rows) for axis in range(spatial_dims)]
    wanted = [int(math.log2(n)) for n in finest_stride]
    steps = []
    for step in range(5):
        row = []
        for axis in range(spatial_dims):
            # Of one halving among the first two steps, the maximum has it: the convolution before
            # then sees all voxels.
            early = step < 2
            halves = wanted[axis] > 1 - step if early else True
            halves = halves and left[axis] > 0
            left[axis] -= int(halves)
            row.append(2 if halves else 1)
        steps.append(tuple(row))
    return [(1,) * spatial_dims, *steps]


def finest_stride_for(
    object_sizes: Sizes | None,
    spatial_dims: int,
    *,
    usual: int = 4,
    given: Sequence[int] | None = None,
) -> Sequence[int]:
    """Stride of the finest level, 1, 2 or 4 per axis: the one given, else that at which small
    objects span MIN_CELLS voxels.

    Small are those at a quarter of the sizes that a plan names; without sizes it is `usual`, the
    papers' 4.
    """
    if given is not None:
        return given
    if not object_sizes:
        return (usual,) * spatial_dims
    small = np.quantile(np.array(object_sizes, dtype=float), 0.25, axis=0)
    return tuple(
        next((step for step in (4, 2) if extent >= MIN_CELLS[spatial_dims] * step), 1)
        for extent in small
    )


def _normed_conv(
    spatial_dims: int, features: int, *, channels: int, size: int, norm: Norm
) -> nn.Sequential:
    kernel_size = (size,) * spatial_dims
    return nn.Sequential(
        conv(spatial_dims, features, channels, kernel_size=kernel_size, bias=norm == "none"),
        norm_layer(norm, spatial_dims, channels),
    )


def upsample_twice(x: Tensor) -> Tensor:
    """(N, C, *S) at twice the extents, linearly interpolated."""
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return F.interpolate(x, scale_factor=2.0, mode=mode, align_corners=False)


def _rows(strides: Strides, spatial_dims: int) -> list[tuple[int, ...]]:
    return [
        (row,) * spatial_dims if isinstance(row, int) else tuple(int(n) for n in row)
        for row in strides
    ]
