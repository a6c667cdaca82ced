"""What a task's network says of an image in network space; validation compares it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.components import thing_ids
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.inference.bundle_networks import free_stride
from medseg.inference.object_merge import FoundObject
from medseg.inference.object_windows import ObjectWindows
from medseg.inference.sliding_window import SlidingWindow
from medseg.models.detection.class_logits import with_class_logits
from medseg.tasks.hits import SCORES
from medseg.tasks.semantic import SemanticTask
from medseg.tasks.task import Task


def predict_image(
    task: Task,
    model: nn.Module,
    image: Tensor,
    *,
    inference: SlidingWindow,
    patch_size: tuple[int, ...],
    objects: ObjectWindows | None = None,
) -> Tensor | InstanceSet | PanopticMap:
    """Class numbers (I, J, K), objects, or both, as the task has it; voxels count as 1 mm.

    Args:
        task: decides.
        model: in evaluation mode.
        image: (C, I, J, K), normalised, on the model's device.
        inference: windows for class numbers.
        patch_size: of the plan.
        objects: windows for objects; None takes the usual ones, and of instances those of the
            least score that `counts` of the task tell apart.
    """
    if isinstance(task, SemanticTask):
        network = with_class_logits(model)
        logits = inference.logits(
            network,
            image,
            patch_size=patch_size,
            out_channels=task.out_channels,
            stride=free_stride(network),
        )
        return task.decode(logits)
    things = thing_ids(task.labels)
    is_panoptic = task.reference_kind == "panoptic"
    if objects is None:
        objects = ObjectWindows() if is_panoptic else ObjectWindows(min_score=SCORES[0])
    with torch.no_grad():
        found, class_logits = objects.find(
            model,  # type: ignore[arg-type]
            image,
            patch_size=patch_size,
            class_ids=things,
            num_classes=len(task.labels) if is_panoptic else None,
        )
    shape = image.shape[1:]
    grid = Geometry.from_spacing((shape[0], shape[1], shape[2]), spacing_mm=(1.0, 1.0, 1.0))
    instances = instance_set(found, grid, labels=task.labels)
    if class_logits is None:
        return instances
    classes = class_logits.argmax(0).cpu().numpy()
    return panoptic_map(classes, instances, labels=task.labels)


def instance_set(
    objects: Sequence[FoundObject], geometry: Geometry, *, labels: LabelSet | None
) -> InstanceSet:
    """Found objects in three axes as results, numbered in their order."""
    masks = [
        (found.start, found.mask)
        if found.mask.ndim == 3
        else ((*found.start, 0), found.mask[..., None])
        for found in objects
    ]
    return InstanceSet.from_masks(
        masks,
        geometry,
        class_ids=np.array([found.class_id for found in objects], np.int32),
        scores=np.array([found.score for found in objects], np.float32),
        labels=labels,
    )


def panoptic_map(classes: np.ndarray, instances: InstanceSet, *, labels: LabelSet) -> PanopticMap:
    """Objects before stuff; voxels that are given to things, but to no object, are background.

    Args:
        classes: class of each voxel as a class map has it, (I, J, K).
        instances: the objects.
        labels: of both.

    Source: Kirillov et al. 2019, CVPR 9404, section 6.2.
    """
    dtype = np.uint8 if len(labels) <= 256 else np.uint16
    stuff = np.where(np.isin(classes, thing_ids(labels)), 0, classes).astype(dtype)
    numbers = instances.array
    table = np.concatenate([[0], instances.class_ids]).astype(dtype)
    merged = np.where(numbers > 0, table[numbers], stuff)
    label_map = LabelMap(merged, instances.geometry, labels)
    return PanopticMap(label_map, replace(instances, labels=labels))
