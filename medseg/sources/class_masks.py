"""Images of a BIDS folder with one mask file for each class below derivatives/labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import ConfigError, InputError, LabelError
from medseg.core.identity import Case
from medseg.core.protocols import SourceDescription
from medseg.core.segmentation import LabelMap
from medseg.sources.file_cases import file_case, sorted_cases
from medseg.sources.image_files import file_key, find_files, image_files, read_geometry, read_image
from medseg.sources.input_folder import existing_folder
from medseg.sources.label_maps import refuse_other_grid
from medseg.sources.read_rules import MAX_BYTES, ReadRules

_log = logging.getLogger(__name__)

DERIVATIVES = "derivatives"
MAX_CLASS = 65_535


class ClassMasks:
    """Cases whose reference is a mask per class: `sub-1/micr/a.png` has
    `derivatives/labels/sub-1/micr/a_<ending>.png` for each class.

    A pixel belongs to a class from half of the mask's largest possible value on: grey values, which
    editors leave at edges, are counted and told. In a mask of 0 and one other value, that one is
    the class's. Where masks overlap, the class named last counts.
    Images of one subject stay together in splits.

    Args:
        folder: the BIDS folder.
        masks: ending of the mask's name by class number, such as {1: seg-axon-manual}.
        max_bytes: largest decoded image in bytes.
    """

    def __init__(
        self, folder: str | None, *, masks: Mapping[int, str], max_bytes: int = MAX_BYTES
    ) -> None:
        endings = list(masks.values())
        if not masks or any(not 1 <= int(number) <= MAX_CLASS for number in masks):
            raise ConfigError(
                "source.masks",
                f"is {dict(masks)}",
                f"write it as {{1: seg-axon-manual}}, with numbers from 1 to {MAX_CLASS}",
            )
        if len(set(endings)) < len(endings):
            raise ConfigError(
                "source.masks", f"is {dict(masks)}", "give each class a mask of its own"
            )
        self.folder = folder
        self.masks = {int(number): str(ending) for number, ending in masks.items()}
        self.rules = ReadRules(False, max_bytes)

    def cases(self) -> list[Case]:
        folder = existing_folder(self.folder)
        files = image_files(find_files(folder))
        derived: dict[tuple[Path, str], Path] = {}
        for path in files:
            if not path.is_relative_to(folder / DERIVATIVES / "labels"):
                continue
            place = path.relative_to(folder / DERIVATIVES / "labels").parent
            other = derived.setdefault((place, file_key(path)), path)
            if other != path:
                raise InputError(
                    other,
                    f"is one of two masks of the same name, with {path.name}",
                    "keep one of them",
                    code="E_AMBIGUOUS_LABEL",
                )
        cases = []
        for path in files:
            place = path.relative_to(folder)
            if place.parts[0] == DERIVATIVES:
                continue
            found = {
                number: derived[place.parent, f"{file_key(path)}_{ending}"]
                for number, ending in self.masks.items()
                if (place.parent, f"{file_key(path)}_{ending}") in derived
            }
            cases.append(self._case(path, found, group=place.parts[0]))
        if not cases:
            raise InputError(
                folder,
                "holds no image outside derivatives",
                "give the folder that holds sub-1, sub-2, ...",
                code="E_NO_IMAGES",
            )
        return sorted_cases(cases, where=folder)

    def describe(self) -> SourceDescription:
        return SourceDescription()

    def _case(self, path: Path, found: Mapping[int, Path], *, group: str) -> Case:
        case = file_case(file_key(path), (path,), group=group, rules=self.rules)
        if not found:
            return case
        missing = [ending for number, ending in self.masks.items() if number not in found]
        read = partial(
            read_class_masks, dict(found), image=path, missing=tuple(missing), rules=self.rules
        )
        return Case(case.key, case.read_image, read, group=group, paths=(path, *found.values()))


def read_class_masks(
    masks: Mapping[int, Path],
    *,
    image: Path,
    missing: tuple[str, ...] = (),
    rules: ReadRules | None = None,
) -> LabelMap:
    """The class of each pixel from one mask per class.

    Args:
        masks: file by class number; later ones lie on top.
        image: gives the grid.
        missing: endings of masks that should be there.
        rules: what to accept of the files.

    Raises:
        LabelError: a mask is missing, or has several channels that differ.
        GeometryError: a mask does not lie on the grid of its image.
    """
    if missing:
        raise LabelError(
            image,
            f"has masks, but none that ends in {' or '.join(missing)}",
            "add it, or correct source.masks",
            code="E_NO_LABEL",
        )
    geometry = read_geometry(image, rules=rules)
    classes = np.zeros(geometry.shape, np.uint8 if max(masks) <= 255 else np.int32)
    for number, path in masks.items():
        volume = read_image(path, rules=rules, as_labels=True)
        refuse_other_grid(volume.geometry, geometry, path=path)
        array = volume.array[0]
        if any(not np.array_equal(channel, array) for channel in volume.array[1:]):
            raise LabelError(
                path,
                "has several channels that differ, a mask has one",
                "save it as grey",
                code="E_LABEL_CHANNELS",
            )
        full = _full(array)
        grey = int(np.count_nonzero((array != 0) & (array != full)))
        if grey:
            _log.warning("%s: %d grey pixels, of the class from %g on", path, grey, full / 2)
        classes[array >= full / 2] = number
    return LabelMap(classes, geometry)


def _full(array: NDArray[Any]) -> float:
    """The value of a mask's voxels: the only one but 0, or the largest that its type holds."""
    highest = float(array.max(initial=0))
    has_one_value = bool(((array == 0) | (array == highest)).all())
    if has_one_value or array.dtype.kind not in "iu":
        return highest or 1.0
    return float(np.iinfo(array.dtype).max)
