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
    knots: NDArray[np.floating] | None = None,
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
        knots: of the shift, in voxels of the patch, (dims, *coarse); see `Grid`.
        outside_label: label of positions beyond the image.

    Returns:
        image (C, *P), linear, zero outside; labels (*P) int64, nearest.
    """
    part, part_labels, grid = part_and_grid(
        image, labels, matrix=matrix, centre=centre, patch_size=patch_size, knots=knots
    )
    patch = torch.empty((image.shape[0], *patch_size))
    patch_labels = torch.empty(patch_size, dtype=torch.long)
    sample(part, part_labels, grid, patch, patch_labels, outside_label=outside_label)
    return patch, patch_labels


@dataclass(frozen=True, eq=False)
class Grid:
    """Where a patch's voxels lie in a part of a case, in voxels of the part.

    Args:
        origin: index position of the patch's first voxel, (dims,).
        matrix: columns are the steps along the patch's axes, (dims, dims).
        knots: displacement at a coarse grid of points, of which the outer ones lie on the patch's
            outer voxels, linear between them; (dims, *coarse), None if there is none.
    """

    origin: NDArray[np.float64]
    matrix: NDArray[np.float64]
    knots: NDArray[np.float64] | None = None

    def positions(
        self, shape: tuple[int, ...], patch_size: tuple[int, ...], *, device: torch.device
    ) -> Tensor:
        """Positions (*P, dims) in `grid_sample`'s coordinates for a part of that shape: -1 and 1
        are the outer voxel edges, and the last axis counts first.
        """
        scale = 2 / np.array(shape)

        def on_device(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values[..., ::-1].astype(np.float32)).to(device)

        grid = on_device((self.origin + 0.5) * scale - 1)
        for axis, count in enumerate(patch_size):
            row = np.arange(count)[:, None] * (self.matrix[:, axis] * scale)
            grid = grid[..., None, :] + on_device(row)  # (*P up to this axis, dims)
        if self.knots is None:
            return grid
        knots = on_device(np.moveaxis(self.knots, 0, -1) * scale).movedim(-1, 0)[None]
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        shift = F.interpolate(knots, patch_size, mode=mode, align_corners=True)[0]
        return grid + shift.movedim(0, -1)


def part_and_grid(
    image: NDArray[Any],
    labels: NDArray[Any],
    *,
    matrix: NDArray[np.floating],
    centre: NDArray[np.floating],
    patch_size: tuple[int, ...],
    knots: NDArray[np.floating] | None,
) -> tuple[Tensor, Tensor, Grid]:
    """The voxels of image and labels that `sample` needs for a patch, and where the patch lies in
    them; see `cut_mapped`.
    """
    dims = len(patch_size)
    shape = np.array(image.shape[1:])
    middle = (np.array(patch_size) - 1) / 2
    furthest = 0.0 if knots is None else np.abs(knots).reshape(dims, -1).max(axis=1)
    reach = np.abs(matrix) @ (middle + furthest)
    low = np.clip(np.floor(centre - reach).astype(int) - 1, 0, shape - 1)
    high = np.clip(np.ceil(centre + reach).astype(int) + 2, low + 1, shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    part = torch.from_numpy(np.ascontiguousarray(image[(slice(None), *box)]))
    part_labels = torch.from_numpy(np.ascontiguousarray(labels[box]))
    shift = None if knots is None else np.tensordot(matrix, knots.astype(np.float64), axes=1)
    grid = Grid(centre - low - matrix @ middle, np.array(matrix, np.float64), shift)
    return part, part_labels, grid


def sample(
    part: Tensor,
    labels: Tensor,
    grid: Grid,
    patch: Tensor,
    patch_labels: Tensor,
    *,
    outside_label: int,
) -> None:
    """Fills a patch (C, *P) and its labels (*P) from a part of a case; see `cut_mapped`.

    All lie on one device and are contiguous. PyTorch's `grid_sample` is fast on a GPU, but not
    vectorised in 3D on a CPU, where a compiled loop does the same.
    """
    if part.device.type != "cpu":
        sample_on_device(part, labels, grid, patch, patch_labels, outside_label=outside_label)
        return
    from medseg.transforms.sampling_kernel import fill_patch  # compiles on first use

    # One compiled function for all: an image of two axes is one of three, the first a single voxel,
    # and labels are int32.
    flat = 3 - len(grid.origin)
    matrix = np.eye(3)
    matrix[flat:, flat:] = grid.matrix
    knots = np.zeros((3, 0, 0, patch.shape[-1]))
    if grid.knots is not None:
        num_knots = grid.knots.shape[-1]
        place = np.linspace(0, num_knots - 1, patch.shape[-1])
        weights = np.maximum(0, 1 - np.abs(place - np.arange(num_knots)[:, None]))
        knots = np.zeros((3, *(1,) * flat, *grid.knots.shape[1:-1], patch.shape[-1]))
        knots[flat:] = (grid.knots @ weights).reshape(-1, *knots.shape[1:])
    fill_patch(
        part.view(-1, *(1,) * flat, *part.shape[1:]).numpy(),
        labels.int().view(*(1,) * flat, *labels.shape).numpy(),
        np.concatenate([np.zeros(flat), grid.origin]),
        matrix,
        knots,
        outside_label,
        patch.view(-1, *(1,) * flat, *patch.shape[1:]).numpy(),
        patch_labels.view(*(1,) * flat, *patch_labels.shape).numpy(),
    )


def sample_on_device(
    part: Tensor,
    labels: Tensor,
    grid: Grid,
    patch: Tensor,
    patch_labels: Tensor,
    *,
    outside_label: int,
) -> None:
    """`sample` for any device."""
    size = tuple(patch_labels.shape)
    positions = grid.positions(tuple(labels.shape), size, device=part.device)[None]
    patch.copy_(F.grid_sample(part[None], positions, mode="bilinear", align_corners=False)[0])
    # Zero is what lies outside, so labels are counted from the outside label.
    counted = (labels.float() - outside_label)[None, None]
    nearest = F.grid_sample(counted, positions, mode="nearest", align_corners=False)[0, 0]
    patch_labels.copy_(nearest + outside_label)
