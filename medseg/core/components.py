"""Objects from class numbers: the connected parts of each class."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy import ndimage

from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, id_dtype


def components(label_map: LabelMap, class_ids: Collection[int]) -> InstanceSet:
    """The connected parts of some classes as objects, ordered by class.

    Voxels are connected through faces, edges and corners; those of different classes never are.

    Args:
        label_map: classes; voxels with the ignore value of its labels become ignored ones.
        class_ids: the classes whose parts are objects.
    """
    highest = max(class_ids, default=0)
    found = np.zeros(label_map.array.shape, np.int32)
    classes: list[int] = []
    structure = np.ones((3, 3, 3), np.bool_)
    boxes = ndimage.find_objects(np.maximum(label_map.array, 0), max_label=highest)
    for class_id, box in enumerate(boxes, start=1):
        if box is None or class_id not in class_ids:
            continue
        parts, count = ndimage.label(label_map.array[box] == class_id, structure=structure)
        np.copyto(found[box], parts + len(classes), where=parts > 0)
        classes += [class_id] * count
    return InstanceSet(
        found.astype(id_dtype(len(classes)))[None],
        label_map.geometry,
        np.array(classes, np.int32),
        np.ones(len(classes), np.float32),
        label_map.labels,
        ignored_voxels(label_map),
    )


def ignored_voxels(label_map: LabelMap) -> np.ndarray | None:
    """Voxels with the ignore value of the labels; None if there are none."""
    labels = label_map.labels
    if labels is None or labels.ignore_id is None:
        return None
    ignored: np.ndarray = label_map.array == labels.ignore_id
    return ignored if ignored.any() else None


def thing_ids(labels: LabelSet) -> tuple[int, ...]:
    """Classes whose objects are counted: those marked as things, or all where none is marked."""
    things = tuple(label.class_id for label in labels.foreground if label.is_thing)
    return things or tuple(label.class_id for label in labels.foreground)
