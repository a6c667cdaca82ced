"""A loss on the class of every voxel of a pyramid's level, beside those on boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.models.detection.objects import Objects


def dense_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy plus one minus the Dice of the foreground classes that occur, over all images
    together.

    Args:
        logits: of the classes at the voxels of a level, (N, classes, *L).
        classes: of the voxels of the images, (N, *S) long, negative where nothing is known. A voxel
            of the level has the shares of the classes in its cell.
    """
    target = class_shares(classes, logits.shape[1], logits.shape[2:]).to(logits.dtype)
    probabilities = logits.softmax(1)
    known = target.sum(1, keepdim=True)
    entropy = F.cross_entropy(logits, target, reduction="sum") / known.sum().clamp_min(1)
    axes = (0, *range(2, logits.ndim))
    shared = (probabilities * target).sum(axes)[1:]
    sizes = (probabilities * known + target).sum(axes)[1:]
    occurs = target.sum(axes)[1:] > 0
    if not occurs.any():
        return entropy
    return entropy + 1 - (2 * shared[occurs] / sizes[occurs]).mean()


def class_shares(classes: Tensor, num_classes: int, shape: Sequence[int]) -> Tensor:
    """Share of each class in the cells of a coarser grid over the images: (N, num_classes, *shape),
    which do not add up to one where something is not known.
    """
    one_hot = F.one_hot(classes.clamp_min(0), num_classes).movedim(-1, 1).float()
    return F.interpolate(one_hot * (classes >= 0)[:, None], tuple(shape), mode="area")


def classes_of(objects: Sequence[Objects]) -> Tensor:
    """The class of each voxel of the images, (N, *S) long; of objects that overlap, the last one
    counts.
    """
    maps = []
    for reference in objects:
        classes = torch.zeros(
            reference.masks.shape[1:], dtype=torch.long, device=reference.masks.device
        )
        for mask, class_id in zip(reference.masks, reference.classes, strict=True):
            classes[mask] = class_id
        maps.append(classes)
    return torch.stack(maps)
