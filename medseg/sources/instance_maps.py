"""References with one number per object: an image file of numbers, and perhaps a list beside it.

Which number an object has means nothing; gaps are fine. Classes come from `<case>.json` as predict
writes it, else from a label map of the same image, else every object is of class 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import Label, LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap, id_dtype
from medseg.sources.image_files import file_key, image_format, read_geometry, read_image
from medseg.sources.instance_json import InstanceList, read_instance_list
from medseg.sources.label_maps import read_label_map, refuse_other_grid, whole_numbers
from medseg.sources.read_rules import ReadRules

MAX_OBJECTS = 2**24 - 2**16
"""Objects of one image: numbers stay exact in float32, which patches are sampled in."""

OBJECT_LABELS = LabelSet((Label("background", 0), Label("object", 1, is_thing=True)))
"""Classes of objects of which nothing else is known."""


def read_instance_map(
    path: Path,
    *,
    geometry: Geometry | None = None,
    classes: Path | None = None,
    rules: ReadRules | None = None,
) -> InstanceSet | PanopticMap:
    """The objects in an image file, renumbered 1, 2, ... in the order of their numbers.

    Args:
        path: whole numbers, one per object; 0 is none.
        geometry: grid of the image that it must agree with; the result carries it.
        classes: label map of the same image; with it the result is panoptic.
        rules: what to accept of the files.

    Raises:
        LabelError: numbers are negative or no whole ones, there are too many objects, or list and
            map disagree.
        GeometryError: E_GRID_MISMATCH.
        InputError: a file cannot be read rightly.
    """
    array, found = _numbers(path, rules)
    if geometry is not None:
        refuse_other_grid(found, geometry, path=path)
    listed = read_instance_list(path.with_name(f"{file_key(path)}.json"))
    instances = InstanceSet.from_map(array, geometry or found)
    if len(instances) > MAX_OBJECTS:
        raise _refused(path, f"holds {len(instances)} objects, at most {MAX_OBJECTS} are taken")
    if listed is not None:
        instances = _with_list(instances, array, listed, path)
    if classes is None:
        return instances
    label_map = read_label_map(classes, None, geometry=geometry or found, rules=rules)
    if listed is None:
        class_ids = majority_classes(instances, label_map, path=path)
        instances = replace(instances, class_ids=class_ids)
    return PanopticMap(label_map, instances)


def read_object_masks(
    paths: Sequence[Path], *, image: Path, rules: ReadRules | None = None
) -> InstanceSet:
    """Objects with a file each; they may overlap. Files without a voxel are left out.

    Args:
        paths: one mask per object; what is not 0 belongs to it.
        image: gives the grid.
        rules: what to accept of the files.

    Raises:
        GeometryError: a mask does not lie on the grid.
        LabelError: a mask has several channels that differ.
    """
    geometry = read_geometry(image, rules=rules)
    masks: list[tuple[Sequence[int], NDArray[np.bool_]]] = []
    for path in paths:
        volume = read_image(path, rules=rules, as_labels=True)
        refuse_other_grid(volume.geometry, geometry, path=path)
        first = volume.array[0] != 0
        if any(not np.array_equal(channel != 0, first) for channel in volume.array[1:]):
            raise _refused(path, "has several channels that differ, a mask has one")
        if first.any():
            masks.append(_cropped(first))
    return InstanceSet.from_masks(masks, geometry, class_ids=np.ones(len(masks), int))


def majority_classes(
    instances: InstanceSet, label_map: LabelMap, *, path: Path
) -> NDArray[np.int32]:
    """The class that most voxels of each object have in a label map, background not counted.

    Raises:
        LabelError: an object has background only.
    """
    width = int(label_map.array.max(initial=0)) + 1
    votes = np.zeros((len(instances) + 1) * width, np.int64)
    for layer in instances.layers:
        inside = (layer > 0) & (label_map.array > 0)
        key = layer[inside].astype(np.int64) * width + label_map.array[inside]
        votes += np.bincount(key, minlength=len(votes))
    table = votes.reshape(-1, width)[1:]
    alone = np.flatnonzero(table.sum(axis=1) == 0)
    if len(alone):
        raise _refused(
            path, f"{len(alone)} objects lie where the label map is background, such as number "
            f"{int(alone[0]) + 1} in order"
        )  # fmt: skip
    return table.argmax(axis=1).astype(np.int32)


def _numbers(path: Path, rules: ReadRules | None) -> tuple[NDArray[Any], Geometry]:
    volume = read_image(path, rules=rules, as_labels=True)
    if volume.num_channels != 1:
        raise LabelError(
            path,
            f"has {volume.num_channels} channels, a map of objects has one",
            "save it as one number per voxel",
            code="E_LABEL_CHANNELS",
        )
    array = volume.array[0]
    if array.dtype == np.int32 and image_format(path) == "picture":
        array = array.view(np.uint32)  # the decoder takes unsigned TIFF files for signed ones
    array = whole_numbers(array, path)
    if array.min(initial=0) < 0:
        raise _refused(path, f"holds {int(array.min())}, objects have positive numbers")
    return array, volume.geometry


def _with_list(
    instances: InstanceSet, array: NDArray[Any], listed: InstanceList, path: Path
) -> InstanceSet:
    """The objects with the classes and scores of a list, and with the voxels that others cover."""
    numbers = np.unique(array[array > 0])
    unknown = [int(number) for number in numbers if int(number) not in listed.objects]
    if unknown:
        raise _refused(
            path, f"holds object {unknown[0]} and {len(unknown) - 1} others that its list lacks"
        )
    position = {int(number): n for n, number in enumerate(numbers)}
    objects = sorted(listed.objects.values(), key=lambda entry: entry.number)
    class_ids = np.array([entry.class_id for entry in objects], np.int32)
    scores = np.array([entry.score for entry in objects], np.float32)
    # An object may lie below others altogether; then it has no voxel in the map.
    renumbering = np.zeros(len(numbers) + 1, id_dtype(len(objects)))
    for n, entry in enumerate(objects, start=1):
        if entry.number in position:
            renumbering[position[entry.number] + 1] = n
    layers = [renumbering[instances.array]]
    for n, entry in enumerate(objects, start=1):
        if entry.hidden is None or not entry.hidden.any():
            continue
        box = tuple(slice(a, b) for a, b in zip(entry.box[:3], entry.box[3:], strict=True))
        if layers[0][box].shape != entry.hidden.shape:
            raise _refused(path, f"object {entry.number} has a box beyond the image in its list")
        whole = entry.hidden | (layers[0][box] == n)
        layers[0][box][layers[0][box] == n] = 0
        free = next((layer for layer in layers[1:] if not layer[box][whole].any()), None)
        if free is None:
            free = np.zeros_like(layers[0])
            layers.append(free)
        free[box][whole] = n
    # The first layer is what was on top.
    ordered = [*layers[1:], layers[0]]
    return InstanceSet(
        np.stack(ordered), instances.geometry, class_ids, scores, listed.labels, instances.ignored
    )


def _cropped(mask: NDArray[np.bool_]) -> tuple[tuple[int, ...], NDArray[np.bool_]]:
    """First voxel of a mask's box, and the mask within it."""
    start, box = [], []
    for axis in range(mask.ndim):
        others = tuple(n for n in range(mask.ndim) if n != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        start.append(int(filled[0]))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(start), mask[tuple(box)]


def _refused(path: Path, what: str) -> LabelError:
    return LabelError(
        path, what, "give one positive number per object, 0 elsewhere", code="E_INSTANCE_MAP"
    )
