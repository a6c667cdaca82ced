"""What one case looks like on its own grid, measured once and kept beside the prepared cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.atomic import write_bytes
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, Reference, class_map, instances_of
from medseg.core.volume import Volume
from medseg.data.check import CaseProblem, examine, image_digest
from medseg.data.source_hash import source_hash

logger = logging.getLogger(__name__)

FORMAT = 3
"""Raised when what is measured changes, so that older files are measured again."""
MAX_EXTENTS = 500
"""Objects per case whose extents are kept, evenly spread over their sizes."""
NUM_SAMPLES = 10_000
"""Foreground voxels drawn per case for the intensity statistics (as nnU-Net does)."""

Colours = Literal["grey", "equal", "colour"]


@dataclass(frozen=True)
class Components:
    """Connected parts of one class, joined through faces, edges and corners."""

    count: int
    smallest_mm3: float
    median_mm3: float
    largest_mm3: float


@dataclass(frozen=True)
class CaseFingerprint:
    """Facts of one case, on its own grid.

    Args:
        key: case key.
        shape: voxels along i, j, k.
        spacing_mm: along i, j, k.
        orientation: axis codes.
        num_channels: image channels.
        class_voxels: number of voxels per class_id.
        intensity: per channel [mean, std, p0.5, p99.5] of the foreground (of all voxels where there
            is none).
        modality: as the source names it; "OT" if unknown.
        components: of each foreground class; None for a class that the case has not.
        value_range: per channel, smallest and largest value of the image.
        colours: "grey" for one channel and for channels of their own, "equal" for a picture whose
            red, green and blue are the same, "colour" for one where they differ.
        image_hash: equal for cases whose images hold the same values.
        num_objects: objects that the reference tells apart; 0 for classes alone.
        object_extents: voxels along i, j, k of some of their boxes, small ones first.
    """

    key: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    num_channels: int
    class_voxels: tuple[int, ...]
    intensity: tuple[tuple[float, ...], ...]
    modality: str = "OT"
    components: tuple[Components | None, ...] = ()
    value_range: tuple[tuple[float, float], ...] = ()
    colours: Colours = "grey"
    image_hash: str = ""
    num_objects: int = 0
    object_extents: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> CaseFingerprint:
        """From what `dataclasses.asdict` and JSON make of it."""
        return cls(
            key=content["key"],
            shape=tuple(content["shape"]),
            spacing_mm=tuple(content["spacing_mm"]),
            orientation=content["orientation"],
            num_channels=content["num_channels"],
            class_voxels=tuple(content["class_voxels"]),
            intensity=tuple(tuple(row) for row in content["intensity"]),
            modality=content["modality"],
            components=tuple(
                None if part is None else Components(**part) for part in content["components"]
            ),
            value_range=tuple((low, high) for low, high in content["value_range"]),
            colours=content["colours"],
            image_hash=content["image_hash"],
            num_objects=content["num_objects"],
            object_extents=tuple((i, j, k) for i, j, k in content["object_extents"]),
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """What is found in a case.

    Args:
        problems: of this case alone.
        facts: None for a case that cannot be used.
        samples: foreground intensities, float32, shape (C, n); empty without facts.
        volume, reference: as read; None where the facts were known already.
    """

    problems: tuple[CaseProblem, ...]
    facts: CaseFingerprint | None
    samples: NDArray[np.float32]
    volume: Volume | None = None
    reference: Reference | None = None


def measure_case(case: Case, labels: LabelSet) -> Measured:
    """Reads and measures a case."""
    examined = examine(case, labels)
    volume, reference = examined.volume, examined.reference
    is_wrong = any(problem.severity == "error" for problem in examined.problems)
    if is_wrong or volume is None or reference is None:
        return Measured(examined.problems, None, np.empty((0, 0), np.float32))
    classes = class_map(reference)
    num_objects, extents = _objects(reference)
    samples = _samples(volume, classes, num_classes=len(labels))
    facts = CaseFingerprint(
        key=case.key,
        shape=volume.geometry.shape,
        spacing_mm=volume.geometry.spacing_mm,
        orientation=volume.geometry.orientation,
        num_channels=volume.num_channels,
        class_voxels=_class_voxels(classes.array, num_classes=len(labels)),
        intensity=statistics(samples),
        modality=volume.modality,
        components=_components(classes, num_classes=len(labels)),
        value_range=tuple((float(c.min()), float(c.max())) for c in volume.array),
        colours=_colours(volume),
        image_hash=image_digest(volume).hex(),
        num_objects=num_objects,
        object_extents=extents,
    )
    return Measured(examined.problems, facts, samples, volume, reference)


def statistics(samples: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    """Mean, standard deviation, percentiles 0.5 and 99.5 of each row."""
    low, high = np.percentile(samples, (0.5, 99.5), axis=1)
    mean, std = samples.mean(axis=1, dtype=np.float64), samples.std(axis=1, dtype=np.float64)
    return tuple(
        tuple(float(value) for value in row) for row in zip(mean, std, low, high, strict=True)
    )


class FactsFolder:
    """Measured cases on disk, one file each, so that an interrupted measurement goes on.

    A file is named by its case's sources and the label set, so it needs no list and is never out of
    date.

    Args:
        folder: is made when something is stored.
        labels: classes that the cases were measured with.
    """

    def __init__(self, folder: Path, labels: LabelSet) -> None:
        self.folder = folder
        self.labels = labels

    def load(self, case: Case) -> Measured | None:
        """What was measured before; None if there is nothing, or nothing whole."""
        if not case.paths:
            return None
        path = self._path(case)
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            content = json.loads(head)
            samples = np.frombuffer(body, "<f4").reshape(content["samples"])
            facts = CaseFingerprint.from_dict({**content["facts"], "key": case.key})
            problems = [
                CaseProblem(**{**problem, "key": case.key}) for problem in content["problems"]
            ]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("case %s: what was measured is damaged in %s", case.key, path)
            return None
        return Measured(tuple(problems), facts, samples)

    def store(self, case: Case, measured: Measured) -> None:
        """Keeps what was measured; cases without files and cases with errors are not kept.

        Raises:
            OutputError: the disk is full or cannot be written to.
        """
        if not case.paths or measured.facts is None:
            return
        head = {
            "facts": asdict(measured.facts),
            "problems": [asdict(problem) for problem in measured.problems],
            "samples": measured.samples.shape,
        }
        body = np.ascontiguousarray(measured.samples, "<f4").tobytes()
        write_bytes(self._path(case), json.dumps(head).encode() + b"\n" + body, durable=False)

    def _path(self, case: Case) -> Path:
        classes = {"classes": len(self.labels), "ignore": self.labels.ignore_id}
        return self.folder / source_hash(case, {"facts": FORMAT, **classes})


def _samples(volume: Volume, reference: LabelMap, *, num_classes: int) -> NDArray[np.float32]:
    foreground = np.flatnonzero((reference.array > 0) & (reference.array < num_classes))
    flat = volume.array.reshape(volume.num_channels, -1)
    candidates = foreground if foreground.size else np.arange(flat.shape[1])
    # An evenly spaced subset needs no random numbers and is the same in every run.
    chosen = candidates[
        np.linspace(0, candidates.size - 1, min(NUM_SAMPLES, candidates.size)).astype(int)
    ]
    return flat[:, chosen].astype(np.float32)


def _class_voxels(array: NDArray[Any], *, num_classes: int) -> tuple[int, ...]:
    counts = np.zeros(num_classes, np.int64)
    for plane in array.transpose(2, 0, 1):  # bincount makes 8 bytes of every voxel
        # Unannotated voxels may be negative.
        counts += np.bincount(plane[plane >= 0], minlength=num_classes)[:num_classes]
    return tuple(int(n) for n in counts)


def _components(reference: LabelMap, *, num_classes: int) -> tuple[Components | None, ...]:
    voxel_mm3 = reference.geometry.voxel_volume_mm3
    found: list[Components | None] = []
    boxes: Sequence[Any] = ndimage.find_objects(reference.array, max_label=num_classes - 1)
    for class_id, box in enumerate(boxes, start=1):
        if box is None:
            found.append(None)
            continue
        parts, count = ndimage.label(
            reference.array[box] == class_id, structure=np.ones((3, 3, 3), bool)
        )
        volumes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * voxel_mm3
        found.append(
            Components(int(count), *(float(f(volumes)) for f in (np.min, np.median, np.max)))
        )
    return tuple(found)


def _objects(reference: Reference) -> tuple[int, tuple[tuple[int, int, int], ...]]:
    """Number of objects, and the extents of some of their boxes."""
    if isinstance(reference, LabelMap):
        return 0, ()
    boxes = instances_of(reference).boxes
    extents = boxes[:, 3:] - boxes[:, :3]
    extents = extents[extents.min(axis=1, initial=1) > 0]
    order = np.lexsort((*extents.T, extents.prod(axis=1)))
    places = np.linspace(0, len(extents) - 1, min(MAX_EXTENTS, len(extents))).astype(int)
    chosen = extents[order[places]].tolist()
    return len(extents), tuple((i, j, k) for i, j, k in chosen)


def _colours(volume: Volume) -> Colours:
    if volume.num_channels != 3 or volume.geometry.shape[2] != 1 or volume.array.dtype.kind != "u":
        return "grey"
    red, green, blue = volume.array
    return "equal" if np.array_equal(red, green) and np.array_equal(red, blue) else "colour"
