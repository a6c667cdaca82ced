"""A folder, ZIP archive or DICOMDIR of DICOM images as cases, one per volume."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
from collections import Counter
from functools import cached_property, partial
from pathlib import Path
from typing import get_args

from medseg.core.errors import MAX_LISTED, InputError, LabelError, raise_all
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import SegmentationKind, SourceDescription
from medseg.core.segments import OnOverlap
from medseg.core.volume import Volume
from medseg.dicom.headers import DicomIndex, FoundVolume, index_folder
from medseg.dicom.references import ReferenceFile
from medseg.dicom.volumes import read_found
from medseg.sources.dicom_labels import (
    FoundReferences,
    Reference,
    Unusable,
    common_labels,
    find_references,
    require_names,
)

_log = logging.getLogger(__name__)


class DicomFolder:
    """Every DICOM volume below a folder; what cannot be read rightly is refused and logged.

    A case is named after the folders its files lie in, below `folder`. Where one folder holds
    several volumes, a short hash of the series (and a number for its phases) is added. Names never
    come from DICOM attributes.

    DICOM SEG and RTSTRUCT objects below `folder` are the references of the series they were drawn
    on. For training, `labelled_by` says which of their segments count.

    Args:
        folder: folder, file, ZIP archive or DICOMDIR.
        on_gap: "refuse" series with missing slices, or "resample" to interpolate whole missing
            slices.
        on_tilt: "resample" leaning stacks (gantry tilt) onto an orthogonal grid, "keep" or "refuse"
            them.
        suv: give PET series in Bq/ml as standardised uptake values by body weight.
        trust_positions: take positions as comparable although FrameOfReferenceUID differs within a
            series; for data whose anonymiser is known to have renumbered it.
        on_overlap: what voxels of two segments become: "refuse" the reference, or give them to the
            "last" label, or to the "smallest" segment, as a tumour in its organ.
    """

    def __init__(
        self,
        folder: str,
        *,
        on_gap: str = "refuse",
        on_tilt: str = "resample",
        suv: bool = False,
        trust_positions: bool = False,
        on_overlap: OnOverlap = "refuse",
    ) -> None:
        for name, value, allowed in (
            ("on_gap", on_gap, ("refuse", "resample")),
            ("on_tilt", on_tilt, ("resample", "keep", "refuse")),
            ("on_overlap", on_overlap, get_args(OnOverlap)),
        ):
            if value not in allowed:
                raise InputError(
                    f"source.{name}",
                    f"is '{value}'",
                    f"use one of {', '.join(allowed)}",
                    code="E_OPTION",
                )
        self.folder = Path(folder)
        self.on_gap = on_gap
        self.on_tilt = on_tilt
        self.suv = suv
        self.trust_positions = trust_positions
        self.on_overlap: OnOverlap = on_overlap
        self._is_for_training = False
        self._labels: LabelSet | SegmentationKind | None = None

    def labelled_by(self, labels: LabelSet | SegmentationKind | None) -> DicomFolder:
        """The same folder, for training: references that cannot be told apart are errors.

        Args:
            labels: the wanted segments by name, whatever the case of its letters; or the kind of
                object whose segments are all wanted; or None for those of both kinds.
        """
        chosen = copy.copy(self)  # keeps what was indexed
        chosen._labels = labels
        chosen._is_for_training = True
        return chosen

    def cases(self) -> list[Case]:
        """One case per volume, sorted by key; headers are read, pixels are not.

        Raises:
            InputError: there is no volume that can be read.
        """
        index = self._index
        if not index.volumes:
            raise_all(index.refused, where=str(self.folder), what="series cannot be read")
            raise InputError(
                self.folder,
                "holds no DICOM image",
                "give a folder, ZIP archive or DICOMDIR with DICOM images",
                code="E_NO_IMAGES",
            )
        for error in index.refused:
            _log.warning("left out, %s: %s", error.code, error)
        keys = case_keys(index)
        cases = [
            self._case(key, found, reference, index)
            for key, found, reference in zip(keys, index.volumes, self._read_later(), strict=True)
        ]
        return sorted(cases, key=lambda case: case.key)

    def describe(self) -> SourceDescription:
        """The labels are those of the segments found; None if their names contradict each other.

        Raises:
            LabelError: for training, instead of None.
        """
        found = self._found
        files = [file for files in found.by_volume for file in files]
        unmatched = found.unmatched if self._is_for_training else ()
        try:
            labels = self._label_set(files)
        except LabelError:
            if self._is_for_training:
                raise
            labels = None
        return SourceDescription(
            labels=labels,
            orphan_labels=tuple(item.path.name for item in unmatched),
            refused=tuple({str(error): error for error in self._index.refused}.values()),
        )

    @cached_property
    def _index(self) -> DicomIndex:
        return index_folder(self.folder, on_gap=self.on_gap, trust_positions=self.trust_positions)

    @cached_property
    def _every_reference(self) -> FoundReferences:
        return find_references(self._index)

    @property
    def _found(self) -> FoundReferences:
        kind = self._labels if isinstance(self._labels, str) else None
        return self._every_reference.of_kind(kind)

    def _label_set(self, files: list[ReferenceFile]) -> LabelSet | None:
        if isinstance(self._labels, LabelSet):
            if files:
                require_names(self._labels, files)
            return self._labels
        return common_labels(files)

    def _read_later(self) -> list[Reference | Unusable | None]:
        """What reads the reference of each volume of the index; None for volumes without one."""
        found = self._found
        files = [file for files in found.by_volume for file in files]
        try:
            labels = self._label_set(files)
        except LabelError as error:
            if self._is_for_training:
                raise
            return [Unusable(error) if files else None for files in found.by_volume]
        if labels is None:
            return [None] * len(found.by_volume)
        references = []
        for volume, drawn in zip(self._index.volumes, found.by_volume, strict=True):
            reference = Reference(
                volume, drawn, labels, self.on_overlap, self.on_tilt == "keep", self._index
            )
            references.append(reference if len(reference.absent()) < len(labels) - 1 else None)
        if self._is_for_training:
            _report(found, references)
        return [*references]

    def _case(
        self,
        key: str,
        found: FoundVolume,
        reference: Reference | Unusable | None,
        index: DicomIndex,
    ) -> Case:
        files = reference.files if isinstance(reference, Reference) else ()
        options: dict[str, object] = {
            "on_gap": self.on_gap,
            "on_tilt": self.on_tilt,
            "suv": self.suv,
            "trust_positions": self.trust_positions,
        }
        if isinstance(reference, Reference):
            options["on_overlap"] = self.on_overlap
            options["labels"] = {label.name: label.class_id for label in reference.labels.labels}
        return Case(
            key=key,
            # The volume keeps the index's unpacked archive alive for as long as the case may be
            # read.
            read_image=partial(_read, found, index, self.on_tilt, self.suv),
            read_reference=reference,
            group=found.patient,
            series=found.series,
            paths=(*dict.fromkeys(found.series.paths), *(file.path for file in files)),
            reading=json.dumps(options, sort_keys=True),
        )


def _report(found: FoundReferences, references: list[Reference | None]) -> None:
    """Raises an error if references are ambiguous, and logs what is left out or taken as absent."""
    used = [reference for reference in references if reference is not None]
    raise_all(
        [error for reference in used if (error := reference.ambiguity()) is not None],
        where="data.source",
        what="series have several segmentations of one name",
    )
    for item in found.unmatched[:MAX_LISTED]:
        _log.warning("%s is left out: it %s", item.path.name, item.reason)
    if len(found.unmatched) > MAX_LISTED:
        _log.warning("and %d more segmentations", len(found.unmatched) - MAX_LISTED)
    absent = Counter(name for reference in used for name in reference.absent())
    for name, count in sorted(absent.items()):
        _log.warning(
            "%d of %d references have no segment '%s'; it is taken to be absent there",
            count,
            len(used),
            name,
        )


def _read(found: FoundVolume, index: DicomIndex, on_tilt: str, suv: bool) -> Volume:
    del index
    return read_found(found, on_tilt=on_tilt, suv=suv)


def case_keys(index: DicomIndex) -> list[str]:
    """A unique, safe key for each volume of an index, from folder names and short hashes.

    Archives like to name folders after the patient; such names are replaced by a hash.
    """
    bases = [_anonymous(_folder_key(found, index), found) for found in index.volumes]
    counts = Counter(bases)
    keys = []
    for base, found in zip(bases, index.volumes, strict=True):
        if counts[base] == 1:
            keys.append(base)
            continue
        digest = hashlib.sha256(found.series.series_uid.encode()).hexdigest()[:8]
        number = re.search(r"(\d+) of \d+$", found.name)
        stack = re.match(r"stack (\d+) of", found.name)
        suffix = f"_s{int(stack[1]):02d}" if stack else ""
        suffix += (
            f"_{int(number[1]):03d}"
            if number and not (stack and stack.end() > number.start())
            else ""
        )
        keys.append(f"{base}_{digest}{suffix}")
    return _made_unique(keys)


def _folder_key(found: FoundVolume, index: DicomIndex) -> str:
    root = index.files.root
    is_one_file = index.root.is_file() and index.root.name.upper() != "DICOMDIR"
    if is_one_file:
        name = index.root.stem if index.files.unpacked else index.root.name.removesuffix(".dcm")
        return _safe(name)
    folder = found.folder
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
    parts = tuple(re.sub(r"\.zip$", "", part, flags=re.IGNORECASE) for part in parts)
    return _safe("_".join(parts)) if parts else _safe(root.resolve().name)


def _anonymous(key: str, found: FoundVolume) -> str:
    words = set(re.split(r"[\W_]+", key.lower()))
    if not words & found.identifying_words:
        return key
    return f"series_{hashlib.sha256(found.series.series_uid.encode()).hexdigest()[:12]}"


def _safe(name: str) -> str:
    """Letters, digits, dot, dash and underscore; never empty, hidden or over 100 characters."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "case"
    if len(cleaned) > 100:
        cleaned = f"{cleaned[:80]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return cleaned


def _made_unique(keys: list[str]) -> list[str]:
    counts = Counter(keys)
    seen: Counter[str] = Counter()
    unique = []
    for key in keys:
        seen[key] += 1
        unique.append(f"{key}_{seen[key]:03d}" if counts[key] > 1 else key)
    return unique
