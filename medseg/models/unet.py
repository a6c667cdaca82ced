"""U-Net in 2D and 3D, plain or with residual encoder blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import (
    Activation,
    ConvNormAct,
    Initialisation,
    Norm,
    activation_layer,
    concatenate,
    conv,
    initialise,
    norm_layer,
    up_conv,
)
from medseg.models.extents import require_extents
from medseg.models.strides import per_stage, product


class UNet(nn.Module):
    """Encoder and decoder joined by skip connections at every resolution.

    Follows the plain U-Net of nnU-Net: two convolutions per stage, strided convolutions downwards,
    transposed convolutions upwards, a 1x1 output at each of the finest resolutions for deep
    supervision.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: feature channels of the finest stage; each stage doubles them up to
            `max_channels`.
        strides: stride on entering each stage, per stage one number or one per axis; the first must
            be 1, and their number is the number of stages. None gives four stages that halve every
            axis.
        kernel_sizes: kernel per stage, one number or one per axis. None takes 3 everywhere.
        light_finest: half of `base_channels` and a single convolution in the finest stage, which
            otherwise takes half of the time of a step; the other stages stay as they are.
        convs_per_stage: convolutions per encoder stage (residual blocks when `block` is
            "residual").
        block: "plain" or "residual" encoder.
        norm, activation, initialisation: see `medseg.models.blocks`.
        deep_supervision: number of resolutions with logits while training; 1 gives the finest
            alone.

    Attributes:
        channels, stage_strides: features and stride of each resolution, finest first.

    Shapes:
        image (N, in_channels, *S), each extent of S a multiple of `stride`; logits (N,
        out_channels, *S). In training mode with deep_supervision > 1 a list of logits, finest
        first.

    Source: Ronneberger et al. 2015, MICCAI; Çiçek et al. 2016, MICCAI; Isensee et al. 2021, Nat
        Methods 18:203.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        base_channels: int = 32,
        max_channels: int = 320,
        strides: Sequence[int | Sequence[int]] | None = None,
        kernel_sizes: Sequence[int | Sequence[int]] | None = None,
        light_finest: bool = False,
        convs_per_stage: int = 2,
        block: Literal["plain", "residual"] = "plain",
        norm: Norm = "instance",
        activation: Activation = "leaky_relu",
        initialisation: Initialisation = "he",
        deep_supervision: int = 3,
    ) -> None:
        super().__init__()
        strides = (1, 2, 2, 2) if strides is None else strides
        num_stages = len(strides)
        if num_stages < 2:
            raise ConfigError("model.strides", "names fewer than two stages", "give two or more")
        channels = [min(base_channels * 2**n, max_channels) for n in range(num_stages)]
        num_convs = [convs_per_stage] * num_stages
        if light_finest:
            channels[0], num_convs[0] = max(1, channels[0] // 2), 1
        stage_strides = per_stage(strides, 2, spatial_dims, num_stages, name="model.strides")
        if any(step != 1 for step in stage_strides[0]):
            raise ConfigError("model.strides", "must begin with 1", "put the first stride last")
        kernels = per_stage(kernel_sizes, 3, spatial_dims, num_stages, name="model.kernel_sizes")
        if any(size % 2 == 0 for row in kernels for size in row):
            raise ConfigError(
                "model.kernel_sizes", f"is {kernels}", "use odd numbers, which keep the shape"
            )
        self.stride = product(stage_strides)
        self.min_size = self.stride
        self.channels = channels
        self.stage_strides = [product(stage_strides[: n + 1]) for n in range(num_stages)]
        self.num_outputs = max(1, min(deep_supervision, num_stages - 1))
        encoder, decoder, ups, heads = [], [], [], []
        width = in_channels
        for n in range(num_stages):
            steps = [stage_strides[n]] + [(1,) * spatial_dims] * (num_convs[n] - 1)
            layers: list[nn.Module] = []
            for step in steps:
                kind = ConvNormAct if block == "plain" or n == 0 else ResidualBlock
                layers.append(
                    kind(
                        spatial_dims,
                        width,
                        channels[n],
                        kernel_size=kernels[n],
                        stride=step,
                        norm=norm,
                        activation=activation,
                    )
                )
                width = channels[n]
            encoder.append(nn.Sequential(*layers))
        for n in reversed(range(num_stages - 1)):
            ups.append(up_conv(spatial_dims, width, channels[n], stride=stage_strides[n + 1]))
            layers = []
            width = 2 * channels[n]
            for _ in range(1 if block == "residual" else min(2, num_convs[n])):
                layers.append(
                    ConvNormAct(
                        spatial_dims,
                        width,
                        channels[n],
                        kernel_size=kernels[n],
                        norm=norm,
                        activation=activation,
                    )
                )
                width = channels[n]
            decoder.append(nn.Sequential(*layers))
            if n < self.num_outputs:
                heads.append(
                    conv(spatial_dims, width, out_channels, kernel_size=(1,) * spatial_dims)
                )
        self.encoder = nn.ModuleList(encoder)
        self.ups = nn.ModuleList(ups)
        self.decoder = nn.ModuleList(decoder)
        self.heads = nn.ModuleList(heads[::-1])  # finest first
        initialise(self, initialisation)

    def features(self, image: Tensor) -> list[Tensor]:
        """What the decoder has at each resolution, finest first: (N, channels[n], S / stride).

        Args:
            image: (N, in_channels, *S).
        """
        require_extents(image.shape[2:], min_size=self.min_size, multiple_of=self.stride)
        skips = []
        x = image
        for stage in self.encoder:
            x = stage(x)  # (N, channels[n], S / stride so far)
            skips.append(x)
        found = [x]
        for skip, up, stage in zip(skips[-2::-1], self.ups, self.decoder, strict=True):
            x = stage(concatenate(skip, up(x)))  # (N, channels[level], ...)
            found.append(x)
        return found[::-1]

    def logits(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Of `features`; a list, finest first, in training with deep supervision."""
        if self.training and self.num_outputs > 1:
            return [head(x) for head, x in zip(self.heads, features, strict=False)]
        finest: Tensor = self.heads[0](features[0])
        return finest

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        return self.logits(self.features(image))


class ResidualBlock(nn.Module):
    """Two convolutions with an identity or projected shortcut (He et al. 2016, CVPR)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.first = ConvNormAct(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            norm=norm,
            activation=activation,
        )
        self.second = nn.Sequential(
            conv(
                spatial_dims,
                out_channels,
                out_channels,
                kernel_size=kernel_size,
                bias=norm == "none",
            ),
            norm_layer(norm, spatial_dims, out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or any(step != 1 for step in stride):
            pool = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[spatial_dims]
            self.shortcut = nn.Sequential(
                pool(stride),  # type: ignore[arg-type]
                conv(
                    spatial_dims,
                    in_channels,
                    out_channels,
                    kernel_size=(1,) * spatial_dims,
                    bias=norm == "none",
                ),
                norm_layer(norm, spatial_dims, out_channels),
            )
        self.activation = activation_layer(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.second(self.first(x)) + self.shortcut(x))
