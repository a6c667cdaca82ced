"""Networks of MONAI whose depth their papers fix (UNETR, MedNeXt, V-Net) with medseg's arguments.

Images whose extents are no multiples of the stride get zeros after their last voxels; thin axes
are halved like all others, as MONAI has no strides per axis for these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from monai.networks import nets
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import Activation, Initialisation, Norm
from medseg.models.extents import require_extents
from medseg.models.monai_parts import checked_dims, configure, run_padded, single
from medseg.models.strides import scaled

STRIDE = 16
"""UNETR's tokens are 16 voxels wide; MedNeXt and V-Net halve every axis four times."""
HEAD_CHANNELS = 64
_VNET_FEATURES = 32

Size = Literal["S", "B", "M", "L"]
# Expansion ratios and blocks of the four stages and the bottleneck (Roy et al. 2023, table 4).
_RATIOS: dict[str, tuple[int, ...]] = {
    "S": (2, 2, 2, 2, 2),
    "B": (2, 3, 4, 4, 4),
    "M": (2, 3, 4, 4, 4),
    "L": (3, 4, 8, 8, 8),
}
_BLOCKS: dict[str, tuple[int, ...]] = {
    "S": (2, 2, 2, 2, 2),
    "B": (2, 2, 2, 2, 2),
    "M": (3, 4, 4, 4, 4),
    "L": (3, 4, 8, 8, 8),
}


class UNETR(nn.Module):
    """MONAI's vision transformer over the whole patch, with a convolutional decoder.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: 32 gives the paper's widths (features of 16 channels, tokens of 768); others
            scale them.
        patch_size: extents that the positions of tokens are learnt for; smaller images are computed
            as if they were as large. None takes 96 in 3D, as the paper, and 224 in 2D.
        norm, activation, initialisation: see `medseg.models.blocks`; None, "pytorch": MONAI's own.
        dropout: share of the transformer's features set to zero while training.

    Shapes:
        image (N, in_channels, *S), no extent larger than patch_size; logits (N, out_channels, *S).

    Source: Hatamizadeh et al. 2022, WACV; monai.networks.nets.UNETR.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        base_channels: int = 32,
        patch_size: Sequence[int] | None = None,
        norm: Norm = "instance",
        activation: Activation | None = None,
        initialisation: Initialisation = "pytorch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        default = (96 if checked_dims(spatial_dims) == 3 else 224,) * spatial_dims
        extents = default if patch_size is None else tuple(patch_size)
        if len(extents) != spatial_dims or min(extents) < 1:
            raise ConfigError(
                "model.patch_size",
                f"is {list(extents)}",
                f"give {spatial_dims} positive numbers",
            )
        self.full_size = tuple(math.ceil(n / STRIDE) * STRIDE for n in extents)
        self.stride = (STRIDE,) * spatial_dims
        self.min_size = (1,) * spatial_dims
        # Heads of 64 channels each, as the paper's 12 for 768; narrow networks have one.
        heads = max(1, scaled(768, base_channels) // HEAD_CHANNELS)
        self.network = nets.UNETR(
            in_channels,
            out_channels,
            img_size=self.full_size,
            feature_size=scaled(16, base_channels),
            hidden_size=max(1, scaled(768, base_channels) // heads) * heads,
            mlp_dim=scaled(3072, base_channels),
            num_heads=heads,
            norm_name=("instance", {"affine": True}),
            dropout_rate=dropout,
            spatial_dims=spatial_dims,
        )
        for block in self.network.vit.blocks:
            block.norm_cross_attn = nn.Identity()  # never used without cross attention
        configure(
            self.network,
            spatial_dims,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )

    def forward(self, image: Tensor) -> Tensor:
        require_extents(image.shape[2:], min_size=self.min_size, max_size=self.full_size)
        return single(run_padded(self.network, image, self.full_size))


class MedNeXt(nn.Module):
    """MONAI's U-Net of ConvNeXt blocks: wide depthwise convolutions between 1x1 convolutions.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: feature channels of the finest stage, 32 in the paper; each stage doubles
            them.
        size: "S", "B", "M" or "L", the paper's sizes.
        kernel_size: of the depthwise convolutions, 3 or 5 in the paper.
        norm, activation, initialisation: see `medseg.models.blocks`; None, "pytorch": MONAI's own.
        deep_supervision: number of resolutions with logits while training, up to 5; 1 gives the
            finest alone.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S). In training mode with
        deep_supervision > 1 a list of logits, finest first, the others at their own resolution if S
        is a multiple of 16.

    Source: Roy et al. 2023, MICCAI; monai.networks.nets.MedNeXt.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        base_channels: int = 32,
        size: Size = "S",
        kernel_size: int = 3,
        norm: Norm = "instance",
        activation: Activation | None = None,
        initialisation: Initialisation = "pytorch",
        deep_supervision: int = 3,
    ) -> None:
        super().__init__()
        if size not in _RATIOS:
            raise ConfigError("model.size", f"is '{size}'", "use S, B, M or L")
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ConfigError("model.kernel_size", f"is {kernel_size}", "use 3, 5 or 7")
        self.stride = (STRIDE,) * checked_dims(spatial_dims)
        self.min_size = (1,) * spatial_dims
        ratios, blocks = _RATIOS[size], _BLOCKS[size]
        self.num_outputs = max(1, min(deep_supervision, 5))
        self.network = nets.MedNeXt(
            spatial_dims=spatial_dims,
            init_filters=base_channels,
            in_channels=in_channels,
            out_channels=out_channels,
            encoder_expansion_ratio=ratios[:4],
            decoder_expansion_ratio=ratios[3::-1],
            bottleneck_expansion_ratio=ratios[4],
            kernel_size=kernel_size,
            deep_supervision=self.num_outputs > 1,
            use_residual_connection=True,
            blocks_down=blocks[:4],
            blocks_bottleneck=blocks[4],
            blocks_up=blocks[3::-1],
        )
        if self.num_outputs > 1:
            # MONAI has a head at each resolution, coarsest first; only the finest are wanted.
            heads = self.network.out_blocks
            self.network.out_blocks = nn.ModuleList(
                head if n >= len(heads) - (self.num_outputs - 1) else _Nothing()
                for n, head in enumerate(heads)
            )
        configure(
            self.network,
            spatial_dims,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        return run_padded(self._logits, image, self.stride)

    def _logits(self, image: Tensor) -> Tensor | list[Tensor]:
        logits: Tensor | Sequence[Tensor] = self.network(image)
        return logits if isinstance(logits, Tensor) else list(logits[: self.num_outputs])


class VNet(nn.Module):
    """MONAI's V-Net: residual stages of 5x5x5 convolutions, 16 to 256 channels wide.

    Deviation: a number of image channels that does not divide 16 is brought to 16 by a 1x1
    convolution, since the first stage adds the repeated image to its features.

    As in the paper and unlike MONAI's own, logits come from a 1x1 convolution of the last features,
    which normalising them before would keep small, and nothing is dropped by default.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        norm, activation, initialisation: see `medseg.models.blocks`; None, "pytorch": MONAI's own.
        dropout: share of the coarse features set to zero while training.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Milletari et al. 2016, 3DV; monai.networks.nets.VNet.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        norm: Norm = "instance",
        activation: Activation | None = None,
        initialisation: Initialisation = "pytorch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride = (STRIDE,) * checked_dims(spatial_dims)
        self.min_size = (1,) * spatial_dims
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.lift = nn.Identity() if 16 % in_channels == 0 else kind(in_channels, 16, 1)
        self.network = nets.VNet(
            spatial_dims,
            in_channels if 16 % in_channels == 0 else 16,
            out_channels,
            dropout_prob_down=dropout,
            dropout_prob_up=(dropout, dropout),
            dropout_dim=spatial_dims,
        )
        self.network.out_tr = kind(_VNET_FEATURES, out_channels, 1)
        configure(
            self.network,
            spatial_dims,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )

    def forward(self, image: Tensor) -> Tensor:
        return single(run_padded(self._logits, image, self.stride))

    def _logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(self.lift(image))
        return logits


class _Nothing(nn.Module):
    """Stands where MONAI computes logits that nobody asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return x
