"""What the numbers of a label map mean: names, coded concepts, colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import LabelError

# Twelve hues far apart in CIELab that stay readable over grey images; later labels repeat them.
_PALETTE = (
    (230, 75, 53), (77, 187, 213), (0, 160, 135), (240, 190, 70), (142, 110, 200), (243, 155, 127),
    (60, 84, 136), (145, 209, 194), (220, 90, 160), (126, 97, 72), (120, 190, 60), (90, 120, 255),
)  # fmt: skip


@dataclass(frozen=True)
class CodedConcept:
    """A coded term: value, scheme ("SCT" for SNOMED CT) and meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """One class: its name, number, codes and colour.

    Args:
        name: unique name, lower case with underscores by convention.
        class_id: number in a label map; 0 is background.
        category: what kind of property, e.g. SCT 123037004 "Anatomical Structure"; None if unknown.
        type: which property, e.g. SCT 10200004 "Liver"; None if unknown.
        colour: RGB, 0 to 255; None takes one from the palette.
        is_thing: True for countable objects (instances), False for stuff.
    """

    name: str
    class_id: int
    category: CodedConcept | None = None
    type: CodedConcept | None = None
    colour: tuple[int, int, int] | None = None
    is_thing: bool = False

    @property
    def rgb(self) -> tuple[int, int, int]:
        return self.colour or _PALETTE[(self.class_id - 1) % len(_PALETTE)]


@dataclass(frozen=True)
class Region:
    """A union of classes that is segmented and scored as one, such as a tumour with its oedema.

    Args:
        name: unique among the regions.
        class_ids: its classes.
        paints: the class that a voxel of the region gets in a label map, unless a later region
            claims the voxel.
    """

    name: str
    class_ids: tuple[int, ...]
    paints: int


@dataclass(frozen=True)
class LabelSet:
    """The classes of a dataset or model, background (class 0) included.

    Args:
        labels: one per class, class_id 0 to n without gaps, unique names.
        ignore_id: value of voxels without annotation, left out of loss and metrics; None if there
            are none.
        regions: unions of classes that a network gives instead of the classes, outer ones first;
            empty where it gives the classes.

    Raises:
        LabelError: names or numbers repeat, numbers have gaps, or a label map could not tell the
            regions apart.
    """

    labels: tuple[Label, ...]
    ignore_id: int | None = None
    regions: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.labels, key=lambda label: label.class_id))
        ids = [label.class_id for label in ordered]
        names = [label.name for label in ordered]
        if ids != list(range(len(ids))) or len(ids) < 2:
            raise LabelError(
                "labels",
                f"the class numbers are {ids}, but must run 0 (background), 1, 2, ... without gaps",
                "number the labels anew",
            )
        if len(set(names)) != len(names):
            raise LabelError("labels", f"a name appears twice in {names}", "use each name once")
        if self.ignore_id is not None and self.ignore_id in ids:
            raise LabelError("labels", f"ignore_id {self.ignore_id} is also the number of a class")
        object.__setattr__(self, "labels", ordered)
        _check_regions(self.regions, set(ids[1:]))

    @classmethod
    def from_names(cls, names: Iterable[str], *, ignore_id: int | None = None) -> LabelSet:
        """Labels numbered in order; the first is background."""
        return cls(tuple(Label(name, n) for n, name in enumerate(names)), ignore_id)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str = "labels") -> LabelSet:
        """Labels from plain data, as in labels.yaml or a data option.

        `{background: 0, liver: 1}` or `{liver: {id: 1, type: [10200004, SCT, Liver],
        colour: [r, g, b], thing: false, category: [...]}}`; the key `ignore` names the value of
        unannotated voxels, and `regions` the unions of classes that are segmented in their place,
        outer ones first: `{whole: [1, 2, 3], core: [2, 3]}`.
        """
        labels = []
        ignore_id: int | None = None
        regions: tuple[Region, ...] = ()
        for name, value in mapping.items():
            if name == "regions":
                regions = _regions(value, where=f"{where}.regions")
                continue
            facts = dict(value) if isinstance(value, Mapping) else {"id": value}
            try:
                class_id = int(facts.pop("id"))
                category = _concept(facts.pop("category", None))
                concept = _concept(facts.pop("type", None))
                colour = facts.pop("colour", None)
                is_thing = bool(facts.pop("thing", False))
            except (KeyError, TypeError, ValueError) as error:
                raise LabelError(
                    f"{where}.{name}",
                    f"cannot be understood ({error})",
                    "write it as a number, or as id, type, category, colour and thing",
                ) from error
            if facts:
                raise LabelError(f"{where}.{name}", f"unknown key {sorted(facts)}")
            if name == "ignore":
                ignore_id = class_id
                continue
            rgb = None if colour is None else (int(colour[0]), int(colour[1]), int(colour[2]))
            labels.append(Label(str(name), class_id, category, concept, rgb, is_thing))
        return cls(tuple(labels), ignore_id, regions)

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back."""
        mapping: dict[str, Any] = {}
        for label in self.labels:
            facts: dict[str, Any] = {"id": label.class_id}
            for key, concept in (("category", label.category), ("type", label.type)):
                if concept is not None:
                    facts[key] = [concept.value, concept.scheme, concept.meaning]
            if label.colour is not None:
                facts["colour"] = list(label.colour)
            if label.is_thing:
                facts["thing"] = True
            mapping[label.name] = facts if len(facts) > 1 else label.class_id
        if self.ignore_id is not None:
            mapping["ignore"] = self.ignore_id
        if self.regions:
            mapping["regions"] = {
                region.name: {"ids": list(region.class_ids), "paints": region.paints}
                for region in self.regions
            }
        return mapping

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def foreground(self) -> tuple[Label, ...]:
        return self.labels[1:]

    @property
    def structures(self) -> tuple[Region, ...]:
        """What is segmented and scored: the regions, or each foreground class by itself."""
        return self.regions or tuple(
            Region(label.name, (label.class_id,), label.class_id) for label in self.foreground
        )

    @property
    def num_outputs(self) -> int:
        """Channels of the logits: one per region, else one per class with background."""
        return len(self.regions) or len(self.labels)

    def structure(self, name: str) -> Region:
        """The region or class of a name; raises LabelError if there is none."""
        for structure in self.structures:
            if structure.name == name:
                return structure
        raise _unknown_name(name, tuple(structure.name for structure in self.structures))

    def __getitem__(self, name: str) -> Label:
        for label in self.labels:
            if label.name == name:
                return label
        raise _unknown_name(name, self.names)

    def unknown_values(self, array: NDArray[Any]) -> list[float]:
        """Values of `array` that are neither a class number nor the ignore value, sorted."""
        allowed = [label.class_id for label in self.labels]
        if self.ignore_id is not None:
            allowed.append(self.ignore_id)
        values = np.unique(array)
        return [float(value) for value in values[~np.isin(values, allowed)]]


def region_list(members: Mapping[str, Sequence[int]], *, where: str) -> tuple[Region, ...]:
    """Regions from their classes, outer ones first; each paints the class that no later one has.

    Raises:
        LabelError: a region has no class of its own.
    """
    regions = []
    items = list(members.items())
    for n, (name, class_ids) in enumerate(items):
        later = {class_id for _, ids in items[n + 1 :] for class_id in ids}
        own = sorted(set(class_ids) - later)
        if not own:
            raise LabelError(
                f"{where}.{name}",
                f"has the classes {list(class_ids)}, all of which later regions have as well",
                "name outer regions before the regions within them",
            )
        regions.append(Region(name, tuple(class_ids), own[0]))
    return tuple(regions)


def _regions(value: Any, *, where: str) -> tuple[Region, ...]:
    if not isinstance(value, Mapping):
        raise LabelError(where, f"is {value!r}", "write it as {whole: [1, 2], core: [2]}")
    members: dict[str, list[int]] = {}
    paints: dict[str, int] = {}
    for name, entry in value.items():
        ids = entry.get("ids") if isinstance(entry, Mapping) else entry
        try:
            members[str(name)] = [int(class_id) for class_id in ids]  # type: ignore[union-attr]
            if isinstance(entry, Mapping) and "paints" in entry:
                paints[str(name)] = int(entry["paints"])
        except (TypeError, ValueError) as error:
            raise LabelError(
                f"{where}.{name}", f"is {entry!r}", "list its class numbers, as in [1, 2]"
            ) from error
    if set(paints) == set(members):
        return tuple(Region(name, tuple(ids), paints[name]) for name, ids in members.items())
    return region_list(members, where=where)


def _check_regions(regions: Sequence[Region], class_ids: set[int]) -> None:
    """Raises an error unless painting the regions one over the other gives a label map in which
    each can be found again.
    """
    names = [region.name for region in regions]
    if len(set(names)) != len(names):
        raise LabelError("labels.regions", f"a name appears twice in {names}", "use each name once")
    for region in regions:
        unknown = sorted(set(region.class_ids) - class_ids)
        if unknown or not region.class_ids or region.paints not in region.class_ids:
            raise LabelError(
                f"labels.regions.{region.name}",
                f"has the classes {list(region.class_ids)} and paints {region.paints}, but the "
                f"labels are numbered {sorted(class_ids)}",
                "list numbers of labels, and paint one of them",
            )

    def holding(class_id: int) -> list[str]:
        return [region.name for region in regions if class_id in region.class_ids]

    for class_id in sorted(class_ids):
        painted = [region.paints for region in regions if class_id in region.class_ids]
        if painted and holding(painted[-1]) != holding(class_id):
            raise LabelError(
                "labels.regions",
                f"class {class_id} belongs to {', '.join(holding(class_id))}, but is painted as "
                f"class {painted[-1]}, which belongs to {', '.join(holding(painted[-1]))}",
                "name outer regions before the regions within them",
            )


def _unknown_name(name: str, names: tuple[str, ...]) -> LabelError:
    close = get_close_matches(name, names, n=1)
    return LabelError(
        "labels",
        f"there is no label '{name}' among {', '.join(names)}",
        f"did you mean '{close[0]}'?" if close else "use one of these",
    )


def _concept(value: Any) -> CodedConcept | None:
    if value is None:
        return None
    code, scheme, meaning = value
    return CodedConcept(str(code), str(scheme), str(meaning))
