"""Scores objects against references: cases in memory, or two folders of maps of objects.

Numbers come from metrics/; tables and files of the result are in object_tables.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.components import components, ignored_voxels, thing_ids
from medseg.core.errors import ConfigError, InputError, LabelError, MedsegError
from medseg.core.labels import LabelSet
from medseg.core.segmentation import (
    InstanceSet,
    LabelMap,
    PanopticMap,
    Reference,
    class_map,
    instances_of,
)
from medseg.metrics.object_pairs import ObjectPairs, compare_objects
from medseg.metrics.panoptic import panoptic_pairs
from medseg.reports.evaluation import CaseProblem, problem_of
from medseg.reports.label_files import LabelFiles, find_predictions, find_references
from medseg.sources.coco import coco_file_in
from medseg.sources.folder import Folder
from medseg.sources.image_files import file_key
from medseg.sources.instance_folders import has_instances, has_object_masks
from medseg.sources.instance_json import read_instance_list
from medseg.sources.instance_maps import OBJECT_LABELS, read_instance_map
from medseg.sources.label_maps import read_label_map

logger = logging.getLogger(__name__)

Reader = Callable[[], Reference]


@dataclass(frozen=True)
class ObjectSettings:
    """What is counted.

    Args:
        min_score: objects of a lower score are left out of hits, sensitivity, F1 and PQ; AP and
            FROC go over all scores.
        lesion_iou: least IoU of a found lesion, for FROC.
        size_edges_mm3: volumes at which sizes are divided; None divides the reference objects of
            each class into thirds.

    Raises:
        ConfigError: a value is out of range.
    """

    min_score: float = 0.5
    lesion_iou: float = 0.1
    size_edges_mm3: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError("objects.min_score", f"is {self.min_score:g}", "use 0 to 1")
        if not 0 < self.lesion_iou <= 1:
            raise ConfigError("objects.lesion_iou", f"is {self.lesion_iou:g}", "use above 0 to 1")
        edges = list(self.size_edges_mm3 or ())
        if edges != sorted(set(edges)) or any(edge <= 0 for edge in edges):
            raise ConfigError(
                "objects.size_edges_mm3", f"is {edges}", "give rising positive volumes"
            )


@dataclass(frozen=True)
class ObjectEvaluation:
    """Overlaps of all cases, from which every score is computed.

    Args:
        labels: classes.
        things: by class number, one entry per case.
        panoptic: the same for all foreground classes; empty unless stuff was predicted.
        problems: cases that could not be scored.
        missing: references without a prediction.
        unmatched: predictions without a reference.
        settings: what is counted.
    """

    labels: LabelSet
    things: dict[int, list[ObjectPairs]]
    panoptic: dict[int, list[ObjectPairs]] = field(default_factory=dict)
    problems: tuple[CaseProblem, ...] = ()
    missing: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    settings: ObjectSettings = field(default_factory=ObjectSettings)

    @property
    def is_complete(self) -> bool:
        """True if every reference that was to be scored was."""
        return not self.problems and not self.missing

    @property
    def num_cases(self) -> int:
        return max((len(cases) for cases in self.things.values()), default=0)


def score_objects(
    pairs: Iterable[tuple[str, Reader, Reader]],
    labels: LabelSet,
    *,
    settings: ObjectSettings | None = None,
    instances_from: str = "reference",
    on_progress: Callable[[], object] | None = None,
) -> ObjectEvaluation:
    """Compares cases one by one; one that fails is noted and the others go on.

    Args:
        pairs: key, and functions that read reference and prediction.
        labels: classes; those marked as things are counted, all where none is marked.
        settings: what is counted.
        instances_from: "components" makes objects of references, and of predictions, that have
            classes alone.
        on_progress: called after each case.
    """
    class_ids = thing_ids(labels)
    things: dict[int, list[ObjectPairs]] = {class_id: [] for class_id in class_ids}
    panoptic: dict[int, list[ObjectPairs]] = {}
    problems = []
    for key, read_reference, read_prediction in pairs:
        try:
            reference = _told_apart(read_reference(), labels, instances_from, where=key)
            found = read_prediction()
            rule = instances_from if isinstance(found, LabelMap) else "reference"
            prediction = _told_apart(found, labels, rule, where=key)
            of_things = compare_objects(
                instances_of(reference), instances_of(prediction), class_ids=class_ids, case=key
            )
            of_all = []
            if isinstance(reference, PanopticMap) and isinstance(prediction, PanopticMap):
                of_all = panoptic_pairs(reference, prediction, labels=labels, case=key)
        except Exception as error:  # one case must not end the others
            problems.append(problem_of(key, error))
            logger.warning("%s is not scored: %s", key, problems[-1].message)
        else:
            for pairs_of_class in of_things:
                things[pairs_of_class.class_id].append(pairs_of_class)
            for pairs_of_class in of_all:
                panoptic.setdefault(pairs_of_class.class_id, []).append(pairs_of_class)
        if on_progress is not None:
            on_progress()
    return ObjectEvaluation(
        labels, things, panoptic, tuple(problems), settings=settings or ObjectSettings()
    )


def has_objects(folder: str | Path) -> bool:
    """True if a folder of predictions holds maps of objects, told by the lists beside them."""
    root = Path(folder).expanduser()
    for path in sorted(root.glob("*.json")) if root.is_dir() else []:
        try:
            if read_instance_list(path) is not None:
                return True
        except MedsegError:
            return True  # reading the case says what is wrong with it
    return False


def evaluate_object_folders(
    predictions: str | Path,
    references: str | Path,
    *,
    labels: LabelSet | None = None,
    settings: ObjectSettings | None = None,
    instances_from: str = "reference",
    allow_missing: bool = False,
    on_start: Callable[[int], object] | None = None,
    on_progress: Callable[[], object] | None = None,
) -> ObjectEvaluation:
    """Scores the objects of one folder against those of another, matched by file name.

    Args:
        predictions: folder as predict writes it.
        references: folder of maps with one number per object, or a data set's folder in any layout
            that training reads.
        labels: classes; None takes those of the predictions, else of the data set.
        settings, instances_from: see `score_objects`.
        allow_missing: references without a prediction are no shortcoming.
        on_start: called with the number of cases.
        on_progress: called after each case.

    Raises:
        InputError: a folder is missing or empty, or no file of one has a namesake in the other.
    """
    predicted = find_predictions(predictions)
    maps = {key: path for key, path in predicted.paths.items() if not _is_class_map(key, predicted)}
    referred, known, is_dataset = _references(Path(references).expanduser(), instances_from)
    keys = [key for key in referred if key in maps]
    if not keys:
        raise InputError(
            predicted.folder,
            f"none of its {len(maps)} maps (first: {next(iter(maps), None)}) is named like one of "
            f"the {len(referred)} references (first: {next(iter(referred), None)})",
            "give prediction and reference of a case the same file name",
            code="E_NO_PAIR",
        )
    if on_start is not None:
        on_start(len(keys))
    chosen = labels or _labels_of(maps[keys[0]]) or known or OBJECT_LABELS
    evaluation = score_objects(
        (
            (key, referred[key], _prediction_reader(maps[key], predicted, instances_from))
            for key in keys
        ),
        chosen,
        settings=settings,
        instances_from=instances_from,
        on_progress=on_progress,
    )
    tolerates = allow_missing or is_dataset
    return ObjectEvaluation(
        chosen,
        evaluation.things,
        evaluation.panoptic,
        evaluation.problems,
        () if tolerates else tuple(key for key in referred if key not in maps),
        tuple(key for key in maps if key not in referred),
        evaluation.settings,
    )


def reference_keys(folder: str | Path) -> list[str]:
    """Keys of the cases that a folder of references, or a data set's folder, has references of."""
    root = Path(folder).expanduser()
    if _is_object_dataset(root):
        return [case.key for case in Folder(str(root)).cases() if case.read_reference is not None]
    return list(find_references(root).paths)


def _is_object_dataset(folder: Path) -> bool:
    return folder.is_dir() and (
        has_instances(folder) or has_object_masks(folder) or coco_file_in(folder) is not None
    )


def _told_apart(
    reference: Reference, labels: LabelSet, instances_from: str, *, where: str
) -> InstanceSet | PanopticMap:
    if instances_from == "components":
        classes = LabelMap(class_map(reference).array, reference.geometry, labels)
        instances = components(classes, thing_ids(labels))
        return PanopticMap(classes, instances)
    if isinstance(reference, LabelMap):
        raise LabelError(
            where,
            "has a class for each voxel, but does not tell objects apart",
            "set instances_from=components, or give maps with one number per object",
            code="E_NO_INSTANCES",
        )
    if isinstance(reference, PanopticMap) and reference.instances.ignored is None:
        classes = LabelMap(reference.label_map.array, reference.geometry, labels)
        ignored = ignored_voxels(classes)
        if ignored is not None:
            things = reference.instances
            return PanopticMap(
                classes,
                InstanceSet(
                    things.layers, things.geometry, things.class_ids, things.scores, labels, ignored
                ),
            )
    return reference


def _references(
    folder: Path, instances_from: str
) -> tuple[dict[str, Reader], LabelSet | None, bool]:
    """Reader of each reference, the labels if they are known, and whether it is a data set."""
    if _is_object_dataset(folder):
        source = Folder(str(folder))
        readers = {
            case.key: case.read_reference
            for case in source.cases()
            if case.read_reference is not None
        }
        return readers, source.describe().labels, True
    found = find_references(folder)
    if instances_from == "components":
        return (
            {key: _ClassReader(path) for key, path in found.paths.items()},
            found.labels,
            found.is_dataset,
        )
    paths = {key: path for key, path in found.paths.items() if not _is_class_map(key, found)}
    readers = {key: _map_reader(path, found) for key, path in paths.items()}
    first = next(iter(paths.values()), None)
    labels = found.labels or (None if first is None else _labels_of(first))
    return readers, labels, found.is_dataset


@dataclass(frozen=True)
class _ClassReader:
    path: Path

    def __call__(self) -> Reference:
        return read_label_map(self.path, None)


@dataclass(frozen=True)
class _MapReader:
    path: Path
    classes: Path | None

    def __call__(self) -> Reference:
        return read_instance_map(self.path, classes=self.classes)


def _prediction_reader(path: Path, files: LabelFiles, instances_from: str) -> Reader:
    """Of objects; of classes where no list of objects lies beside a map whose parts are wanted."""
    if instances_from == "components" and _labels_of(path) is None:
        return _ClassReader(path)
    return _map_reader(path, files)


def _map_reader(path: Path, files: LabelFiles) -> Reader:
    return _MapReader(path, files.paths.get(f"{file_key(path)}_classes"))


def _is_class_map(key: str, files: LabelFiles) -> bool:
    """True for the `<case>_classes` beside a map of objects."""
    base = key.removesuffix("_classes")
    return base != key and base in files.paths


def _labels_of(path: Path) -> LabelSet | None:
    listed = read_instance_list(path.with_name(f"{file_key(path)}.json"))
    return None if listed is None else listed.labels
