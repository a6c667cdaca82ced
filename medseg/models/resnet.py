"""Residual encoders with adjustable strides and dilation, for FCN, DeepLab and PSPNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import Activation, Norm, activation_layer, conv, norm_layer
from medseg.models.strides import Strides, dilate_beyond, encoder_strides, product, scaled

Depth = Literal[18, 34, 50, 101]
BLOCKS: dict[int, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
Axes = tuple[int, ...]


class ResNet(nn.Module):
    """A 7x7 convolution, a maximum and four stages of residual blocks.

    Args:
        in_channels: image channels.
        spatial_dims: 2 or 3.
        depth: 18 or 34 (blocks of two 3x3 convolutions), 50 or 101 (bottlenecks).
        base_channels: 32 gives the paper's widths (64 in the first stage); others scale them.
        strides: of the first convolution, the maximum and the last three stages, see
            `medseg.models.strides.encoder_strides`. Along an axis that the first convolution does
            not halve its kernel is 3, since 7 would reach across a thin axis.
        output_stride: 8 or 16: later stages keep the resolution, and their convolutions are dilated
            instead. None keeps the strides.
        multi_grid: factors on the dilation of the last stage's blocks, such as (1, 2, 4) (Chen et
            al. 2017). None dilates as torchvision does: the first block of a stage as the stage
            before.
        norm, activation: see `medseg.models.blocks`; the paper has "batch" and "relu".

    Attributes:
        channels: feature channels of the four stages.
        stride: product of all strides along each axis.
        stage_strides: the same up to each of the four stages.

    Shapes:
        image (N, in_channels, *S) to a list of the four stages' features, (N, channels[n], *S /
        stage_strides[n], rounded up).

    Source: He et al. 2016, CVPR; stride in the 3x3 convolution of a bottleneck as in torchvision.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        spatial_dims: int,
        depth: Depth = 50,
        base_channels: int = 32,
        strides: Strides | None = None,
        output_stride: int | None = None,
        multi_grid: Sequence[int] | None = None,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ConfigError("model.depth", f"is {depth}", "use 18, 34, 50 or 101")
        if multi_grid is not None and (not multi_grid or min(multi_grid) < 1):
            raise ConfigError(
                "model.multi_grid", f"is {list(multi_grid)}", "give positive numbers or null"
            )
        steps, dilations = dilate_beyond(encoder_strides(strides, spatial_dims), output_stride)
        self.stride = product(steps)
        self.stage_strides = [product(steps[: n + 2]) for n in range(4)]
        width = scaled(64, base_channels)
        expansion = 4 if depth >= 50 else 1
        self.channels = [width * 2**n * expansion for n in range(4)]
        self.conv = conv(
            spatial_dims,
            in_channels,
            width,
            kernel_size=tuple(7 if step == 2 else 3 for step in steps[0]),
            stride=steps[0],
            bias=norm == "none",
        )
        self.norm = norm_layer(norm, spatial_dims, width)
        self.activation = activation_layer(activation)
        self.pool = _pool(steps[1])
        stages = []
        features = width
        for n, num_blocks in enumerate(BLOCKS[depth]):
            step = steps[n + 1] if n else (1,) * spatial_dims
            before = dilations[n] if n else (1,) * spatial_dims
            rates = [before] + [dilations[n + 1]] * (num_blocks - 1)
            if n == 3 and multi_grid is not None:
                rates = [
                    tuple(rate * multi_grid[b % len(multi_grid)] for rate in dilations[n + 1])
                    for b in range(num_blocks)
                ]
            blocks = []
            for b, rate in enumerate(rates):
                blocks.append(
                    Block(
                        spatial_dims,
                        features,
                        width * 2**n,
                        is_bottleneck=expansion == 4,
                        stride=step if b == 0 else (1,) * spatial_dims,
                        dilation=rate,
                        norm=norm,
                        activation=activation,
                    )
                )
                features = self.channels[n]
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.pool(self.activation(self.norm(self.conv(image))))
        features = []
        for stage in self.stages:
            x = stage(x)  # (N, channels[n], ...)
            features.append(x)
        return features


class Block(nn.Module):
    """Two 3x3 convolutions, or a 3x3 between two 1x1 (bottleneck), around a shortcut.

    Args:
        channels: of the 3x3 convolution; a bottleneck gives out four times as many.
        stride, dilation: of the (first) 3x3 convolution; the second has the same dilation.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: int,
        *,
        is_bottleneck: bool,
        stride: Axes,
        dilation: Axes,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        one, three, unit = (1,) * spatial_dims, (3,) * spatial_dims, (1,) * spatial_dims
        out_channels = channels * 4 if is_bottleneck else channels
        plan: list[tuple[int, int, Axes, Axes, Axes]]  # in, out, kernel, stride, dilation
        if is_bottleneck:
            plan = [
                (in_channels, channels, one, unit, unit),
                (channels, channels, three, stride, dilation),
                (channels, out_channels, one, unit, unit),
            ]
        else:
            plan = [
                (in_channels, channels, three, stride, dilation),
                (channels, channels, three, unit, dilation),
            ]

        def convolution(entry: tuple[int, int, Axes, Axes, Axes]) -> nn.Module:
            before, after, kernel, step, rate = entry
            return conv(
                spatial_dims,
                before,
                after,
                kernel_size=kernel,
                stride=step,
                dilation=rate,
                bias=norm == "none",
            )

        self.convs = nn.ModuleList(convolution(entry) for entry in plan)
        self.norms = nn.ModuleList(norm_layer(norm, spatial_dims, entry[1]) for entry in plan)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or max(stride) > 1:
            self.shortcut = nn.Sequential(
                convolution((in_channels, out_channels, one, stride, unit)),
                norm_layer(norm, spatial_dims, out_channels),
            )
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        last = len(self.convs) - 1
        for n, (convolution, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(convolution(y))
            if n < last:
                y = self.activation(y)
        return self.activation(y + self.shortcut(x))


def _pool(step: Axes) -> nn.Module:
    """Maximum over three voxels along halved axes."""
    if max(step) == 1:
        return nn.Identity()
    kind = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[len(step)]
    kernel = tuple(3 if n == 2 else 1 for n in step)
    return kind(kernel, stride=step, padding=tuple(size // 2 for size in kernel))
