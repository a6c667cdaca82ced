"""Objects and classes of a case as one map of codes, which is cut and deformed like a label map.

Each object has a code, each class of voxels without an object has one, and so has each set of
objects that overlap somewhere. Nearest-neighbour sampling of the one map therefore keeps all of
them, whatever the number of objects and of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.components import thing_ids
from medseg.core.errors import LabelError
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, PanopticMap, instances_of

MAX_CODES = 2**24
"""Codes stay exact in float32, in which patches are sampled."""

UNKNOWN = -1
"""Class of voxels that nobody annotated, and of things that belong to no object."""


@dataclass(frozen=True, eq=False)
class ObjectCodes:
    """What the codes of a case mean; code 0 is background.

    Args:
        classes: class of each code, shape (codes,); UNKNOWN where nothing is known.
        members: pairs of a code and an object that has voxels of it, shape (m, 2); objects count
            from 0.
        class_ids: class of each object, shape (n,).
        num_voxels: of each object in the whole case, shape (n,).
        layers: of each object, shape (n,); objects of one layer share no voxel.
    """

    classes: NDArray[np.int64]
    members: NDArray[np.int64]
    class_ids: NDArray[np.int64]
    num_voxels: NDArray[np.int64]
    layers: NDArray[np.int64]

    def to(self, device: Any) -> ObjectCodes:
        """Itself: the table stays on the CPU."""
        return self

    def instances(self, codes: NDArray[Any], geometry: Any) -> InstanceSet:
        """The objects of a map of codes, the whole one or a part of it.

        Args:
            codes: shape (I, J, K).
            geometry: grid of the map.
        """
        layers = [(self.objects_of_codes(n) + 1)[codes] for n in range(self.num_layers)]
        ignored = self.classes[codes] == UNKNOWN
        return InstanceSet(
            np.stack(layers),
            geometry,
            self.class_ids,
            np.ones(len(self.class_ids), np.float32),
            ignored=ignored if ignored.any() else None,
        )

    @property
    def num_layers(self) -> int:
        return int(self.layers.max(initial=0)) + 1

    def objects_of_codes(self, layer: int) -> NDArray[np.int64]:
        """The object of a layer that each code has; -1 for none."""
        table = np.full(len(self.classes), -1, np.int64)
        codes, objects = self.members[self.layers[self.members[:, 1]] == layer].T
        table[codes] = objects
        return table

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays that `from_arrays` reads back."""
        return {
            "classes": self.classes,
            "members": self.members,
            "class_ids": self.class_ids,
            "num_voxels": self.num_voxels,
            "layers": self.layers,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ObjectCodes:
        names = ("classes", "members", "class_ids", "num_voxels", "layers")
        return cls(*(arrays[name] for name in names))


def encode(
    reference: InstanceSet | PanopticMap, labels: LabelSet, *, where: str
) -> tuple[NDArray[np.int32], ObjectCodes]:
    """The map of codes of a reference, shape (I, J, K), and what they mean; voxels are not counted
    yet (`counted`).

    Raises:
        LabelError: there are too many objects.
    """
    instances = instances_of(reference)
    classes = _classes_without_objects(reference, labels)
    codes, members = _joined(classes, instances, num_classes=len(labels))
    if len(members) >= MAX_CODES:
        raise LabelError(
            where,
            f"has {len(members)} objects and overlaps, at most {MAX_CODES} are taken",
            "cut the image into smaller ones",
            code="E_TOO_LARGE",
        )
    table = np.concatenate([np.arange(len(labels)), [UNKNOWN]])
    if isinstance(reference, PanopticMap):
        table[list(thing_ids(labels))] = UNKNOWN
    num_codes = len(table)
    rows, code_classes = [], [table]
    for code, objects in enumerate(members, start=num_codes):
        rows += [(code, number - 1) for number in objects]
    if members:
        # Of objects that overlap the last one is on top.
        code_classes.append(instances.class_ids[[objects[-1] - 1 for objects in members]])
    return codes, ObjectCodes(
        np.concatenate(code_classes).astype(np.int64),
        np.array(rows, np.int64).reshape(-1, 2),
        instances.class_ids.astype(np.int64),
        np.zeros(len(instances), np.int64),
        _layers(instances),
    )


def counted(codes: NDArray[np.signedinteger], table: ObjectCodes) -> ObjectCodes:
    """The table with the voxels of each object in a map; objects without any are left out."""
    per_code = np.bincount(codes.ravel(), minlength=len(table.classes))
    counts = np.zeros(len(table.class_ids), np.int64)
    np.add.at(counts, table.members[:, 1], per_code[table.members[:, 0]])
    present = counts > 0
    members = table.members[present[table.members[:, 1]]]
    members[:, 1] = (np.cumsum(present) - 1)[members[:, 1]]
    return ObjectCodes(
        table.classes, members, table.class_ids[present], counts[present], table.layers[present]
    )


def middles(codes: NDArray[np.signedinteger], table: ObjectCodes) -> NDArray[np.int64]:
    """A voxel of each object, in the middle of them in the order of the array; shape (n, 3)."""
    found = np.zeros((len(table.class_ids), codes.ndim), np.int64)
    flat = codes.ravel()
    has_object = np.zeros(len(table.classes), np.bool_)
    has_object[table.members[:, 0]] = True
    foreground = np.flatnonzero(has_object[flat])
    for layer in range(table.num_layers):
        owner = table.objects_of_codes(layer)[flat[foreground]]
        own = owner >= 0
        order = np.argsort(owner[own], kind="stable")
        places, sorted_owner = foreground[own][order], owner[own][order]
        numbers, start, count = np.unique(sorted_owner, return_index=True, return_counts=True)
        found[numbers] = np.stack(np.unravel_index(places[start + count // 2], codes.shape), axis=1)
    return found


def _classes_without_objects(
    reference: InstanceSet | PanopticMap, labels: LabelSet
) -> NDArray[np.int32]:
    """Class of each voxel; one more than the last class where nobody annotated."""
    unknown = len(labels)
    instances = instances_of(reference)
    if isinstance(reference, PanopticMap):
        classes = reference.label_map.array.astype(np.int32)
        if labels.ignore_id is not None:
            classes[reference.label_map.array == labels.ignore_id] = unknown
    else:
        classes = np.zeros(instances.geometry.shape, np.int32)
    if instances.ignored is not None:
        classes[instances.ignored] = unknown
    return classes


def _layers(instances: InstanceSet) -> NDArray[np.int64]:
    """The layer that each object lies in."""
    found = np.zeros(len(instances) + 1, np.int64)
    for n, layer in enumerate(instances.layers[1:], start=1):
        found[np.unique(layer)] = n
    return found[1:]


def _joined(
    classes: NDArray[np.int32], instances: InstanceSet, *, num_classes: int
) -> tuple[NDArray[np.int32], list[tuple[int, ...]]]:
    """Codes of the voxels, and the objects of each code after those of the classes."""
    first = num_classes + 1
    layer = instances.layers[0].astype(np.int32)
    codes = np.where(layer > 0, layer + np.int32(first - 1), classes)
    members: list[tuple[int, ...]] = [(number,) for number in range(1, len(instances) + 1)]
    for other in instances.layers[1:]:
        inside = other > 0
        pairs, inverse = np.unique(
            np.stack([codes[inside], other[inside].astype(np.int32)], axis=1),
            axis=0,
            return_inverse=True,
        )
        new = np.empty(len(pairs), np.int32)
        for n, (code, number) in enumerate(pairs.tolist()):
            if code < first:
                new[n] = number + first - 1  # alone there, as in the first layer
            else:
                new[n] = first + len(members)
                members.append((*members[code - first], number))
        codes[inside] = new[inverse.ravel()]
    return codes, members
