"""The interfaces that packages know each other by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from medseg.core.errors import InputError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import ProbabilityMap, Reference, Result


@dataclass(frozen=True)
class SourceDescription:
    """What a source knows of its data beyond the cases.

    Args:
        labels: meaning of the reference's numbers; None if the source does not say.
        channel_names: one name per image channel, such as ("CT",) or ("T1", "FLAIR"); empty
            if unknown.
        notice: a sentence that must stand in the first lines of a run and on the bundle's card;
            "" if none.
        orphan_labels: references without an image, as file names.
        absent_cases: keys of cases that the data set's own list names, but that have no file.
        refused: why images that were found are no cases, one error for each series or file.
    """

    labels: LabelSet | None = None
    channel_names: tuple[str, ...] = ()
    notice: str = ""
    orphan_labels: tuple[str, ...] = ()
    absent_cases: tuple[str, ...] = ()
    refused: tuple[InputError, ...] = ()


class Source(Protocol):
    """Where cases come from."""

    def cases(self) -> list[Case]:
        """All cases, sorted by key; headers may be read, pixels are not."""
        ...

    def describe(self) -> SourceDescription: ...


SegmentationKind = Literal["dicom_seg", "rtstruct"]


@runtime_checkable
class NamedReferences(Protocol):
    """A source whose references name their segments; the numbers are the data set's to give."""

    def labelled_by(self, labels: LabelSet | SegmentationKind | None) -> Source:
        """The same source, for training.

        Args:
            labels: the wanted segments by name; or the kind of object whose segments are all
                wanted; or None for those of every kind.
        """
        ...


class Predictor(Protocol):
    """Segments one case; results lie on the grid of the input series."""

    def predict(self, case: Case) -> Reference: ...

    def predict_with_probabilities(self, case: Case) -> tuple[Reference, ProbabilityMap]:
        """Both from one run of whatever segments."""
        ...


ResultKind = Literal["label_map", "instances", "probabilities", "uncertainty"]
"""Objects, with or without stuff, are "instances"."""


class Writer(Protocol):
    """Writes one result below a folder and returns the files it made.

    It is given label maps, of objects their classes, unless it says otherwise (`ChoosesResults`).
    """

    def write(self, result: Result, case: Case, *, folder: Path) -> list[Path]: ...


@runtime_checkable
class ChoosesResults(Protocol):
    """A writer that is given other results than label maps, one after the other."""

    @property
    def takes(self) -> tuple[ResultKind, ...]: ...


@runtime_checkable
class ChecksCases(Protocol):
    """A writer that cannot write for every case, and can tell before anything is segmented."""

    def check(self, case: Case) -> None:
        """Raises an OutputError for a case that nothing can be written for."""
        ...
