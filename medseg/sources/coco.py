"""2D images whose objects are listed in a COCO file: polygons or run lengths, one entry each.

Source: Lin et al. 2014, ECCV, and the format's own description.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError, LabelError
from medseg.core.identity import Case
from medseg.core.labels import Label, LabelSet
from medseg.core.protocols import SourceDescription
from medseg.core.run_lengths import read_runs
from medseg.core.segmentation import InstanceSet
from medseg.dicom.contours import fill_contour
from medseg.sources.file_cases import sorted_cases
from medseg.sources.image_files import file_key, read_geometry
from medseg.sources.input_folder import existing_path
from medseg.sources.instance_folders import object_case
from medseg.sources.instance_json import read_json
from medseg.sources.read_rules import MAX_BYTES, ReadRules


@dataclass(frozen=True)
class CocoObject:
    """One annotation.

    Args:
        name: what messages call it.
        class_id: 1, 2, ... in the order of the categories' numbers.
        segmentation: polygons or run lengths, as in the file.
        is_crowd: a region of many objects that nobody has told apart.
    """

    name: str
    class_id: int
    segmentation: Any
    is_crowd: bool


class CocoFile:
    """Cases of a COCO file.

    Regions marked as a crowd are taken as not annotated.

    Args:
        path: the JSON file, or a folder that holds one.
        images: folder that its file names start from; None takes the file's own, or `images` in it.
        max_bytes: largest decoded image in bytes.
    """

    def __init__(
        self, path: str | None, *, images: str | None = None, max_bytes: int = MAX_BYTES
    ) -> None:
        self.path = path
        self.images = images
        self.rules = ReadRules(False, max_bytes)

    def cases(self) -> list[Case]:
        path, content = self._content()
        folder = self._image_folder(path)
        class_of = {number: n for n, (number, _) in enumerate(_categories(content, path), start=1)}
        objects = _objects(content, path, class_of)
        cases = []
        for image in _entries(content, "images", path):
            name, number = image.get("file_name"), image.get("id")
            if not isinstance(name, str) or not isinstance(number, int):
                raise _refused(path, f"has an image without file_name or id: {image}")
            file = (folder / name).resolve()
            if not file.is_relative_to(folder.resolve()):
                raise _refused(path, f"names the image '{name}', which lies outside {folder}")
            shape = (image.get("height"), image.get("width"))
            read = partial(
                read_coco_objects,
                tuple(objects.get(number, ())),
                image=folder / name,
                shape=shape,
                rules=self.rules,
            )
            case = object_case(
                file_key(Path(name)), (folder / name,), read=read, files=[path], rules=self.rules
            )
            cases.append(replace(case, reading=f"coco {number}"))
        if not cases:
            raise InputError(path, "lists no images", "export it again", code="E_NO_IMAGES")
        return sorted_cases(cases, where=path)

    def describe(self) -> SourceDescription:
        path, content = self._content()
        labels = [Label("background", 0)]
        for n, (_, name) in enumerate(_categories(content, path), start=1):
            labels.append(Label(name, n, is_thing=True))
        return SourceDescription(labels=LabelSet(tuple(labels)) if len(labels) > 1 else None)

    def _content(self) -> tuple[Path, Mapping[str, Any]]:
        path = existing_path(self.path)
        if path.is_dir():
            found = coco_file_in(path)
            if found is None:
                raise InputError(
                    path, "holds no COCO file", "give the JSON file itself", code="E_COCO"
                )
            path = found
        content = read_json(path)
        if not _is_coco(content):
            raise _refused(path, "has not the lists images, annotations and categories")
        return path, content

    def _image_folder(self, path: Path) -> Path:
        if self.images is not None:
            return existing_path(self.images)
        beside = path.parent / "images"
        return beside if beside.is_dir() else path.parent


def coco_file_in(folder: Path) -> Path | None:
    """The one JSON file in a folder that is a COCO file; None unless there is exactly one."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            head = path.open("rb").read(4096)
        except OSError:
            continue
        # Most JSON files beside images are something else, and may be large.
        if any(
            word in head for word in (b'"images"', b'"annotations"', b'"categories"', b'"info"')
        ):
            try:
                if _is_coco(read_json(path)):
                    found.append(path)
            except InputError:
                continue
    return found[0] if len(found) == 1 else None


def read_coco_objects(
    objects: Sequence[CocoObject],
    *,
    image: Path,
    shape: tuple[Any, Any],
    rules: ReadRules | None = None,
) -> InstanceSet:
    """The objects of one image; those without a pixel are left out.

    Args:
        objects: its annotations.
        image: its file, which gives the grid.
        shape: rows and columns that the COCO file says.
        rules: what to accept of the file.

    Raises:
        LabelError: E_COCO, the image has another size, or an annotation is no mask;
            E_RUN_LENGTHS.
    """
    geometry = read_geometry(image, rules=rules)
    columns, rows = geometry.shape[:2]
    if shape != (rows, columns):
        raise LabelError(
            image,
            f"has {rows} rows and {columns} columns, its COCO file says {shape[0]} and {shape[1]}",
            "pair the annotations with the images they were drawn on",
            code="E_COCO",
        )
    ignored = np.zeros((rows, columns), np.bool_)
    masks: list[tuple[Sequence[int], NDArray[np.bool_]]] = []
    classes = []
    for entry in objects:
        mask = _mask(entry, (rows, columns))
        if entry.is_crowd:
            ignored |= mask
        elif mask.any():
            inside_rows, inside_columns = (
                np.nonzero(mask.any(axis=1))[0],
                np.nonzero(mask.any(axis=0))[0],
            )
            r, c = int(inside_rows[0]), int(inside_columns[0])
            piece = mask[r : int(inside_rows[-1]) + 1, c : int(inside_columns[-1]) + 1]
            # Volumes count columns first.
            masks.append(((c, r, 0), piece.T[..., None]))
            classes.append(entry.class_id)
    return InstanceSet.from_masks(
        masks,
        geometry,
        class_ids=np.array(classes, int),
        ignored=ignored.T[..., None] if ignored.any() else None,
    )


def _mask(entry: CocoObject, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of an annotation, shape (rows, columns); a pixel counts if its centre is inside."""
    segmentation = entry.segmentation
    if isinstance(segmentation, Mapping):
        return read_runs(segmentation, shape, where=entry.name)
    mask = np.zeros(shape, np.bool_)
    if not isinstance(segmentation, list) or not segmentation:
        raise LabelError(
            entry.name,
            "has no mask (neither polygons nor run lengths)",
            "export masks; boxes alone do not teach outlines",
            code="E_COCO",
        )
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise _bad_polygon(entry) from error
        if len(points) < 3 or not np.isfinite(points).all():
            raise _bad_polygon(entry)
        # COCO counts x, y from the corner of the first pixel, whose centre is at 0.5.
        mask |= fill_contour(points[:, ::-1] - 0.5, shape)
    return mask


def _objects(
    content: Mapping[str, Any], path: Path, class_of: Mapping[int, int]
) -> dict[int, list[CocoObject]]:
    """Annotations by the number of their image."""
    found: dict[int, list[CocoObject]] = defaultdict(list)
    for n, entry in enumerate(_entries(content, "annotations", path)):
        name = f"{path}, annotation {entry.get('id', n)}"
        category, image = entry.get("category_id"), entry.get("image_id")
        if not isinstance(category, int) or category not in class_of or not isinstance(image, int):
            raise _refused(
                path, f"annotation {entry.get('id', n)} has the category {category} and the image "
                f"{image}, which are not listed"
            )  # fmt: skip
        found[image].append(
            CocoObject(
                name, class_of[category], entry.get("segmentation"), bool(entry.get("iscrowd", 0))
            )
        )
    return found


def _categories(content: Mapping[str, Any], path: Path) -> list[tuple[int, str]]:
    found = []
    for entry in _entries(content, "categories", path):
        number = entry.get("id")
        if not isinstance(number, int):
            raise _refused(path, f"has a category without a number: {entry}")
        found.append((number, str(entry.get("name", f"category_{number}"))))
    return sorted(found)


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[Mapping[str, Any]]:
    entries = content[key]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise _refused(path, f"has something else than objects in its list {key}")
    return list(entries)


def _is_coco(content: Any) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def _bad_polygon(entry: CocoObject) -> LabelError:
    return LabelError(
        entry.name,
        "has a polygon that is no list of at least three x, y pairs",
        "export the annotations again",
        code="E_COCO",
    )


def _refused(path: Path, what: str) -> LabelError:
    return LabelError(path, what, "export the annotations again", code="E_COCO")
