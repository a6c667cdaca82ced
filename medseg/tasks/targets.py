"""Targets of detectors from maps of codes: boxes, masks and classes of the objects in a patch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.core.object_codes import UNKNOWN, ObjectCodes
from medseg.models.detection.objects import Objects

MIN_VISIBLE = 0.2
"""An object that the patch's border cuts is learnt from if at least this share of its voxels is in
the patch (chosen, untested).
"""


def patch_targets(
    targets: Tensor, codes: Sequence[ObjectCodes], *, min_visible: float = MIN_VISIBLE
) -> tuple[list[Objects], Tensor]:
    """Objects and classes of a batch of patches.

    Args:
        targets: codes, (N, *P) long.
        codes: what they mean, for each patch.
        min_visible: see MIN_VISIBLE; those below it are left out, and their voxels unknown.

    Returns:
        The objects of each patch, and the class of each voxel (N, *P) long, negative where nothing
        is known.
    """
    found, classes = [], []
    for target, table in zip(targets, codes, strict=True):
        objects, semantic = objects_of(target, table, min_visible=min_visible)
        found.append(objects)
        classes.append(semantic)
    return found, torch.stack(classes)


def objects_of(
    target: Tensor, table: ObjectCodes, *, min_visible: float = 0.0
) -> tuple[Objects, Tensor]:
    """Objects and classes of one image or patch.

    Args:
        target: codes, (*P) long.
        table: what they mean.
        min_visible: see MIN_VISIBLE.
    """
    device = target.device
    class_of_code = torch.from_numpy(table.classes).to(device)
    semantic = class_of_code[target]
    masks, numbers = _masks(target, table)
    if not len(numbers):
        return Objects.from_masks(masks, numbers), semantic
    counts = masks.flatten(1).sum(1)
    whole = torch.from_numpy(table.num_voxels).to(device)[numbers]
    kept = ~_touches_border(masks) | (counts >= min_visible * whole)
    if not kept.all():
        left_out = masks[~kept].any(0) & ~masks[kept].any(0)
        semantic = torch.where(left_out, UNKNOWN, semantic)
        masks, numbers = masks[kept], numbers[kept]
    class_ids = torch.from_numpy(table.class_ids).to(device)[numbers]
    return Objects.from_masks(masks, class_ids), semantic


def _masks(target: Tensor, table: ObjectCodes) -> tuple[Tensor, Tensor]:
    """Masks (n, *P) of the objects that have a voxel in a patch, and which they are."""
    device = target.device
    flat = target.flatten()
    present = torch.zeros(len(table.classes), dtype=torch.bool, device=device)
    present[flat] = True
    members = torch.from_numpy(table.members).to(device)
    members = members[present[members[:, 0]]]
    numbers = torch.unique(members[:, 1])
    position = torch.full((len(table.class_ids),), -1, device=device)
    position[numbers] = torch.arange(len(numbers), device=device)
    masks = torch.zeros((len(numbers), flat.numel()), dtype=torch.bool, device=device)
    layers = torch.from_numpy(table.layers).to(device)
    for layer in torch.unique(layers[numbers]).tolist():
        row_of_code = torch.full((len(table.classes),), -1, device=device)
        own = members[layers[members[:, 1]] == layer]
        row_of_code[own[:, 0]] = position[own[:, 1]]
        rows = row_of_code[flat]
        places = torch.nonzero(rows >= 0)[:, 0]
        masks[rows[places], places] = True
    return masks.view(len(numbers), *target.shape), numbers


def _touches_border(masks: Tensor) -> Tensor:
    """Whether each mask (n, *P) has a voxel at the border; axes of one voxel do not count."""
    touches = torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
    for axis in range(1, masks.ndim):
        if masks.shape[axis] > 1:
            for edge in (0, masks.shape[axis] - 1):
                touches |= masks.select(axis, edge).flatten(1).any(1)
    return touches
