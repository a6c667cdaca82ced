"""A loss on the class of every voxel of a pyramid's level, beside those on boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.models.detection.objects import Objects


def dense_loss(logits: Tensor, objects: Sequence[Objects]) -> Tensor:
    """Cross entropy plus one minus the Dice of the classes that occur, over all images together.

    Args:
        logits: of the classes at the voxels of a level, (N, classes, *L).
        objects: of each image; a voxel of the level has the shares of the classes in its cell.
    """
    target = torch.stack(
        [class_shares(reference, logits.shape[1], logits.shape[2:]) for reference in objects]
    ).to(logits.dtype)
    probabilities = logits.softmax(1)
    entropy = F.cross_entropy(logits, target)
    axes = (0, *range(2, logits.ndim))
    shared = (probabilities * target).sum(axes)[1:]
    sizes = (probabilities + target).sum(axes)[1:]
    occurs = target.sum(axes)[1:] > 0
    if not occurs.any():
        return entropy
    return entropy + 1 - (2 * shared[occurs] / sizes[occurs]).mean()


def class_shares(objects: Objects, num_classes: int, shape: Sequence[int]) -> Tensor:
    """Share of each class in the cells of a coarser grid over the image, (classes, *shape); of
    objects that overlap, the last one counts.
    """
    classes = torch.zeros(objects.masks.shape[1:], dtype=torch.long, device=objects.masks.device)
    for mask, class_id in zip(objects.masks, objects.classes, strict=True):
        classes[mask] = class_id
    one_hot = F.one_hot(classes, num_classes).movedim(-1, 0).float()
    return F.interpolate(one_hot[None], tuple(shape), mode="area")[0]
