"""Cells of boxes, each read from the level of a pyramid that suits its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class BoxLevels:
    """The levels of a pyramid that boxes are read from.

    Args:
        indices: of these levels in the pyramid.
        strides: of these levels.
    """

    indices: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    def pooled(
        self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], output_size: Sequence[int]
    ) -> Tensor:
        """RoIAlign of each box on the level that suits its size, in the order of the boxes:
        (sum of n, C, *output_size).

        Args:
            pyramid: (N, C, *L) each.
            boxes: for each image (n, 2 * dims) in voxels of the image.
            output_size: cells along each axis.
        """
        together = torch.cat(list(boxes))
        owner = level_of(together, self.strides)
        places, cells = [], []
        counts = [len(rows) for rows in boxes]
        for n, (index, stride) in enumerate(zip(self.indices, self.strides, strict=True)):
            own = owner == n
            chosen = [rows[keep] for rows, keep in zip(boxes, own.split(counts), strict=True)]
            places.append(own.nonzero()[:, 0])
            cells.append(roi_align(pyramid[index], chosen, output_size=output_size, stride=stride))
        gathered = torch.cat(cells)
        return gathered[torch.argsort(torch.cat(places))]
