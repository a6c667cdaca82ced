"""RoIAlign in 2D and 3D: features of a box, sampled on a regular grid without rounding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.core.errors import ConfigError


def roi_align(
    features: Tensor,
    boxes: Sequence[Tensor],
    *,
    output_size: Sequence[int],
    stride: Sequence[float],
    sampling_ratio: int = 2,
) -> Tensor:
    """Mean of linearly interpolated features over each cell of a grid laid into each box.

    A box on voxel edges is cut into `output_size` cells, and features are interpolated at
    `sampling_ratio` points per axis in each. Voxel 0 of the features has its centre at half a
    stride ("aligned"). Points up to one voxel outside take the values at the border, those beyond
    are 0. The same as torchvision's operator with aligned=True.

    Args:
        features: (N, C, *S).
        boxes: for each image (n, 2 * dims) in voxels of the image.
        output_size: cells along each axis.
        stride: voxels of the image in one voxel of the features, along each axis.
        sampling_ratio: points along each axis of a cell, 1 or more.

    Returns:
        (sum of n, C, *output_size), differentiable in the features; fp32 from half precision, whose
        eight bits could not say where a point lies.

    Source: He et al. 2017, ICCV, section 3.
    """
    if sampling_ratio < 1:
        raise ConfigError("sampling_ratio", f"is {sampling_ratio}", "use 1 or more")
    if features.dtype in (torch.bfloat16, torch.float16):
        features = features.float()
    pieces = [
        _of_image(features[n : n + 1], rows, tuple(output_size), tuple(stride), sampling_ratio)
        for n, rows in enumerate(boxes)
    ]
    return torch.cat(pieces)


def _of_image(
    features: Tensor,
    boxes: Tensor,
    output_size: tuple[int, ...],
    stride: tuple[float, ...],
    sampling_ratio: int,
) -> Tensor:
    dims, count = len(output_size), boxes.shape[0]
    if count == 0:
        # Not a constant: the result stays a function of the features.
        empty = features.flatten(1)[:, :0].reshape(0, features.shape[1])
        return empty.reshape(0, features.shape[1], *(1,) * dims).expand(-1, -1, *output_size)
    axes, inside = [], []
    for axis in range(dims):
        extent = features.shape[2 + axis]
        points = _points(
            boxes[:, axis], boxes[:, dims + axis], output_size[axis], stride[axis], sampling_ratio
        )  # (n, P)
        inside.append((points >= -1) & (points <= extent))
        points = points.clamp(0, extent - 1)
        # grid_sample counts from -1 at the first voxel's outer edge to 1 at the last one's.
        axes.append((2 * points + 1) / extent - 1)
    lengths = [points.shape[1] for points in axes]
    grid = torch.stack(
        [_along(points, axis, lengths) for axis, points in reversed(list(enumerate(axes)))], -1
    )  # (n, *P, dims), the last axis first
    counted = _along(inside[0], 0, lengths)
    for axis in range(1, dims):
        counted = counted & _along(inside[axis], axis, lengths)
    flat = grid.reshape(1, count * lengths[0], *lengths[1:], dims)
    values = F.grid_sample(
        features, flat.to(features.dtype), mode="bilinear", padding_mode="border",
        align_corners=False,
    )  # fmt: skip
    values = values.reshape(features.shape[1], count, *lengths).transpose(0, 1)
    values = values * counted[:, None]
    if sampling_ratio > 1:
        split = [part for size in output_size for part in (size, sampling_ratio)]
        values = values.reshape(count, features.shape[1], *split)
        values = values.mean([3 + 2 * axis for axis in range(dims)])
    return values


def _points(
    lower: Tensor, upper: Tensor, num_cells: int, stride: float, sampling_ratio: int
) -> Tensor:
    """Where features are read along one axis, as indices of their voxel centres: (n, P)."""
    num_points = num_cells * sampling_ratio
    share = (torch.arange(num_points, device=lower.device, dtype=lower.dtype) + 0.5) / num_points
    start, extent = lower / stride - 0.5, (upper - lower) / stride
    return start[:, None] + extent[:, None] * share


def _along(points: Tensor, axis: int, lengths: Sequence[int]) -> Tensor:
    """(n, P) as (n, *lengths), constant along all other axes."""
    shape = [points.shape[0]] + [1] * len(lengths)
    shape[1 + axis] = lengths[axis]
    return points.reshape(shape).expand(-1, *lengths)
