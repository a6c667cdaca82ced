"""Folders whose references number their objects, or have a file for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from medseg.core.errors import InputError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import SourceDescription
from medseg.core.segmentation import Reference
from medseg.sources.file_cases import file_case, sorted_cases
from medseg.sources.image_files import file_key, find_files, image_files, read_geometry
from medseg.sources.input_folder import existing_folder
from medseg.sources.instance_json import read_instance_list
from medseg.sources.instance_maps import OBJECT_LABELS, read_instance_map, read_object_masks
from medseg.sources.pairing import group_images
from medseg.sources.read_rules import MAX_BYTES, ReadRules

IMAGES, INSTANCES, LABELS, MASKS = "images", "instances", "labels", "masks"


class InstanceFolder:
    """Images with maps of their objects: images/a.png with instances/a.png, for each case `a`.

    Args:
        folder: holds `images` and `instances`, and `labels` where classes are to come from label
            maps (for panoptic segmentation, say).
        num_channels: if above 1, `a_0000`, `a_0001`, ... are the channels of the case `a`.
        allow_unknown_orientation: read files without orientation as if their axes were R, A, S.
        max_bytes: largest decoded image in bytes.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        num_channels: int | None = None,
        allow_unknown_orientation: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder = folder
        self.num_channels = num_channels
        self.rules = ReadRules(allow_unknown_orientation, max_bytes)

    def cases(self) -> list[Case]:
        folder = existing_folder(self.folder)
        num_channels = self.num_channels if self.num_channels and self.num_channels > 1 else None
        images = image_files(find_files(folder / IMAGES))
        if not images:
            raise InputError(
                folder / IMAGES, "holds no image", "put the images there", code="E_NO_IMAGES"
            )
        maps, classes = by_key(folder / INSTANCES), by_key(folder / LABELS)
        cases = []
        for group in group_images(images, folder / IMAGES, num_channels=num_channels):
            path = maps.get(group.key)
            files = [] if path is None else [path, *_beside(path)]
            read = None
            if path is not None:
                if group.key in classes:
                    files.append(classes[group.key])
                read = partial(
                    _read_map, path, group.images[0], classes.get(group.key), rules=self.rules
                )
            cases.append(
                object_case(group.key, group.images, read=read, files=files, rules=self.rules)
            )
        return sorted_cases(cases, where=folder)

    def describe(self) -> SourceDescription:
        folder = existing_folder(self.folder)
        maps = by_key(folder / INSTANCES)
        keys = {
            group.key
            for group in group_images(
                image_files(find_files(folder / IMAGES)),
                folder / IMAGES,
                num_channels=self.num_channels,
            )
        }
        orphans = tuple(
            str(path.relative_to(folder)) for key, path in maps.items() if key not in keys
        )
        return SourceDescription(labels=_labels(folder, maps), orphan_labels=orphans)


class ObjectMaskFolder:
    """One folder per case with its image and a mask of each object: a/images/a.png, a/masks/*.png.

    The layout of the Data Science Bowl 2018. Masks may overlap; all objects are of one class.

    Args:
        folder: holds the folders of the cases.
        allow_unknown_orientation: read files without orientation as if their axes were R, A, S.
        max_bytes: largest decoded image in bytes.
    """

    def __init__(
        self,
        folder: str | None,
        *,
        allow_unknown_orientation: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.folder = folder
        self.rules = ReadRules(allow_unknown_orientation, max_bytes)

    def cases(self) -> list[Case]:
        folder = existing_folder(self.folder)
        cases = []
        for place in sorted(path for path in folder.iterdir() if (path / IMAGES).is_dir()):
            images = image_files(find_files(place / IMAGES))
            if len(images) != 1:
                raise InputError(
                    place / IMAGES,
                    f"holds {len(images)} images, the folder of a case has one",
                    "keep one image in each",
                    code="E_NO_IMAGES" if not images else "E_KEY_COLLISION",
                )
            masks = image_files(find_files(place / MASKS)) if (place / MASKS).is_dir() else None
            read = None
            if masks is not None:
                read = partial(read_object_masks, tuple(masks), image=images[0], rules=self.rules)
            cases.append(
                object_case(
                    place.name, tuple(images), read=read, files=masks or [], rules=self.rules
                )
            )
        if not cases:
            raise InputError(
                folder,
                "holds no folder with images/ in it",
                "give the folder that holds those of the cases",
                code="E_NO_IMAGES",
            )
        return sorted_cases(cases, where=folder)

    def describe(self) -> SourceDescription:
        existing_folder(self.folder)
        return SourceDescription(labels=OBJECT_LABELS)


def has_instances(folder: Path) -> bool:
    """True if a folder holds images/ and instances/."""
    return (folder / IMAGES).is_dir() and (folder / INSTANCES).is_dir()


def has_object_masks(folder: Path) -> bool:
    """True if every folder in it has images/ with one image, and masks/ with other names.

    Masks under the image's own name are label maps.
    """
    places = [path for path in folder.iterdir() if path.is_dir() and path.name[:1] != "."]
    if not places or not all((place / IMAGES).is_dir() for place in places):
        return False
    is_found = False
    for place in places:
        images = image_files(find_files(place / IMAGES))
        masks = by_key(place / MASKS)
        if len(images) != 1 or file_key(images[0]) in masks:
            return False
        is_found = is_found or bool(masks)
    return is_found


def object_case(
    key: str,
    images: tuple[Path, ...],
    *,
    read: Callable[[], Reference] | None,
    files: list[Path],
    rules: ReadRules,
    modality: str = "OT",
) -> Case:
    """A case of image files whose reference is read by a function from the given files."""
    case = file_case(key, images, modality=modality, rules=rules)
    return Case(case.key, case.read_image, read, paths=(*images, *files))


def by_key(folder: Path) -> dict[str, Path]:
    """Image files by the name of their case; empty if there is no such folder.

    Raises:
        InputError: E_KEY_COLLISION, two files have one name.
    """
    found: dict[str, Path] = {}
    for path in image_files(find_files(folder)) if folder.is_dir() else []:
        key = file_key(path)
        if key in found:
            raise InputError(
                folder,
                f"{found[key].name} and {path.name} are both of the case {key}",
                "keep one of them",
                code="E_KEY_COLLISION",
            )
        found[key] = path
    return found


def _read_map(path: Path, image: Path, classes: Path | None, *, rules: ReadRules) -> Reference:
    geometry: Geometry = read_geometry(image, rules=rules)
    return read_instance_map(path, geometry=geometry, classes=classes, rules=rules)


def _beside(path: Path) -> list[Path]:
    """The list of objects of a map, if there is one."""
    listed = path.with_name(f"{file_key(path)}.json")
    return [listed] if listed.is_file() else []


def _labels(folder: Path, maps: dict[str, Path]) -> LabelSet | None:
    """As the first list says; one class where there is none; unknown beside label maps."""
    for path in maps.values():
        for beside in _beside(path):
            listed = read_instance_list(beside)
            if listed is not None and listed.labels is not None:
                return listed.labels
    return None if (folder / LABELS).is_dir() else OBJECT_LABELS
