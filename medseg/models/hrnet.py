"""HRNet: features of several resolutions side by side from beginning to end."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import (
    Activation,
    ConvNormAct,
    Initialisation,
    Norm,
    activation_layer,
    conv,
    initialise,
    resize,
)
from medseg.models.resnet import Block
from medseg.models.strides import Rows, Strides, encoder_strides, product, scaled

BLOCKS_PER_BRANCH = 4
MODULES_PER_STAGE = (1, 4, 3)


class HRNet(nn.Module):
    """Up to four branches, each at half the resolution of the one before, that exchange features.

    HRNetV2: the branches are enlarged to the finest, joined and turned into logits at 1/4 of the
    image's resolution, which are enlarged linearly.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        width: channels of the finest branch, 18, 32 or 48; they double from branch to branch.
        base_channels: 32 gives the paper's widths; others scale them, `width` included.
        strides: of the two first convolutions and between the branches, see
            `medseg.models.strides.encoder_strides`.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has "batch".

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Wang et al. 2021, TPAMI 43:3349; Sun et al. 2019, arXiv:1904.04514.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        width: Literal[18, 32, 48] = 48,
        base_channels: int = 32,
        strides: Strides | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        if width not in (18, 32, 48):
            raise ConfigError("model.width", f"is {width}", "use 18, 32 or 48")
        steps = encoder_strides(strides, spatial_dims)
        self.stride = product(steps)
        self.min_size = (1,) * spatial_dims
        make = _Maker(spatial_dims, norm, activation)
        stem = scaled(64, base_channels)
        first = [make.block(stem if n == 0 else 4 * stem, stem, True) for n in range(4)]
        self.stem = nn.Sequential(
            make.step(in_channels, stem, steps[0]), make.step(stem, stem, steps[1]), *first
        )
        channels = [scaled(width, base_channels) * 2**n for n in range(4)]
        transitions, stages = [make.step(4 * stem, channels[0])], []
        before = 4 * stem  # channels that a new branch begins from
        for n, num_modules in enumerate(MODULES_PER_STAGE):
            transitions.append(make.step(before, channels[n + 1], steps[n + 2]))
            before = channels[n + 1]
            stages.append(
                nn.Sequential(
                    *(Exchange(channels[: n + 2], steps[2:], make) for _ in range(num_modules))
                )
            )
        self.transitions = nn.ModuleList(transitions)
        self.stages = nn.ModuleList(stages)
        joined = sum(channels)
        one = (1,) * spatial_dims
        self.head = nn.Sequential(
            make.step(joined, joined, kernel=1),
            conv(spatial_dims, joined, out_channels, kernel_size=one),
        )
        initialise(self, initialisation, negative_slope=0.0)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)  # (N, 256, S / 4)
        branches = [self.transitions[0](x)]
        for stage, transition in zip(self.stages, list(self.transitions)[1:], strict=True):
            # The first new branch comes from the stem, each further one from the coarsest so far.
            branches.append(transition(x if len(branches) == 1 else branches[-1]))
            branches = stage(branches)
        finest = branches[0].shape[2:]
        enlarged = [resize(branch, finest) for branch in branches]
        joined = torch.cat([branch.to(enlarged[0].dtype) for branch in enlarged], 1)
        return resize(self.head(joined), image.shape[2:])


class Exchange(nn.Module):
    """Residual blocks in every branch, then each branch gets the sum of all, brought to its own
    resolution: by strided convolutions, or by a 1x1 convolution and linear enlargement.
    """

    def __init__(self, channels: list[int], steps: Rows, make: _Maker) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(make.block(width, width, False) for _ in range(BLOCKS_PER_BRANCH)))
            for width in channels
        )
        fusions = []
        for target, width in enumerate(channels):
            paths: list[nn.Module] = []
            for source, source_width in enumerate(channels):
                if source == target:
                    paths.append(nn.Identity())
                elif source > target:
                    paths.append(make.step(source_width, width, kernel=1, is_last=True))
                else:
                    path = [
                        make.step(
                            source_width,
                            width if n == target - 1 else source_width,
                            steps[n],
                            is_last=n == target - 1,
                        )
                        for n in range(source, target)
                    ]
                    paths.append(nn.Sequential(*path))
            fusions.append(nn.ModuleList(paths))
        self.fusions = nn.ModuleList(fusions)
        self.activation = activation_layer(make.activation)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        outputs = []
        for own, paths in zip(features, self.fusions, strict=True):
            total: Tensor | None = None
            for path, x in zip(paths.children(), features, strict=True):
                part = resize(path(x), own.shape[2:])
                total = part if total is None else total + part
            assert total is not None
            outputs.append(self.activation(total))
        return outputs


class _Maker:
    """Layers with the network's dimensions, normalisation and activation."""

    def __init__(self, spatial_dims: int, norm: Norm, activation: Activation) -> None:
        self.spatial_dims, self.norm, self.activation = spatial_dims, norm, activation

    def step(
        self,
        in_channels: int,
        out_channels: int,
        stride: tuple[int, ...] | int = 1,
        *,
        kernel: int = 3,
        is_last: bool = False,
    ) -> nn.Module:
        """Convolution, normalisation and, unless what follows adds first, activation."""
        layers = ConvNormAct(
            self.spatial_dims,
            in_channels,
            out_channels,
            kernel_size=(kernel,) * self.spatial_dims,
            stride=stride,
            norm=self.norm,
            activation=self.activation,
        )
        return nn.Sequential(layers.conv, layers.norm) if is_last else layers

    def block(self, in_channels: int, channels: int, is_bottleneck: bool) -> nn.Module:
        unit = (1,) * self.spatial_dims
        return Block(
            self.spatial_dims,
            in_channels,
            channels,
            is_bottleneck=is_bottleneck,
            stride=unit,
            dilation=unit,
            norm=self.norm,
            activation=self.activation,
        )
