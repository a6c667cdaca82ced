"""One class and one object per voxel, from detections that may overlap and a class map."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from medseg.models.detection.objects import Detections


def merge_panoptic(
    detections: Detections,
    class_map: Tensor,
    *,
    thing_classes: Collection[int],
    max_overlap: float = 0.5,
    min_stuff_voxels: int = 0,
) -> tuple[Tensor, Tensor]:
    """Class and object of every voxel, things before stuff.

    From the best to the worst, an object takes those of its voxels that no better one has; it is
    left out where better ones have more than `max_overlap` of it. Voxels without an object take
    their stuff class, unless it has fewer than `min_stuff_voxels` in all. Voxels that the class map
    gives to things, but no object, are background.

    Args:
        detections: of one image, best first; those of other classes than things are left out.
        class_map: (*S) long.
        thing_classes: classes of objects.
        max_overlap: share of an object's own voxels.
        min_stuff_voxels: 4096 in the paper's images of 800x1333.

    Returns:
        Classes (*S) long, and objects (*S) long: 0 for none, else 1 + the index in `detections`.

    Source: Kirillov et al. 2019, CVPR 9404, section 6.2; Kirillov et al. 2019, CVPR 6399.
    """
    objects = torch.zeros_like(class_map)
    classes = torch.zeros_like(class_map)
    for n in range(len(detections)):
        class_id = int(detections.classes[n])
        if class_id not in thing_classes:
            continue
        region = detections.region(n)
        mask = detections.masks[n]
        free = mask & (objects[region] == 0)
        if int(free.sum()) < (1 - max_overlap) * int(mask.sum()) or not free.any():
            continue
        objects[region] = torch.where(free, n + 1, objects[region])
        classes[region] = torch.where(free, class_id, classes[region])
    for class_id in torch.unique(class_map).tolist():
        if class_id == 0 or class_id in thing_classes:
            continue
        stuff = (class_map == class_id) & (objects == 0)
        if int(stuff.sum()) >= min_stuff_voxels:
            classes[stuff] = class_id
    return classes, objects
