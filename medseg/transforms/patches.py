"""Cutting a patch out of a preprocessed case, straight or through an affine map; outside is zero or
ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medseg.transforms.boxes import Box


def choose_centre(
    shape: tuple[int, ...],
    patch_size: tuple[int, ...],
    locations: list[NDArray[np.integer]],
    *,
    rng: np.random.Generator,
    within: Box | None = None,
) -> NDArray[np.float64]:
    """Index position of a patch's centre.

    A voxel of a class drawn evenly among those present, moved inwards so that the patch stays
    within the image where it can; where no class is present, any position at which the patch lies
    within.

    Args:
        shape: spatial shape of the case.
        patch_size: voxels per axis.
        locations: per foreground class, indices of some of its voxels, shape (n, dims); may be
            empty, and so may the list.
        within: where patches lie that are not drawn for a class; None means anywhere.
    """
    half = (np.array(patch_size) - 1) / 2
    low = half
    high = np.array(shape) - 1 - half
    middle = (np.array(shape) - 1) / 2
    inside_low, inside_high = np.where(high < low, middle, low), np.where(high < low, middle, high)
    present = [voxels for voxels in locations if len(voxels)]
    if present:
        voxels = present[rng.integers(len(present))]
        centre = voxels[rng.integers(len(voxels))].astype(np.float64)
        # Half-integer centres keep straight cuts on the voxel grid for even patch sizes.
        centre = np.floor(centre - half) + half
        return np.clip(centre, inside_low, inside_high)
    if within is not None:
        low = np.array([axis.start for axis in within]) + half
        high = np.array([axis.stop for axis in within]) - 1 - half
        narrow = high < low
        inside_low = np.where(narrow, inside_low, low)
        inside_high = np.where(narrow, inside_high, high)
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
    *,
    matrix: NDArray[np.floating],
    centre: NDArray[np.floating],
    patch_size: tuple[int, ...],
    shift: Tensor | None = None,
    outside_label: int,
) -> tuple[Tensor, Tensor]:
    """Image and labels sampled through an affine map and a displacement, with one interpolation.

    The voxel at offset o from the patch's middle comes from index position
    centre + matrix (o + shift).

    Args:
        image: (C, *S) float32.
        labels: (*S) integers.
        matrix: (dims, dims), order of the axes as in the arrays.
        centre: index position of the patch's middle, (dims,).
        patch_size: voxels per axis, P.
        shift: displacement in voxels of the patch, shape (*P, dims).
        outside_label: label of positions beyond the image.

    Returns:
        image (C, *P), linear, zero outside; labels (*P) int64, nearest.
    """
    part, grid = part_and_grid(
        image,
        labels,
        matrix=matrix,
        centre=centre,
        patch_size=patch_size,
        furthest=0.0 if shift is None else shift.abs().amax(tuple(range(shift.ndim - 1))).numpy(),
    )
    return sample(*part, grid, shift=shift, outside_label=outside_label)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where a patch's voxels lie in a part of a case, in grid_sample's coordinates.

    Args:
        rows: per axis of the patch, what its position adds, (voxels, dims).
        turn: what a displacement in voxels of the patch adds, (dims, dims).
    """

    rows: tuple[NDArray[np.float32], ...]
    turn: NDArray[np.float32]

    def positions(self, shift: Tensor | None, *, device: torch.device) -> Tensor:
        """Positions (*P, dims), the last axis counted first."""
        grid = torch.zeros(1, device=device)
        for row in self.rows:
            grid = grid[..., None, :] + torch.from_numpy(row).to(device)
            # (*P up to this axis, dims)
        return grid if shift is None else grid + shift @ torch.from_numpy(self.turn).to(device)


def part_and_grid(
    image: NDArray[Any],
    labels: NDArray[Any],
    *,
    matrix: NDArray[np.floating],
    centre: NDArray[np.floating],
    patch_size: tuple[int, ...],
    furthest: float | NDArray[np.floating],
) -> tuple[tuple[Tensor, Tensor], Grid]:
    """The voxels of image and labels that `sample` needs for a patch, and where the patch lies in
    them; see `cut_mapped`.

    Args:
        furthest: of the displacement, along each axis.
    """
    shape = np.array(image.shape[1:])
    extent = np.array(patch_size)
    reach = np.abs(matrix) @ ((extent - 1) / 2 + furthest)
    low = np.clip(np.floor(centre - reach).astype(int) - 1, 0, shape - 1)
    high = np.clip(np.ceil(centre + reach).astype(int) + 2, low + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = torch.from_numpy(np.ascontiguousarray(image[(slice(None), *box)]))
    part_labels = torch.from_numpy(np.ascontiguousarray(labels[box]))
    # grid_sample puts -1 and 1 on the outer voxel edges, and counts x (the last axis) first.
    size = high - low
    scale = (matrix * (2 / size)[:, None])[::-1]
    offset = ((2 * (centre - low) + 1) / size - 1)[::-1]
    rows = []
    for axis, count in enumerate(patch_size):
        steps = (np.arange(count) - (count - 1) / 2)[:, None] * scale[:, axis]
        rows.append((steps + offset * (axis == 0)).astype(np.float32))
    turn = np.ascontiguousarray(scale.T, dtype=np.float32)
    return (part, part_labels), Grid(tuple(rows), turn)


def sample(
    part: Tensor, labels: Tensor, grid: Grid, *, shift: Tensor | None, outside_label: int
) -> tuple[Tensor, Tensor]:
    """Image and labels of a patch from a part of a case, on the part's device; see `cut_mapped`."""
    positions = grid.positions(shift, device=part.device)[None]
    sampled = F.grid_sample(part[None], positions, mode="bilinear", align_corners=False)[0]
    # Zero is what lies outside, so labels are counted from the outside label.
    counted = labels.float() - outside_label
    nearest = F.grid_sample(counted[None, None], positions, mode="nearest", align_corners=False)
    return sampled, (nearest[0, 0] + outside_label).long()


def smooth_shift(knots: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """Shifts between the knots, (1, dims, *coarse) to (*patch_size, dims)."""
    mode = "bilinear" if len(patch_size) == 2 else "trilinear"
    field = F.interpolate(knots, patch_size, mode=mode, align_corners=True)[0]
    return field.movedim(0, -1)
