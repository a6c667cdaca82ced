"""U-Nets of MONAI with medseg's arguments, stride and deep supervision; nothing of them is written
anew here. Images whose extents are no multiples of the stride get zeros after their last voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from monai.networks import nets
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.blocks import Activation, Initialisation, Norm
from medseg.models.monai_parts import checked_dims, configure, run_padded, single
from medseg.models.strides import per_stage, product

SWIN_STRIDE = 32
"""The Swin transformer halves every axis once on entering and in each of its four stages."""


class DynUNet(nn.Module):
    """MONAI's U-Net after nnU-Net, its kernels and strides free per stage and axis.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: feature channels of the finest stage; each stage doubles them up to
            `max_channels`.
        strides: on entering each stage, per stage one number or one per axis, three stages or more,
            the first 1. None gives four stages that halve every axis.
        kernel_sizes: per stage, one number or one per axis. None takes 3 everywhere.
        block: "plain" or "residual" blocks.
        norm, activation, initialisation: see `medseg.models.blocks`; None, "pytorch": MONAI's own.
        dropout: share of features set to zero while training.
        deep_supervision: number of resolutions with logits while training; 1 gives the finest
            alone.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S). In training mode with
        deep_supervision > 1 a list of logits, all enlarged to S, finest first.

    Source: Isensee et al. 2021, Nat Methods 18:203; monai.networks.nets.DynUNet.
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
        block: Literal["plain", "residual"] = "plain",
        norm: Norm = "instance",
        activation: Activation | None = None,
        initialisation: Initialisation = "pytorch",
        dropout: float = 0.0,
        deep_supervision: int = 3,
    ) -> None:
        super().__init__()
        rows = _strides(strides, spatial_dims, fewest=3)
        kernels = per_stage(kernel_sizes, 3, spatial_dims, len(rows), name="model.kernel_sizes")
        num_outputs = max(1, min(deep_supervision, len(rows) - 1))
        self.stride = product(rows)
        self.min_size = (1,) * spatial_dims
        self.network = nets.DynUNet(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size=kernels,
            strides=rows,
            upsample_kernel_size=rows[1:],
            filters=[min(base_channels * 2**n, max_channels) for n in range(len(rows))],
            dropout=dropout or None,
            norm_name=("instance", {"affine": True}),
            deep_supervision=num_outputs > 1,
            deep_supr_num=max(1, num_outputs - 1),
            res_block=block == "residual",
        )
        configure(
            self.network,
            spatial_dims,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )
        self._has_many_outputs = num_outputs > 1

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        return run_padded(self._logits, image, self.stride)

    def _logits(self, image: Tensor) -> Tensor | list[Tensor]:
        logits: Tensor = self.network(image)  # (N, out, *S), or (N, outputs, out, *S) in training
        return list(torch.unbind(logits, 1)) if self.training and self._has_many_outputs else logits


class SegResNet(nn.Module):
    """MONAI's residual encoder with a light decoder and logits at several resolutions.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: feature channels of the finest stage, doubled in each.
        blocks_per_stage: residual blocks of each encoder stage; their number is the number of
            stages.
        spacing_mm: of the image, along at least `spatial_dims` axes: fine axes are halved before
            coarse ones. None halves all alike.
        norm, activation, initialisation: see `medseg.models.blocks`; None, "pytorch": MONAI's own.
        deep_supervision: number of resolutions with logits while training; 1 gives the finest
            alone.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S). In training mode with
        deep_supervision > 1 a list of logits, finest first, the others at their own resolution if S
        is a multiple of `stride`.

    Source: Myronenko 2018, BrainLes; monai.networks.nets.SegResNetDS.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        base_channels: int = 16,
        blocks_per_stage: Sequence[int] = (1, 2, 2, 4),
        spacing_mm: Sequence[float] | None = None,
        norm: Norm = "instance",
        activation: Activation | None = None,
        initialisation: Initialisation = "pytorch",
        deep_supervision: int = 3,
    ) -> None:
        super().__init__()
        num_stages = len(blocks_per_stage)
        if num_stages < 2 or min(blocks_per_stage) < 1:
            raise ConfigError(
                "model.blocks_per_stage",
                f"is {list(blocks_per_stage)}",
                "give two or more positive numbers",
            )
        self.network = nets.SegResNetDS(
            checked_dims(spatial_dims),
            init_filters=base_channels,
            in_channels=in_channels,
            out_channels=out_channels,
            norm=("instance", {"affine": True}),
            blocks_down=tuple(blocks_per_stage),
            dsdepth=max(1, min(deep_supervision, num_stages - 1)),
            resolution=None if spacing_mm is None else tuple(spacing_mm)[:spatial_dims],
        )
        configure(
            self.network,
            spatial_dims,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )
        self.stride = tuple(int(step) for step in self.network.shape_factor())
        self.min_size = (1,) * spatial_dims

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        return run_padded(self.network, image, self.stride)


class SwinUNETR(nn.Module):
    """MONAI's U-Net with a shifted-window transformer as encoder: for large data and large GPUs.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        feature_size: feature channels of the finest stage, a multiple of 12.
        window_size: extent of the attention windows, in tokens.
        norm, activation, initialisation: see `medseg.models.blocks`; None, "pytorch": MONAI's own.
        dropout: share of features set to zero while training.
        use_checkpoint: compute the encoder twice instead of keeping its features: less memory, more
            time.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Hatamizadeh et al. 2022, BrainLes; monai.networks.nets.SwinUNETR.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 3,
        feature_size: int = 24,
        window_size: int = 7,
        norm: Norm = "instance",
        activation: Activation | None = None,
        initialisation: Initialisation = "pytorch",
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if feature_size < 12 or feature_size % 12:
            raise ConfigError(
                "model.feature_size", f"is {feature_size}", "use a multiple of 12, such as 24 or 48"
            )
        self.stride = (SWIN_STRIDE,) * checked_dims(spatial_dims)
        self.min_size = (1,) * spatial_dims
        self.network = nets.SwinUNETR(
            in_channels,
            out_channels,
            feature_size=feature_size,
            window_size=window_size,
            drop_rate=dropout,
            use_checkpoint=use_checkpoint,
            spatial_dims=spatial_dims,
        )
        configure(
            self.network,
            spatial_dims,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )

    def forward(self, image: Tensor) -> Tensor:
        return single(run_padded(self.network, image, self.stride))


class AttentionUNet(nn.Module):
    """MONAI's U-Net whose skip connections are weighted by attention gates.

    Args:
        in_channels: image channels.
        out_channels: channels of the logits.
        spatial_dims: 2 or 3.
        base_channels: feature channels of the finest stage; each stage doubles them up to
            `max_channels`.
        strides: as in DynUNet, two stages or more.
        norm, activation, initialisation: see `medseg.models.blocks`; None, "pytorch": MONAI's own.
        dropout: share of features set to zero while training.

    Shapes:
        image (N, in_channels, *S), any S; logits (N, out_channels, *S).

    Source: Oktay et al. 2018, MIDL; monai.networks.nets.AttentionUnet.
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
        norm: Norm = "batch",
        activation: Activation | None = None,
        initialisation: Initialisation = "pytorch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        rows = _strides(strides, spatial_dims, fewest=2)
        self.stride = product(rows)
        self.min_size = (1,) * spatial_dims
        entering: Any = rows[1:]  # MONAI's first stage always has stride 1
        self.network = nets.AttentionUnet(
            spatial_dims,
            in_channels,
            out_channels,
            channels=[min(base_channels * 2**n, max_channels) for n in range(len(rows))],
            strides=entering,
            dropout=dropout,
        )
        configure(
            self.network,
            spatial_dims,
            norm=norm,
            activation=activation,
            initialisation=initialisation,
        )

    def forward(self, image: Tensor) -> Tensor:
        return single(run_padded(self.network, image, self.stride))


def _strides(
    strides: Sequence[int | Sequence[int]] | None, spatial_dims: int, *, fewest: int
) -> list[tuple[int, ...]]:
    given = (1, 2, 2, 2) if strides is None else strides
    if len(given) < fewest:
        raise ConfigError(
            "model.strides", f"names {len(given)} stages", f"give {fewest} or more stages"
        )
    rows = per_stage(given, 2, checked_dims(spatial_dims), len(given), name="model.strides")
    if any(step != 1 for step in rows[0]):
        raise ConfigError("model.strides", "must begin with 1", "put the first stride last")
    return rows
