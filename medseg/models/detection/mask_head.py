"""The mask branch of Mask R-CNN: where within and just around its box an object lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import Activation, ConvNormAct, Norm, activation_layer, conv, up_conv
from medseg.models.detection.boxes import clip, widened_by
from medseg.models.detection.levels import BoxLevels
from medseg.models.detection.masks import masks_in_boxes
from medseg.models.detection.objects import Objects
from medseg.models.detection.pyramid import Sizes
from medseg.models.detection.roi_align import roi_align

MARGIN = 0.1
"""Of a box's extent, looked at around it on every side: boxes are not exact (chosen)."""

MASKS_AT_ONCE = 128
"""Boxes whose masks are computed together in prediction, which bounds memory."""

CELLS_2D = (14, 14)
"""Cells of a box that are read (He et al. 2017)."""

CELLS_3D = (4, 10)
"""Least and most along an axis in 3D."""


class MaskHead(nn.Module):
    """Some 3x3 convolutions, an enlargement to twice the cells, and a mask per class.

    A mask lies on a grid of cells in the box widened by MARGIN (`mask_grid`). With class logits of
    voxels, which a U-Net has at the image's resolution, a mask follows them as far as is learnt;
    its loss does not teach them.

    Args:
        levels: of the pyramid, that boxes are read from.
        cells: read along each axis; a mask has twice as many.
        num_layers: convolutions before the enlargement.
        class_stride: of the class logits, per axis; None reads none.

    Shapes:
        levels of (N, channels, *L), for each image (n, 2 * dims) grids, and with `class_stride`
        class logits (N, out_channels, *L), to logits (sum of n, out_channels - 1, *2 cells).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        levels: BoxLevels,
        cells: tuple[int, ...],
        num_layers: int,
        class_stride: Sequence[int] | None,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        dims = len(cells)
        self.levels = levels
        self.cells = cells
        self.size = tuple(2 * n for n in cells)
        self.class_stride = class_stride
        self.layers = nn.Sequential(
            *(
                ConvNormAct(
                    dims,
                    channels,
                    channels,
                    kernel_size=(3,) * dims,
                    norm=norm,
                    activation=activation,
                )
                for _ in range(num_layers)
            ),
            up_conv(dims, channels, channels, stride=(2,) * dims),
            activation_layer(activation),
        )
        one = (1,) * dims
        self.logits = conv(dims, channels, out_channels - 1, kernel_size=one)
        self.from_classes: nn.Module | None = None
        if class_stride is not None:
            self.from_classes = conv(dims, out_channels, out_channels - 1, kernel_size=one)

    def forward(
        self,
        pyramid: Sequence[Tensor],
        grids: Sequence[Tensor],
        class_logits: Tensor | None,
    ) -> Tensor:
        logits = self.logits(self.layers(self.levels.pooled(pyramid, grids, self.cells)))
        if self.from_classes is not None:
            assert class_logits is not None
            assert self.class_stride is not None
            # A cell is about a voxel: one sample does, and eight of each cost more than the head.
            classes = roi_align(
                class_logits.detach(),
                grids,
                output_size=self.size,
                stride=self.class_stride,
                sampling_ratio=1,
            )
            # Centred, so that an untrained network's masks are neither all full nor all empty.
            logits = logits + self.from_classes(classes - classes.mean(1, keepdim=True))
        return logits.float()

    def loss(
        self,
        pyramid: Sequence[Tensor],
        class_logits: Tensor | None,
        *,
        rois: Sequence[Tensor],
        matches: Sequence[Tensor],
        objects: Sequence[Objects],
    ) -> Tensor:
        """Cross entropy of the masks of boxes with an object, in the channel of its class.

        Args:
            pyramid, class_logits: see `forward`.
            rois: boxes of each image.
            matches: the object of each, -1 for none.
            objects: of each image.
        """
        inside = [match >= 0 for match in matches]
        grids = [
            mask_grid(rows[keep], shape=reference.masks.shape[1:])
            for rows, keep, reference in zip(rois, inside, objects, strict=True)
        ]
        found = [
            (reference, match[keep])
            for reference, match, keep in zip(objects, matches, inside, strict=True)
        ]
        logits = self(pyramid, grids, class_logits)
        targets = torch.cat(
            [
                masks_in_boxes(reference.masks, index, grid, output_size=self.size)
                for (reference, index), grid in zip(found, grids, strict=True)
            ]
        )
        classes = torch.cat([reference.classes[index] for reference, index in found])
        chosen = _of_classes(logits, classes)
        loss = F.binary_cross_entropy_with_logits(
            chosen, (targets >= 0.5).to(chosen.dtype), reduction="sum"
        )
        return loss / max(1, chosen.numel())

    def probabilities(
        self,
        pyramid: Sequence[Tensor],
        class_logits: Tensor | None,
        *,
        grids: Sequence[Tensor],
        classes: Sequence[Tensor],
    ) -> list[Tensor]:
        """For each image (n, *2 cells), computed some boxes at a time.

        Args:
            pyramid, grids, class_logits: see `forward`.
            classes: of the boxes of each image, (n,).
        """
        found = []
        for n, (rows, own) in enumerate(zip(grids, classes, strict=True)):
            levels = [level[n : n + 1] for level in pyramid]
            known = None if class_logits is None else class_logits[n : n + 1]
            parts = [torch.zeros(0, *self.size, device=rows.device)]
            for start in range(0, len(rows), MASKS_AT_ONCE):
                some = slice(start, start + MASKS_AT_ONCE)
                logits = self(levels, [rows[some]], known)
                parts.append(_of_classes(logits, own[some]).sigmoid())
            found.append(torch.cat(parts))
        return found


def mask_grid(boxes: Tensor, *, shape: Sequence[int]) -> Tensor:
    """The box that the cells of each one's mask divide, within the image."""
    return clip(widened_by(boxes, MARGIN), shape)


def mask_cells(spatial_dims: int, object_sizes: Sizes | None) -> tuple[int, ...]:
    """Cells along each axis that the mask head reads; a mask has twice as many.

    In 3D as many mask cells as large objects (at three quarters of the sizes) have voxels: the mask
    head is half of a training step with the 10x10x10 cells that unknown sizes get.
    """
    if spatial_dims == 2:
        return CELLS_2D
    least, most = CELLS_3D
    if not object_sizes:
        return (most, most, most)
    large = np.quantile(np.array(object_sizes, dtype=float), 0.75, axis=0)
    return tuple(int(np.clip(round(extent / 2), least, most)) for extent in large)


def _of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """The mask of each box's class."""
    return logits[torch.arange(len(classes), device=classes.device), classes - 1]
