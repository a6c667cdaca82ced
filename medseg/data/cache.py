"""Preprocessed cases, kept on disk between runs and in memory while there is room."""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import MedsegError, OutputError, raise_all
from medseg.core.free_memory import free_memory
from medseg.core.identity import Case
from medseg.core.object_codes import ObjectCodes, counted, encode, middles
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap
from medseg.data.plan import Plan
from medseg.data.readings import Readings
from medseg.data.source_hash import source_hash
from medseg.transforms.preprocess import preprocess, preprocess_labels, preprocess_numbers

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the content of a cached case changes, so that older caches are not used."""

MAX_LOCATIONS = 5_000
"""Voxels per class kept for foreground sampling."""
MEMORY_SHARE = 0.3
"""Share of the free memory that preprocessed cases may fill; beyond it they are read from disk in
pieces.
"""
ABANDONED_S = 24 * 3600.0
"""Age from which a half-written case is taken for the remains of a killed run."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A labelled case in network space.

    Args:
        key: case key.
        image: float32, shape (C, I, J, K).
        labels: shape (I, J, K); int16 classes, or int32 codes of objects.
        spacing_mm: along the axes of the arrays.
        locations: per foreground class, indices of at most MAX_LOCATIONS of its voxels, shape (n,
            3); one voxel of each object where there are objects.
        codes: what the codes of objects mean; None for classes.
    """

    key: str
    image: NDArray[np.float32]
    labels: NDArray[np.signedinteger]
    spacing_mm: tuple[float, float, float]
    locations: tuple[NDArray[np.int32], ...]
    codes: ObjectCodes | None = None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.labels.nbytes


class CaseCache:
    """Prepares cases by a plan, once.

    Args:
        folder: where prepared cases are stored; one folder per plan and case content is made below
            it. Cases without files (synthetic ones) are kept in memory alone.
        plan: finished plan.
        num_classes: classes of the label set, background included.
    """

    def __init__(self, folder: Path, *, plan: Plan, num_classes: int) -> None:
        self.folder = folder
        self.plan = plan
        self.num_classes = num_classes
        self._in_memory: dict[str, PreparedCase] = {}
        self._free = free_memory() * MEMORY_SHARE

    def prepare(
        self,
        cases: Sequence[Case],
        *,
        num_threads: int = 4,
        on_progress: Callable[[], None] | None = None,
        readings: Readings | None = None,
    ) -> None:
        """Prepares all cases that are not yet stored; errors of all cases are reported together.

        Args:
            cases: labelled cases.
            num_threads: cases prepared at once.
            on_progress: called after each case.
            readings: images that were read already.

        Raises:
            OutputError: the disk is full or cannot be written to; no half-written case is left.
        """

        def one(case: Case) -> MedsegError | None:
            try:
                self.get(case, readings=readings)
            except MedsegError as error:
                return type(error)(
                    f"case {case.key}, {error.where}", error.what, error.remedy, code=error.code
                )
            finally:
                if on_progress:
                    on_progress()
            return None

        _sweep(self.folder)
        with ThreadPoolExecutor(num_threads) as pool:
            outcomes = list(pool.map(one, cases))
        raise_all(
            [error for error in outcomes if error is not None],
            where="data.source",
            what="cases cannot be prepared",
        )

    def get(self, case: Case, *, readings: Readings | None = None) -> PreparedCase:
        """The prepared case: from memory, from disk, or made now."""
        if case.key in self._in_memory:
            return self._in_memory[case.key]
        if case.paths:
            folder = self.folder / self._digest(case)
            prepared = _load(case.key, folder)
            if prepared is None:
                prepared = self._make(case, readings)
                _store(prepared, folder)
                if prepared.nbytes >= self._free:
                    prepared = self._read_back(case.key, folder)
        else:
            prepared = self._make(case, readings)
        if prepared.nbytes < self._free:
            self._free -= prepared.nbytes
            image, labels = np.array(prepared.image), np.array(prepared.labels)
            prepared = replace(prepared, image=image, labels=labels)
            self._in_memory[case.key] = prepared
        return prepared

    def _read_back(self, key: str, folder: Path) -> PreparedCase:
        prepared = _load(key, folder)
        if prepared is None:
            raise OutputError(
                folder,
                "a prepared case cannot be read back",
                "check the disk, or set paths.cache=<folder>",
            )
        return prepared

    def _make(self, case: Case, readings: Readings | None) -> PreparedCase:
        assert case.read_reference is not None
        kept = readings.take(case.key) if readings is not None else None
        image, reference = kept or (case.read_image(), case.read_reference())
        ready = preprocess(image, self.plan)
        codes: ObjectCodes | None = None
        labels: NDArray[np.signedinteger]
        classes: NDArray[np.signedinteger]
        if isinstance(reference, LabelMap):
            labels = preprocess_labels(reference, self.plan).astype(np.int16)
            classes = labels
        else:
            labels, codes = self._codes(reference, where=case.key)
            classes = codes.classes[labels]
        locations = [_some_voxels(classes == class_id) for class_id in range(1, self.num_classes)]
        if codes is not None:
            _prefer_objects(locations, labels, codes)
        return PreparedCase(
            case.key, ready.array, labels, ready.geometry.spacing_mm, tuple(locations), codes
        )

    def _codes(
        self, reference: InstanceSet | PanopticMap, *, where: str
    ) -> tuple[NDArray[np.int32], ObjectCodes]:
        assert reference.labels is not None, "ReferenceRule gives the labels"
        codes, table = encode(reference, reference.labels, where=where)
        resampled = preprocess_numbers(LabelMap(codes, reference.geometry), self.plan)
        return resampled.astype(np.int32), counted(resampled.astype(np.int32), table)

    def _digest(self, case: Case) -> str:
        """Name of a case's folder: a hash of what its content depends on."""
        return source_hash(
            case,
            {
                "format": FORMAT,
                "dims": self.plan.spatial_dims,
                "orientation": self.plan.orientation,
                "spacing_mm": list(self.plan.spacing_mm or ()),
                "normalisation": [dict(rule) for rule in self.plan.normalisation or ()],
                "colour": self.plan.colour,
                "num_classes": self.num_classes,
            },
        )


def _some_voxels(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Indices of at most MAX_LOCATIONS voxels of a mask, evenly spread over its order."""
    voxels = np.flatnonzero(mask)
    count = min(MAX_LOCATIONS, len(voxels))
    chosen = voxels[np.linspace(0, len(voxels) - 1, count).astype(int)]
    return np.stack(np.unravel_index(chosen, mask.shape), axis=1).astype(np.int32)


def _prefer_objects(
    locations: list[NDArray[np.int32]], labels: NDArray[np.signedinteger], codes: ObjectCodes
) -> None:
    """Replaces the voxels of thing classes by one of each object, so that small objects are drawn
    as often as large ones.
    """
    voxels = middles(labels, codes).astype(np.int32)
    for class_id in np.unique(codes.class_ids).tolist():
        own = voxels[codes.class_ids == class_id]
        chosen = np.linspace(0, len(own) - 1, min(MAX_LOCATIONS, len(own))).astype(int)
        locations[class_id - 1] = own[chosen]


def _store(prepared: PreparedCase, folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        np.save(partial / "image.npy", prepared.image)
        np.save(partial / "labels.npy", prepared.labels)
        np.savez(partial / "locations.npz", *prepared.locations)
        if prepared.codes is not None:
            np.savez(partial / "codes.npz", **prepared.codes.to_arrays())  # type: ignore[arg-type]
        facts = {"spacing_mm": prepared.spacing_mm, "has_codes": prepared.codes is not None}
        (partial / "facts.json").write_text(json.dumps(facts))
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.is_dir():
            return  # another run stored the same case first
        raise OutputError(
            folder.parent,
            f"a prepared case cannot be stored: {error.strerror or error}",
            "free some room or set paths.cache=<folder>",
        ) from error


def _load(key: str, folder: Path) -> PreparedCase | None:
    """What is stored; None if there is nothing, or nothing whole (after a power cut, say)."""
    if not folder.is_dir():
        return None
    try:
        facts = json.loads((folder / "facts.json").read_text())
        codes = None
        if facts.get("has_codes"):
            with np.load(folder / "codes.npz") as stored:
                codes = ObjectCodes.from_arrays(stored)
        with np.load(folder / "locations.npz") as stored:
            locations = tuple(stored[f"arr_{n}"] for n in range(len(stored.files)))
        # Mapped pages are copied where they are written to, so the file stays as it is.
        return PreparedCase(
            key,
            np.load(folder / "image.npy", mmap_mode="c"),
            np.load(folder / "labels.npy", mmap_mode="c"),
            tuple(facts["spacing_mm"]),
            locations,
            codes,
        )
    except (FileNotFoundError, ValueError, KeyError, EOFError, BadZipFile):
        logger.warning("case %s: the prepared case in %s is damaged and made anew", key, folder)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _sweep(folder: Path) -> None:
    """Removes what a killed run left half-written more than a day ago."""
    for partial in folder.glob(".*.*"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(partial, ignore_errors=True)
