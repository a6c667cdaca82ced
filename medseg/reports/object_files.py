"""Where predicted and true objects lie, and how both are read so that they can be compared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.components import components, ignored_voxels, thing_ids
from medseg.core.errors import InputError, LabelError, MedsegError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, PanopticMap, Reference, class_map
from medseg.reports.label_files import LabelFiles, find_predictions, find_references
from medseg.sources.coco import coco_file_in
from medseg.sources.folder import Folder
from medseg.sources.image_files import file_key
from medseg.sources.instance_folders import has_instances, has_object_masks
from medseg.sources.instance_json import read_instance_list
from medseg.sources.instance_maps import OBJECT_LABELS, read_instance_map
from medseg.sources.label_maps import read_label_map, refuse_unknown_values

_log = logging.getLogger(__name__)

Reader = Callable[[], Reference]
Objects = InstanceSet | PanopticMap


@dataclass(frozen=True)
class ObjectFiles:
    """A folder of predictions and the references of the same cases.

    Args:
        labels: classes.
        references, predictions: what reads them, by case.
        reference_paths, prediction_paths: files that hold all objects of a case; of references in
            a data set's folder none are named.
        images: cases by key, where the references lie in a data set's folder.
        instances_from: "components" makes objects of what has classes alone.
        is_dataset: any part of the references may be scored.
    """

    labels: LabelSet
    references: Mapping[str, Reader]
    predictions: Mapping[str, Reader]
    reference_paths: Mapping[str, Path] = field(default_factory=dict)
    prediction_paths: Mapping[str, Path] = field(default_factory=dict)
    images: Mapping[str, Case] = field(default_factory=dict)
    instances_from: str = "reference"
    is_dataset: bool = False

    @property
    def keys(self) -> list[str]:
        """Cases with a reference and a prediction."""
        return [key for key in self.references if key in self.predictions]

    def read(self, key: str) -> tuple[Objects, Objects]:
        """Reference and prediction of a case."""
        return read_pair(
            key, self.references[key], self.predictions[key], self.labels, self.instances_from
        )


def find_object_files(
    predictions: str | Path,
    references: str | Path,
    *,
    labels: LabelSet | None = None,
    instances_from: str = "reference",
) -> ObjectFiles:
    """The maps of both folders, matched by file name.

    Args:
        predictions: folder as predict writes it.
        references: folder of maps with one number per object, or a data set's folder in any layout
            that training reads.
        labels: classes; None takes those of the predictions, else of the data set.
        instances_from: see `ObjectFiles`.

    Raises:
        InputError: a folder is missing or empty, or no file of one has a namesake in the other.
    """
    predicted = find_predictions(predictions)
    maps = {key: path for key, path in predicted.paths.items() if not _is_class_map(key, predicted)}
    found = _references(Path(references).expanduser(), instances_from)
    common = [key for key in found.readers if key in maps]
    if not common:
        raise InputError(
            predicted.folder,
            f"none of its {len(maps)} maps (first: {next(iter(maps), None)}) is named like one of "
            f"the {len(found.readers)} references (first: {next(iter(found.readers), None)})",
            "give prediction and reference of a case the same file name",
            code="E_NO_PAIR",
        )
    return ObjectFiles(
        labels or _first_labels([maps[key] for key in common]) or found.labels or OBJECT_LABELS,
        found.readers,
        {key: _prediction_reader(path, predicted, instances_from) for key, path in maps.items()},
        found.paths,
        maps,
        found.images,
        instances_from,
        found.is_dataset,
    )


def read_pair(
    key: str,
    read_reference: Reader,
    read_prediction: Reader,
    labels: LabelSet,
    instances_from: str,
) -> tuple[Objects, Objects]:
    """Reference and prediction of a case as objects.

    Args:
        key: case key.
        read_reference, read_prediction: what reads them.
        labels: classes.
        instances_from: "components" makes objects of references, and of predictions, that have
            classes alone.

    Raises:
        LabelError: E_NO_INSTANCES, objects are not told apart.
    """
    reference, prediction = (
        _told_apart(
            found,
            labels,
            instances_from if isinstance(found, LabelMap) else "reference",
            where=key,
        )
        for found in (read_reference(), read_prediction())
    )
    return reference, prediction


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
) -> Objects:
    if instances_from == "components":
        classes = LabelMap(class_map(reference).array, reference.geometry, labels)
        _tell_unknown(classes, labels, where=where)
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


def _tell_unknown(classes: LabelMap, labels: LabelSet, *, where: str) -> None:
    """Classes without a label: refused where somebody named the labels, else left out and told.

    Raises:
        LabelError: E_LABEL_VALUES.
    """
    if labels != OBJECT_LABELS:
        refuse_unknown_values(classes.array, labels, path=where)
        return
    unknown = labels.unknown_values(classes.array)
    if unknown:
        _log.warning(
            "%s: holds %s, left out; set labels={background: 0, ...} to score more than 1",
            where,
            ", ".join(f"{value:g}" for value in unknown[:8]),
        )


@dataclass(frozen=True)
class _References:
    readers: dict[str, Reader]
    labels: LabelSet | None
    paths: dict[str, Path] = field(default_factory=dict)
    images: dict[str, Case] = field(default_factory=dict)
    is_dataset: bool = False


def _references(folder: Path, instances_from: str) -> _References:
    if _is_object_dataset(folder):
        source = Folder(str(folder))
        cases = {case.key: case for case in source.cases()}
        readers = {
            key: case.read_reference
            for key, case in cases.items()
            if case.read_reference is not None
        }
        return _References(readers, source.describe().labels, images=cases, is_dataset=True)
    found = find_references(folder)
    if instances_from == "components":
        parts: dict[str, Reader] = {key: _ClassReader(path) for key, path in found.paths.items()}
        return _References(parts, found.labels, found.paths, is_dataset=found.is_dataset)
    paths = {key: path for key, path in found.paths.items() if not _is_class_map(key, found)}
    first = next(iter(paths.values()), None)
    labels = found.labels or (None if first is None else _labels_of(first))
    maps = {key: _map_reader(path, found) for key, path in paths.items()}
    return _References(maps, labels, paths, is_dataset=found.is_dataset)


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


def _first_labels(paths: Sequence[Path]) -> LabelSet | None:
    """Classes of the first of some maps whose list of objects can be read."""
    for path in paths:
        try:
            return _labels_of(path)
        except MedsegError:
            continue  # reading the case says what is wrong with it
    return None
