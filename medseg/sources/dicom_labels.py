"""SEG and RTSTRUCT objects as references of the series they were drawn on, under common labels.

Files belong to a series by the UIDs that they name, never by folder or file name. Segments belong
together by their names; nothing is chosen where two files claim the same.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from pydicom.sr.coding import Code

from medseg.core.errors import InputError, LabelError, MedsegError, raise_all
from medseg.core.labels import Label, LabelSet
from medseg.core.protocols import SegmentationKind
from medseg.core.segmentation import LabelMap
from medseg.core.segments import OnOverlap, Segment, SegmentSet, joined
from medseg.dicom.headers import DicomIndex, FoundVolume
from medseg.dicom.references import NamedSegment, ReferenceFile, read_reference_file
from medseg.sources.segmentations import read_segments

_log = logging.getLogger(__name__)

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Unmatched:
    """A segmentation object that belongs to no series here, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class FoundReferences:
    """Segmentation objects of an index by the volume they were drawn on.

    Args:
        by_volume: files of each volume of the index, in its order, sorted by path; copies once.
        unmatched: files that belong to no volume, or cannot be read.
    """

    by_volume: tuple[tuple[ReferenceFile, ...], ...]
    unmatched: tuple[Unmatched, ...]

    def of_kind(self, kind: SegmentationKind | None) -> FoundReferences:
        """Those of one kind of object, unmatched ones of both."""
        kept = tuple(
            tuple(file for file in files if kind in (None, file.kind)) for files in self.by_volume
        )
        return FoundReferences(kept, self.unmatched)


def find_references(index: DicomIndex) -> FoundReferences:
    """Matches an index's segmentation objects to its volumes."""
    images = [
        frozenset(frame.header.text("SOPInstanceUID") for frame in volume.lattice.frames)
        for volume in index.volumes
    ]
    by_volume: list[list[ReferenceFile]] = [[] for _ in index.volumes]
    unmatched, seen = [], set()
    for path in index.segmentations:
        try:
            file = read_reference_file(path)
            position = _volume_of(file, index.volumes, images)
        except InputError as error:
            unmatched.append(Unmatched(path, error.what))
            continue
        identity = (file.sop_uid, _digest(path))
        if identity not in seen:
            seen.add(identity)
            by_volume[position].append(file)
    return FoundReferences(tuple(map(tuple, by_volume)), tuple(unmatched))


def name_key(name: str) -> str:
    """How names are compared and what labels are called: lower case, with underscores."""
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def common_labels(files: Sequence[ReferenceFile]) -> LabelSet | None:
    """One label per name over all files, numbered in alphabetical order; None without segments.

    Codes and colour are those of the first file that has the name.

    Raises:
        LabelError: segments of one name have different codes.
    """
    found: dict[str, list[tuple[NamedSegment, Path]]] = defaultdict(list)
    for file in sorted(files, key=lambda file: file.path):
        for segment in file.segments:
            found[_key(segment)].append((segment, file.path))
    found.pop(BACKGROUND, None)
    conflicts = [
        LabelError(f"segment '{name}'", _conflict(group), code="E_LABEL_CONFLICT")
        for name, group in sorted(found.items())
        if len(_codes(group)) > 1
    ]
    if conflicts:
        lines = "".join(f"\n  {error}" for error in conflicts)
        raise LabelError(
            "data.labels",
            f"{len(conflicts)} names stand for different things in different files:{lines}",
            "name the segments that you want, as in 'data.labels={background: 0, liver: 1}'",
            code="E_LABEL_CONFLICT",
        )
    if not found:
        return None
    labels = [Label(BACKGROUND, 0)]
    for number, name in enumerate(sorted(found), start=1):
        first = next((s for s, _ in found[name] if s.type is not None), found[name][0][0])
        labels.append(Label(name, number, first.category, first.type, first.rgb))
    return LabelSet(tuple(labels))


def require_names(labels: LabelSet, files: Sequence[ReferenceFile]) -> None:
    """Raises an error if the files have no segment of a label's name, or if two names are alike.

    Raises:
        LabelError: one message names all such labels.
    """
    present = {_key(segment): segment.name for file in files for segment in file.segments}
    wanted = _by_key(labels)
    errors = []
    for key, label in wanted.items():
        if key not in present:
            close = get_close_matches(key, present, n=1)
            remedy = f"did you mean '{present[close[0]]}'?" if close else ""
            what = "no segmentation has a segment of this name"
            errors.append(LabelError(f"data.labels.{label.name}", what, remedy))
    if errors:
        names = ", ".join(sorted(present.values())[:20]) or "no segments"
        more = f" and {len(present) - 20} more" if len(present) > 20 else ""
        raise_all(errors, where="data.labels", what=f"names are not among {names}{more}")


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference of one volume, read when called; can be sent to a worker process.

    Args:
        volume: as found.
        files: segmentation objects drawn on it.
        labels: classes; segments of other names are left out.
        on_overlap: what voxels of two classes become, see `SegmentSet.label_map`.
        is_tilt_kept: True if the image keeps a leaning grid, so that the reference must too.
        index: keeps an unpacked archive alive.
    """

    volume: FoundVolume
    files: tuple[ReferenceFile, ...]
    labels: LabelSet
    on_overlap: OnOverlap
    is_tilt_kept: bool
    index: DicomIndex = field(repr=False)

    def ambiguity(self) -> InputError | None:
        """The error if two files have segments of one wanted name, else None."""
        wanted = _by_key(self.labels)
        holders: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            for key in {_key(segment) for segment in file.segments} & set(wanted):
                holders[key].append(_shown(file.path, self.index))
        shared = {key: names for key, names in holders.items() if len(names) > 1}
        if not shared:
            return None
        files = sorted({name for names in shared.values() for name in names})
        return InputError(
            ", ".join(files),
            f"were drawn on one series, and {len(files)} of them have the segments "
            f"{', '.join(sorted(shared))}",
            "keep the right file for each series, or set data.labels=dicom_seg or rtstruct if one "
            "kind of object is meant",
            code="E_AMBIGUOUS_LABEL",
        )

    def absent(self) -> list[str]:
        """Names of labels that the files have no segment for."""
        present = {_key(segment) for file in self.files for segment in file.segments}
        return [label.name for key, label in _by_key(self.labels).items() if key not in present]

    def __call__(self) -> LabelMap:
        if (ambiguity := self.ambiguity()) is not None:
            raise ambiguity
        source = self.volume.geometry if self.is_tilt_kept else self.volume
        wanted = _by_key(self.labels)
        pieces: dict[str, list[Segment]] = defaultdict(list)
        grid = None
        for file in self.files:
            found = read_segments(file.path, source=source)
            grid = found.geometry
            for note in found.notes:
                _log.info("%s: %s", _shown(file.path, self.index), note)
            for named, segment in zip(file.segments, found.segments, strict=True):
                if (key := _key(named)) in wanted:
                    pieces[key].append(segment)
        assert grid is not None, "a reference has at least one file"
        segments = tuple(joined(wanted[key], pieces[key]) for key in wanted if key in pieces)
        where = ", ".join(_shown(file.path, self.index) for file in self.files)
        try:
            merged = SegmentSet(where, grid, segments).label_map(on_overlap=self.on_overlap)
        except LabelError as error:
            remedy = "set data.source.on_overlap=smallest or last (source dicom_folder)"
            raise LabelError(error.where, error.what, remedy, code=error.code) from None
        return LabelMap(merged.array, grid, self.labels)


@dataclass(frozen=True, eq=False)
class Unusable:
    """Stands for a reference that cannot be read; raises its error when called."""

    error: MedsegError

    def __call__(self) -> LabelMap:
        raise self.error


def _volume_of(
    file: ReferenceFile, volumes: Sequence[FoundVolume], images: Sequence[frozenset[str]]
) -> int:
    """Position of the one volume that a file was drawn on.

    Raises:
        InputError: there is none, or several could be meant.
    """
    numbers = range(len(volumes))
    if file.series_uids:
        found = [n for n in numbers if volumes[n].series.series_uid in file.series_uids]
        missing = "refers to a series that is not here or cannot be read"
    elif file.image_uids:
        found, missing = list(numbers), "refers to images that are not here or cannot be read"
    else:
        frames = file.frame_of_reference_uids
        found = [n for n in numbers if volumes[n].series.frame_of_reference_uid in frames]
        missing = "refers to no series, and no series shares its frame of reference"
    if file.image_uids and found:
        found = [n for n in found if images[n] & file.image_uids]
        missing = "refers to images that are not here or cannot be read"
    if len(found) != 1:
        what = f"could belong to any of {len(found)} volumes" if found else missing
        remedy = "add the series it was drawn on" if not found else "give one volume per series"
        raise InputError(file.path, what, remedy, code="E_SOURCE")
    return found[0]


def _key(segment: NamedSegment) -> str:
    meaning = segment.type.meaning if segment.type is not None else ""
    return name_key(segment.name or meaning or "unnamed")


def _by_key(labels: LabelSet) -> dict[str, Label]:
    wanted: dict[str, Label] = {}
    for label in labels.foreground:
        other = wanted.setdefault(name_key(label.name), label)
        if other is not label:
            raise LabelError(
                "data.labels",
                f"'{other.name}' and '{label.name}' are one name, as case does not count",
                "keep one",
                code="E_LABEL_CONFLICT",
            )
    return wanted


def _codes(group: Sequence[tuple[NamedSegment, Path]]) -> list[tuple[Code, Path]]:
    """The types that differ, each with its first file.

    SNOMED-RT codes such as T-62000 equal their SNOMED CT successors; segments without a code, as in
    structure sets, contradict none.
    """
    found: list[tuple[Code, Path]] = []
    for segment, path in group:
        if (concept := segment.type) is None:
            continue
        code = Code(concept.value, concept.scheme, concept.meaning)
        if all(code != other for other, _ in found):
            found.append((code, path))
    return found


def _conflict(group: Sequence[tuple[NamedSegment, Path]]) -> str:
    return "is " + ", but ".join(
        f"{code.value} {code.scheme_designator} ({code.meaning}) in {path.parent.name}/{path.name}"
        for code, path in _codes(group)
    )


def _shown(path: Path, index: DicomIndex) -> str:
    """The file below the index's root."""
    root = index.files.root
    return str(path.relative_to(root)) if path.is_relative_to(root) and path != root else path.name


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
