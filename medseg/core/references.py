"""References of the kind that a task learns from: class numbers, objects, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medseg.core.components import components, thing_ids
from medseg.core.errors import LabelError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import (
    InstanceSet,
    LabelMap,
    PanopticMap,
    Reference,
    class_map,
    instances_of,
)

ReferenceKind = Literal["label_map", "instances", "panoptic"]
InstancesFrom = Literal["reference", "components"]


@dataclass(frozen=True)
class ReferenceRule:
    """What a reference is turned into.

    Args:
        kind: what the task learns from.
        labels: classes of the data set.
        instances_from: "reference" takes the objects that the reference tells apart, "components"
            the connected parts of each thing class.
    """

    kind: ReferenceKind
    labels: LabelSet
    instances_from: InstancesFrom = "reference"

    def apply(self, reference: Reference, *, where: str) -> Reference:
        """The reference as the task wants it, with the labels of the data set.

        Raises:
            LabelError: it does not tell objects apart, or an object has a class that the labels
                lack.
        """
        if self.kind == "label_map":
            return replace(class_map(reference), labels=self.labels)
        things = thing_ids(self.labels)
        if self.instances_from == "components":
            classes = replace(class_map(reference), labels=self.labels)
            return self._with_classes(classes, components(classes, things))
        if isinstance(reference, LabelMap):
            raise LabelError(
                where,
                "the reference has a class for each voxel, but does not tell objects apart",
                "set task.instances_from=components to take connected parts as objects, or give "
                "one number per object in instances/",
                code="E_NO_INSTANCES",
            )
        instances = replace(instances_of(reference), labels=self.labels)
        unknown = sorted(set(instances.class_ids.tolist()) - set(things))
        if unknown and not isinstance(reference, PanopticMap):
            names = ", ".join(f"{n} {self.labels.names[n]}" for n in things)
            raise LabelError(
                where,
                f"has objects of class {unknown[0]}, but the things of the labels are {names}",
                "declare the class in data.labels with thing: true",
                code="E_LABEL_VALUES",
            )
        if unknown:
            instances = _only(instances, things)
        return self._with_classes(replace(class_map(reference), labels=self.labels), instances)

    def _with_classes(self, classes: LabelMap, instances: InstanceSet) -> Reference:
        """Stuff stays where there is some: it is part of what images are measured by."""
        has_stuff = len(thing_ids(self.labels)) < len(self.labels.foreground)
        is_both = self.kind == "panoptic" or has_stuff
        return PanopticMap(classes, instances) if is_both else instances


def with_references(cases: Sequence[Case], rule: ReferenceRule) -> list[Case]:
    """The cases with references of another kind; what was prepared from the old kind is not used
    for them.
    """
    changed = []
    for case in cases:
        if case.read_reference is None:
            changed.append(case)
            continue
        how = f"{rule.kind} {rule.instances_from} {thing_ids(rule.labels)}"
        reading = case.reading if rule.kind == "label_map" else f"{case.reading} {how}".strip()
        read = _Converted(case.read_reference, rule, case.key)
        changed.append(replace(case, read_reference=read, reading=reading))
    return changed


@dataclass(frozen=True)
class _Converted:
    """Reads a reference and turns it into another kind; can be sent to other processes."""

    read: Callable[[], Reference]
    rule: ReferenceRule
    key: str

    def __call__(self) -> Reference:
        return self.rule.apply(self.read(), where=self.key)


def _only(instances: InstanceSet, class_ids: Sequence[int]) -> InstanceSet:
    """The objects of some classes, renumbered."""
    kept = np.isin(instances.class_ids, class_ids)
    table = np.zeros(len(instances) + 1, instances.layers.dtype)
    table[1:][kept] = np.arange(1, int(kept.sum()) + 1)
    return replace(
        instances,
        layers=table[instances.layers],
        class_ids=instances.class_ids[kept],
        scores=instances.scores[kept],
    )
