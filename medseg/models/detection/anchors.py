"""Anchors: boxes of a few sizes around every voxel of a pyramid's levels, planned from the sizes of
the objects that are to be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.models.detection.object_sizes import representative_sizes

NUM_ANCHORS = 3
"""Sizes per voxel, as the papers have."""

IDEAL_CELLS = 6.0
"""Voxels of a level across its objects: objects go to the level nearest to it. The papers have 8
anchor voxels per stride at the middle of their sizes; smaller ones find neighbours apart.
"""


@dataclass(frozen=True)
class AnchorPlan:
    """Which levels of a pyramid carry anchors, and their sizes.

    Args:
        levels: indices of the pyramid's levels, ascending.
        sizes: for each of these levels, extents of its anchors in voxels of the image, (A, dims);
            A is the same for all.
    """

    levels: tuple[int, ...]
    sizes: tuple[tuple[tuple[float, ...], ...], ...]

    @property
    def num_anchors(self) -> int:
        """Anchors per voxel of a level."""
        return len(self.sizes[0])


def plan_anchors(
    object_sizes: Sequence[Sequence[float]] | None,
    level_strides: Sequence[Sequence[int]],
    *,
    num_anchors: int = NUM_ANCHORS,
) -> AnchorPlan:
    """Levels and sizes of anchors for objects of given sizes.

    Each size goes to the level on which it spans nearest to IDEAL_CELLS voxels. Measured in voxels
    of their levels, the sizes are then gathered into `num_anchors` anchors (in ratio, as
    `representative_sizes` does), which every level with objects has, and every level between.

    Args:
        object_sizes: extents in voxels of the image; None or no rows: unknown, anchors of 8 voxels
            on every level, in 2D of the side ratios 1:2, 1:1 and 2:1, in 3D of three sizes, as in
            the papers.
        level_strides: of the pyramid, finest first.
        num_anchors: per voxel of a level.
    """
    strides = np.array(level_strides, dtype=float)
    dims = strides.shape[1]
    if not object_sizes:
        levels = tuple(range(len(strides)))
        relative = _default_sizes(dims, num_anchors)
    else:
        sizes = np.array(object_sizes, dtype=float)
        cells = np.exp(np.log(sizes[:, None] / strides).mean(2))  # (sizes, levels)
        owner = np.abs(np.log(cells / IDEAL_CELLS)).argmin(1)
        levels = tuple(range(int(owner.min()), int(owner.max()) + 1))
        relative = np.array(
            representative_sizes(100 * sizes / strides[owner], num_sizes=num_anchors)
        )
        relative = _filled(relative / 100, num_anchors)
    table = tuple(
        tuple(tuple(float(value) for value in row) for row in relative * strides[n]) for n in levels
    )
    return AnchorPlan(levels, table)


def grid_anchors(
    shape: Sequence[int],
    *,
    stride: Sequence[int],
    sizes: Sequence[Sequence[float]],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Boxes around the voxels of a level, in voxels of the image: (voxels * A, 2 * dims).

    All anchors of the first voxel come first.

    Args:
        shape: extents of the level.
        stride, sizes: of the level.
    """
    axes = [
        (torch.arange(extent, device=device, dtype=torch.float32) + 0.5) * step
        for extent, step in zip(shape, stride, strict=True)
    ]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, len(axes))
    half = torch.tensor(sizes, device=device, dtype=torch.float32) / 2  # (A, dims)
    return torch.cat((centres - half, centres + half), -1).reshape(-1, 2 * len(axes))


def _default_sizes(dims: int, num_anchors: int) -> np.ndarray:
    steps = np.linspace(-0.5, 0.5, num_anchors) if num_anchors > 1 else np.zeros(1)
    if dims == 2:
        return 8 * np.stack([2**steps, 2**-steps], 1)
    return 8 * np.repeat(2 ** (2 * steps / 3)[:, None], dims, 1)


def _filled(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows, the last ones a little smaller and larger copies where sizes are too few."""
    filled = list(rows)
    n = 0
    while len(filled) < count:
        factor = math.pow(1.25, (n // (2 * len(rows)) + 1) * (1 if n % 2 else -1))
        filled.append(rows[(n // 2) % len(rows)] * factor)
        n += 1
    return np.array(filled)
