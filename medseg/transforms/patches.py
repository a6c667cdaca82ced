"""Cutting a patch out of a preprocessed case, straight or through an affine map; outside is zero or
ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def choose_centre(
    shape: tuple[int, ...],
    patch_size: tuple[int, ...],
    locations: list[NDArray[np.integer]],
    *,
    foreground_fraction: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Index position of a patch's centre.

    With probability `foreground_fraction` a voxel of a class drawn evenly among those present,
    moved inwards so that the patch stays within the image where it can; otherwise any position at
    which the patch lies within.

    Args:
        shape: spatial shape of the case.
        patch_size: voxels per axis.
        locations: per foreground class, indices of some of its voxels, shape (n, dims); may be
            empty.
    """
    half = (np.array(patch_size) - 1) / 2
    low = half
    high = np.array(shape) - 1 - half
    middle = (np.array(shape) - 1) / 2
    inside_low, inside_high = np.where(high < low, middle, low), np.where(high < low, middle, high)
    present = [voxels for voxels in locations if len(voxels)]
    if present and rng.random() < foreground_fraction:
        voxels = present[rng.integers(len(present))]
        centre = voxels[rng.integers(len(voxels))].astype(np.float64)
        # Half-integer centres keep straight cuts on the voxel grid for even patch sizes.
        centre = np.floor(centre - half) + half
        return np.clip(centre, inside_low, inside_high)
    steps = np.maximum(0, np.floor(inside_high - inside_low)).astype(int)
    return inside_low + rng.integers(0, steps + 1)


def cut_straight(
    array: NDArray[Any], centre: NDArray[np.float64], patch_size: tuple[int, ...], *, outside: float
) -> NDArray[Any]:
    """The patch of voxels around `centre`, shape (C, *patch_size); voxels beyond the image hold
    `outside`.
    """
    shape = array.shape[1:]
    start = np.round(centre - (np.array(patch_size) - 1) / 2).astype(int)
    stop = start + np.array(patch_size)
    if (start >= 0).all() and (stop <= np.array(shape)).all():
        return array[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    patch = np.full((array.shape[0], *patch_size), outside, dtype=array.dtype)
    source, target = [slice(None)], [slice(None)]
    for a, b, extent in zip(start, stop, shape, strict=True):
        first, last = max(a, 0), min(b, extent)
        source.append(slice(first, max(first, last)))
        target.append(slice(first - a, max(first, last) - a))
    patch[tuple(target)] = array[tuple(source)]
    return patch


def cut_mapped(
    image: NDArray[Any],
    labels: NDArray[Any],
    coordinates: torch.Tensor,
    *,
    outside_label: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and labels sampled at arbitrary index positions, with one interpolation.

    Args:
        image: (C, *S) float32.
        labels: (*S) integers.
        coordinates: index positions, shape (*P, dims), order of the axes as in the arrays.
        outside_label: label of positions beyond the image.

    Returns:
        image (C, *P), linear, zero outside; labels (*P), nearest.
    """
    shape = np.array(image.shape[1:])
    dims = len(shape)
    flat = coordinates.reshape(-1, dims)
    low = np.clip(np.floor(flat.amin(0).numpy()).astype(int) - 1, 0, shape - 1)
    high = np.clip(np.ceil(flat.amax(0).numpy()).astype(int) + 2, low + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = torch.from_numpy(np.ascontiguousarray(image[(slice(None), *box)]))[None]
    part_labels = torch.from_numpy(np.ascontiguousarray(labels[box]).astype(np.int16))
    size = torch.from_numpy((high - low).astype(np.float32))
    local = coordinates - torch.from_numpy(low.astype(np.float32))
    # grid_sample counts x (last axis) first and puts -1 and 1 on the outer voxel edges.
    grid = ((2 * local + 1) / size - 1).flip(-1)[None].float()
    sampled = F.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[
        0
    ]
    nearest = local.round().long()
    inside = ((nearest >= 0) & (nearest < size.long())).all(-1)
    nearest = torch.minimum(nearest.clamp_(min=0), size.long() - 1)
    picked = part_labels[tuple(nearest[..., axis] for axis in range(dims))].long()
    return sampled, torch.where(inside, picked, torch.full_like(picked, outside_label))
