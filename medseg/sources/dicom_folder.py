"""A folder, ZIP archive or DICOMDIR of DICOM images as cases, one per volume."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from functools import partial
from pathlib import Path

from medseg.core.errors import InputError, raise_all
from medseg.core.identity import Case
from medseg.core.protocols import SourceDescription
from medseg.core.volume import Volume
from medseg.dicom.headers import DicomIndex, FoundVolume, index_folder
from medseg.dicom.volumes import read_found

_log = logging.getLogger(__name__)


class DicomFolder:
    """Every DICOM volume below a folder; what cannot be read rightly is refused and logged.

    A case is named after the folders its files lie in, below `folder`. Where one folder holds
    several volumes, a short hash of the series (and a number for its phases) is added. Names never
    come from DICOM attributes.

    Args:
        folder: folder, file, ZIP archive or DICOMDIR.
        on_gap: "refuse" series with missing slices, or "resample" to interpolate whole missing
            slices.
        on_tilt: "resample" leaning stacks (gantry tilt) onto an orthogonal grid, "keep" or "refuse"
            them.
        suv: give PET series in Bq/ml as standardised uptake values by body weight.
        trust_positions: take positions as comparable although FrameOfReferenceUID differs within a
            series; for data whose anonymiser is known to have renumbered it.
    """

    def __init__(
        self,
        folder: str,
        *,
        on_gap: str = "refuse",
        on_tilt: str = "resample",
        suv: bool = False,
        trust_positions: bool = False,
    ) -> None:
        for name, value, allowed in (
            ("on_gap", on_gap, ("refuse", "resample")),
            ("on_tilt", on_tilt, ("resample", "keep", "refuse")),
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

    def cases(self) -> list[Case]:
        """One case per volume, sorted by key; headers are read, pixels are not.

        Raises:
            InputError: there is no volume that can be read.
        """
        index = index_folder(self.folder, on_gap=self.on_gap, trust_positions=self.trust_positions)
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
            self._case(key, found, index) for key, found in zip(keys, index.volumes, strict=True)
        ]
        return sorted(cases, key=lambda case: case.key)

    def describe(self) -> SourceDescription:
        return SourceDescription()

    def _case(self, key: str, found: FoundVolume, index: DicomIndex) -> Case:
        return Case(
            key=key,
            # The volume keeps the index's unpacked archive alive for as long as the case may be
            # read.
            read_image=partial(_read, found, index, self.on_tilt, self.suv),
            group=found.patient,
            series=found.series,
            paths=tuple(dict.fromkeys(found.series.paths)),
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
