"""What the numbers of a label map mean: names, coded concepts, colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
class LabelSet:
    """The classes of a dataset or model, background (class 0) included.

    Args:
        labels: one per class, class_id 0 to n without gaps, unique names.
        ignore_id: value of voxels without annotation, left out of loss and metrics; None if there
            are none.

    Raises:
        LabelError: names or numbers repeat, or numbers have gaps.
    """

    labels: tuple[Label, ...]
    ignore_id: int | None = None

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

    @classmethod
    def from_names(cls, names: Iterable[str], *, ignore_id: int | None = None) -> LabelSet:
        """Labels numbered in order; the first is background."""
        return cls(tuple(Label(name, n) for n, name in enumerate(names)), ignore_id)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str = "labels") -> LabelSet:
        """Labels from plain data, as in labels.yaml or a data option.

        `{background: 0, liver: 1}` or `{liver: {id: 1, type: [10200004, SCT, Liver],
        colour: [r, g, b], thing: false, category: [...]}}`; the key `ignore` names the value of
        unannotated voxels.
        """
        labels = []
        ignore_id: int | None = None
        for name, value in mapping.items():
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
        return cls(tuple(labels), ignore_id)

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
        return mapping

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def foreground(self) -> tuple[Label, ...]:
        return self.labels[1:]

    def __getitem__(self, name: str) -> Label:
        for label in self.labels:
            if label.name == name:
                return label
        close = get_close_matches(name, self.names, n=1)
        raise LabelError(
            "labels",
            f"there is no label '{name}' among {', '.join(self.names)}",
            f"did you mean '{close[0]}'?" if close else "use one of these",
        )

    def unknown_values(self, array: NDArray[Any]) -> list[float]:
        """Values of `array` that are neither a class number nor the ignore value, sorted."""
        allowed = [label.class_id for label in self.labels]
        if self.ignore_id is not None:
            allowed.append(self.ignore_id)
        values = np.unique(array)
        return [float(value) for value in values[~np.isin(values, allowed)]]


def _concept(value: Any) -> CodedConcept | None:
    if value is None:
        return None
    code, scheme, meaning = value
    return CodedConcept(str(code), str(scheme), str(meaning))
