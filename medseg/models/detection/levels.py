"""Cells of boxes, each read from the level of a pyramid that suits its size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.models.detection.anchors import IDEAL_CELLS
from medseg.models.detection.roi_align import roi_align


def level_of(boxes: Tensor, strides: Sequence[Sequence[int]]) -> Tensor:
    """Index of the level on which each box spans nearest to IDEAL_CELLS voxels: (n,) long.

    The same rule by which anchors are planned, where Lin et al. 2017 have the levels begin at a
    size of their data set.
    """
    dims = boxes.shape[1] // 2
    extents = (boxes[:, dims:] - boxes[:, :dims]).clamp_min(1e-3)
    steps = torch.tensor(strides, device=boxes.device, dtype=boxes.dtype)  # (levels, dims)
    cells = (extents[:, None] / steps).log().mean(2) - torch.log(
        torch.tensor(IDEAL_CELLS, device=boxes.device)
    )
    return cells.abs().argmin(1)


def pooled_from_levels(
    levels: Sequence[Tensor],
    boxes: Sequence[Tensor],
    *,
    output_size: Sequence[int],
    strides: Sequence[Sequence[int]],
) -> Tensor:
    """RoIAlign of each box on its level: (sum of n, C, *output_size), in the order of the boxes.

    Args:
        levels: (N, C, *L) each.
        boxes: for each image (n, 2 * dims) in voxels of the image.
        output_size: cells along each axis.
        strides: of the levels.
    """
    together = torch.cat(list(boxes))
    owner = level_of(together, strides)
    places, cells = [], []
    counts = [len(rows) for rows in boxes]
    for n, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        own = owner == n
        chosen = [rows[keep] for rows, keep in zip(boxes, own.split(counts), strict=True)]
        places.append(own.nonzero()[:, 0])
        cells.append(roi_align(level, chosen, output_size=output_size, stride=stride))
    gathered = torch.cat(cells)
    return gathered[torch.argsort(torch.cat(places))]
