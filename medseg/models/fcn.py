"""Fully convolutional networks: FCN-32s, -16s and -8s on VGG-16, and the one on a ResNet."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import (
    Activation,
    Initialisation,
    Norm,
    conv,
    crop,
    initialise,
    resize,
)
from medseg.models.heads import ConvHead, auxiliary_head, vgg_classifier
from medseg.models.resnet import Depth, ResNet
from medseg.models.strides import Strides, product, scaled
from medseg.models.vgg import VGG16

OUTPUTS = {32: 1, 16: 2, 8: 3}


class FCN(nn.Module):
    """VGG-16 with its classifier as convolutions, and logits of up to three stages added.

    Deviations: convolutions are padded to keep the shape, where the paper pads the image by 100
    voxels and crops. In 3D the first convolution of the classifier is 3x3x3 instead of 7x7x7 and
    both have 1024 channels instead of 4096 (7x7x7 would be 720 million parameters and wider than
    a patch's coarsest features). Normalisation is an option, since without weights from ImageNet
    the network hardly learns without it. All stages train at once. With `strides` of a plan the
    coarsest features are finer than 1/32, by which the names go.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        finest: 32 (the last stage alone), 16 (with the fourth) or 8 (with the third as well).
        base_channels: 32 gives the paper's widths; others scale them.
        strides: of the poolings, see `medseg.models.strides.encoder_strides`.
        fc_channels, fc_kernel_size: of the classifier's convolutions at the paper's width; None
            takes 4096 and 7 in 2D, 1024 and 3 in 3D.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has norm "none".
        dropout: share of the classifier's features set to zero while training.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Long et al. 2015, CVPR; Shelhamer et al. 2017, TPAMI 39:640.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        finest: Literal[8, 16, 32] = 8,
        base_channels: int = 32,
        strides: Strides | None = None,
        fc_channels: int | None = None,
        fc_kernel_size: int | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if finest not in OUTPUTS:
            raise ConfigError("model.finest", f"is {finest}", "use 32, 16 or 8")
        self.encoder = VGG16(
            in_channels,
            spatial_dims=spatial_dims,
            base_channels=base_channels,
            strides=strides,
            norm=norm,
            activation=activation,
        )
        width = scaled(fc_channels or (4096 if spatial_dims == 2 else 1024), base_channels)
        size = fc_kernel_size or (7 if spatial_dims == 2 else 3)
        self.classifier = vgg_classifier(
            spatial_dims,
            self.encoder.channels[-1],
            out_channels,
            width=width,
            kernel_size=size,
            norm=norm,
            activation=activation,
            dropout=dropout,
        )
        num_skips = OUTPUTS[finest] - 1
        stages = [3, 2][:num_skips]  # the fourth stage, then the third
        self.skips = nn.ModuleList(
            conv(
                spatial_dims,
                self.encoder.channels[n],
                out_channels,
                kernel_size=(1,) * spatial_dims,
            )
            for n in stages
        )
        steps = self.encoder.steps
        ups = [LinearUp(out_channels, steps[n + 1]) for n in stages]
        self.ups = nn.ModuleList(ups)
        self.last_step = product(steps[: 5 - num_skips])
        self.stride = self.encoder.stride
        self.min_size = (1,) * spatial_dims
        initialise(self, initialisation, negative_slope=0.0)
        for up in ups:
            up.reset_parameters()

    def forward(self, image: Tensor) -> Tensor:
        features = self.encoder(image)
        x = self.classifier(features[-1])  # (N, out_channels, S / stride)
        for n, (skip, up) in enumerate(zip(self.skips, self.ups, strict=True)):
            finer = skip(features[3 - n])
            x = finer + crop(up(x), finer.shape[2:])
        enlarged = [n * step for n, step in zip(x.shape[2:], self.last_step, strict=True)]
        return crop(resize(x, enlarged), image.shape[2:])


class LinearUp(nn.Module):
    """Transposed convolution that doubles the axes of `step` 2 and begins as linear interpolation.

    Class by class at first; training may mix them (Shelhamer et al. 2017, section 4.3).
    """

    def __init__(self, channels: int, step: tuple[int, ...]) -> None:
        super().__init__()
        kind = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[len(step)]
        self.conv = kind(
            channels,
            channels,
            kernel_size=tuple(4 if n == 2 else 1 for n in step),  # type: ignore[arg-type]
            stride=step,  # type: ignore[arg-type]
            padding=tuple(1 if n == 2 else 0 for n in step),  # type: ignore[arg-type]
            bias=False,
        )
        self.step = step
        self.reset_parameters()

    def reset_parameters(self) -> None:
        kernel = torch.ones(())
        for n in self.step:
            profile = torch.tensor([0.25, 0.75, 0.75, 0.25] if n == 2 else [1.0])
            kernel = kernel[..., None] * profile
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(self.conv.weight.shape[0]):
                self.conv.weight[channel, channel] = kernel

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FCNResNet(nn.Module):
    """A dilated ResNet with a plain head, and an auxiliary head while training.

    torchvision's fcn_resnet50 and fcn_resnet101, whose weights it takes with norm "batch"
    (`medseg.models.weight_files`).

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        depth: of the ResNet, 18, 34, 50 or 101.
        base_channels: 32 gives the ResNet's own widths; others scale them.
        strides: see `medseg.models.resnet.ResNet`.
        output_stride: of the encoder; 8 as in torchvision.
        norm, activation, initialisation: see `medseg.models.blocks`; torchvision has "batch".
        dropout: share of the heads' features set to zero while training.
        deep_supervision: 2 adds logits of the third stage while training; 1 does not.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S). In training mode with
        deep_supervision 2 a list of two of them.

    Source: Long et al. 2015, CVPR; torchvision.models.segmentation.fcn_resnet50.
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
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
        dropout: float = 0.1,
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
            norm=norm,
            activation=activation,
        )
        self.head = ConvHead(
            spatial_dims,
            self.encoder.channels[3],
            out_channels,
            norm=norm,
            activation=activation,
            dropout=dropout,
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
        logits = resize(self.head(features[3]), image.shape[2:])
        if self.training and self.auxiliary is not None:
            return [logits, resize(self.auxiliary(features[2]), image.shape[2:])]
        return logits
