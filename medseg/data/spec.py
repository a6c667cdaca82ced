"""What a data set is: source, labels, modality, and how it is divided."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

from medseg.core.errors import ConfigError, InputError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import NamedReferences, SegmentationKind, Source
from medseg.data.found_labels import FoundLabels, find_labels

_log = logging.getLogger(__name__)

_EXAMPLE = "'data.labels={background: 0, liver: 1}'"


@dataclass(frozen=True)
class DatasetSpec:
    """A labelled data set as a configuration describes it.

    Args:
        name: short name used for run folders and the cache.
        source: where the cases come from.
        labels: names to numbers, or to numbers with codes (see `LabelSet.from_mapping`). Segments
            of DICOM SEG and RTSTRUCT objects belong to the label of their name. "dicom_seg" or
            "rtstruct" takes every segment of all such objects; None takes what the source knows,
            else the numbers in the references (see `find_labels`).
        modality: DICOM modality, "CT" or "MR" and so on; decides the normalisation.
        channel_names: one name per image channel; empty takes what the source knows.
        num_folds: number of patient-wise cross-validation folds; at most that of the patients.
        split_seed: seed of the shuffling before the folds are cut.
        mirror_axes: patient axes along which a mirrored image is still a valid one: letters of
            "RAS" or "" for none. Leave out R where left and right structures have different labels.
            None follows the labels (see `chosen_mirror_axes`).
    """

    name: str
    source: Source
    labels: Mapping[str, Any] | SegmentationKind | None = None
    modality: str = "OT"
    channel_names: Sequence[str] = field(default_factory=tuple)
    num_folds: int = 5
    split_seed: int = 0
    mirror_axes: str | None = None

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Z][A-Z0-9]{1,15}", self.modality) is None:
            raise ConfigError(
                "data.modality",
                f"is '{self.modality}'",
                "write a DICOM modality in capitals, such as CT, MR, US, or OT for others",
            )
        kinds = get_args(SegmentationKind)
        if isinstance(self.labels, str) and self.labels not in kinds:
            raise ConfigError(
                "data.labels",
                f"is '{self.labels}'",
                f"name the labels, as in {_EXAMPLE}, or use {' or '.join(kinds)}",
            )
        if set(self.mirror_axes or "") - set("RAS"):
            raise ConfigError(
                "data.mirror_axes", f"is '{self.mirror_axes}'", "use letters of RAS, or '' for none"
            )
        if self.num_folds < 2:
            raise ConfigError("data.num_folds", f"is {self.num_folds}", "use 2 or more")

    def label_set(self) -> LabelSet:
        """The labels given here, else those the source knows, else those of the references.

        Raises:
            InputError: nothing says what the labels are.
        """
        if isinstance(self.labels, Mapping):
            return LabelSet.from_mapping(self.labels, where="data.labels")
        labels = self._labelled_source().describe().labels
        if labels is None and isinstance(self.labels, str):
            raise InputError(
                "data.labels",
                f"is {self.labels}, but no series has such an object with segments",
                "see what was found with: python -m medseg doctor source.folder=<folder>",
                code="E_LABEL",
            )
        return self._found_labels.labels if labels is None else labels

    def chosen_mirror_axes(self, labels: LabelSet) -> tuple[str, str]:
        """Patient axes along which training mirrors images, and why.

        Bodies are alike on both sides, so without `mirror_axes` it is R, unless a label tells the
        sides apart or has only a number for a name, which may stand for a side.
        """
        if self.mirror_axes is not None:
            return self.mirror_axes, "data.mirror_axes"
        names = [*labels.names[1:], *(region.name for region in labels.regions)]
        sided = [name for name in names if _names_side(name)]
        if sided:
            return "", f"'{sided[0]}' is on one side"
        if len(names) > 1 and all(re.search(r"\d$", name) for name in names):
            return "", f"'{names[0]}' and the others may be sides of one structure"
        return "R", "no label tells left from right"

    @cached_property
    def _found_labels(self) -> FoundLabels:
        cases = self._labelled_source().cases()
        if all(case.read_reference is None for case in cases):
            raise InputError(
                "data.source",
                f"has {len(cases)} images and a reference for none, so there is nothing to learn",
                "put references beside them, such as images/a.nii.gz and labels/a.nii.gz, and see "
                "what is found with: python -m medseg doctor source.folder=<folder>",
                code="E_TOO_FEW_CASES",
            )
        return find_labels(cases)

    def labelled_cases(self) -> list[Case]:
        """Cases with a reference, held-out ones included, sorted by key.

        Raises:
            InputError: there are fewer than two that may be trained on, or several segmentations
                could be the reference of one case.
        """
        found = self._labelled_source().cases()
        cases = [case for case in found if case.read_reference is not None]
        without = [
            case.key for case in found if case.read_reference is None and not case.is_held_out
        ]
        if without:
            _log.warning(
                "%d images have no label and are left out: %s%s",
                len(without),
                ", ".join(without[:10]),
                " ..." if len(without) > 10 else "",
            )
        if sum(not case.is_held_out for case in cases) < 2:
            raise InputError(
                "data.source",
                f"has {len(cases)} cases with a reference; training needs at least two",
                "check data.source.folder and its layout with: "
                "python -m medseg doctor source.folder=<folder>",
                code="E_TOO_FEW_CASES",
            )
        if self.labels is None and self._labelled_source().describe().labels is None:
            cases = [self._found_labels.read(case) for case in cases]
        return sorted(cases, key=lambda case: case.key)

    def _labelled_source(self) -> Source:
        """The source; one whose references carry names is told which are wanted."""
        labels = self.label_set() if isinstance(self.labels, Mapping) else self.labels
        if isinstance(self.source, NamedReferences):
            return self.source.labelled_by(labels)
        if isinstance(labels, str):
            raise ConfigError(
                "data.labels",
                f"is {labels}, but {type(self.source).__name__} reads no DICOM",
                "use data.source=folder or dicom_folder, or name the labels",
            )
        return self.source


_SIDES = frozenset(
    ("left", "right", "l", "r", "lt", "rt", "lh", "rh", "sin", "dex", "sinister", "dexter")
)


def _names_side(name: str) -> bool:
    """Whether a word of a name is a side: `kidney_left`, `Left-Hippocampus`, `lungR`."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return any(word.lower() in _SIDES for word in words)
