"""SegNet: an encoder and a decoder that puts features back where the maxima were found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import Activation, ConvNormAct, Initialisation, Norm, conv, initialise
from medseg.models.strides import Strides
from medseg.models.vgg import CONVS_PER_STAGE, VGG16


class SegNet(nn.Module):
    """VGG-16 and its mirror image; the decoder unpools by the places of the encoder's maxima.

    Deviations: in 3D the maximum is over 2x2x2 voxels. Poolings round odd extents up.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: 32 gives the paper's widths (64 to 512); others scale them.
        strides: of the poolings, see `medseg.models.strides.encoder_strides`.
        norm, activation, initialisation: see `medseg.models.blocks`; the paper has "batch".

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Badrinarayanan et al. 2017, TPAMI 39:2481.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        base_channels: int = 32,
        strides: Strides | None = None,
        norm: Norm = "instance",
        activation: Activation = "relu",
        initialisation: Initialisation = "he",
    ) -> None:
        super().__init__()
        encoder = VGG16(
            in_channels,
            spatial_dims=spatial_dims,
            base_channels=base_channels,
            strides=strides,
            norm=norm,
            activation=activation,
        )
        self.encoder = encoder.stages
        self.steps = encoder.steps
        self.stride = encoder.stride
        self.min_size = (1,) * spatial_dims
        kernel = (3,) * spatial_dims
        decoder = []
        width = encoder.channels[-1]
        for n in reversed(range(len(encoder.channels))):
            # The last convolution of a stage has the width of the next finer one; that of the
            # finest gives the logits.
            next_width = encoder.channels[n - 1] if n else out_channels
            layers: list[nn.Module] = []
            for m in range(CONVS_PER_STAGE[n]):
                is_last = m == CONVS_PER_STAGE[n] - 1
                if is_last and n == 0:
                    layers.append(conv(spatial_dims, width, out_channels, kernel_size=kernel))
                    continue
                channels = next_width if is_last else encoder.channels[n]
                layers.append(
                    ConvNormAct(
                        spatial_dims,
                        width,
                        channels,
                        kernel_size=kernel,
                        norm=norm,
                        activation=activation,
                    )
                )
                width = channels
            decoder.append(nn.Sequential(*layers))
        self.decoder = nn.ModuleList(decoder)
        initialise(self, initialisation, negative_slope=0.0)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        found = []
        for stage, step in zip(self.encoder, self.steps, strict=True):
            x = stage(x)
            shape = x.shape[2:]
            places = None
            if max(step) > 1:
                x, places = pool_with_places(x, step)  # both (N, C, shape / step)
            found.append((places, shape))
        for stage, (places, shape) in zip(self.decoder, reversed(found), strict=True):
            if places is not None:
                x = unpool(x, places, shape)
            x = stage(x)
        return x


def pool_with_places(x: Tensor, step: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Maximum over blocks of `step` voxels, and the number of the voxel it was found in."""
    pool = F.max_pool2d if x.ndim == 4 else F.max_pool3d
    pooled: tuple[Tensor, Tensor] = pool(x, step, step, ceil_mode=True, return_indices=True)
    return pooled


def unpool(x: Tensor, places: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of a spatial shape with the values of x in their places."""
    flat = torch.zeros((*x.shape[:2], math.prod(shape)), dtype=x.dtype, device=x.device)
    return flat.scatter(2, places.flatten(2), x.flatten(2)).view(*x.shape[:2], *shape)
