"""The Sunnybrook Cardiac Data: cine MR as DICOM, contours of the left ventricle as text files.

A contour file holds one position of the outline per line, "x y" in pixels of its image, and is
named after it: IM-0001-0059-icontour-manual.txt is the inner contour on image 59 of its patient.
Few of the images have one, so a case is a single image with a contour. Radau et al. 2009, The
MIDAS Journal 49.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import InputError, raise_all
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import SourceDescription
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.dicom.contours import fill_contour
from medseg.dicom.headers import FoundVolume, index_folder
from medseg.dicom.volumes import read_found
from medseg.sources.dicom_files import may_be_dicom
from medseg.sources.file_cases import sorted_cases
from medseg.sources.image_files import find_files
from medseg.sources.input_folder import existing_folder

LINK = "link.csv"
"""Which folder of images belongs to which folder of contours: patient_id, original_id."""

_CONTOUR = re.compile(r"^IM-\d+-(\d+)-(i|o)contour-manual\.txt$")
_NUMBER = re.compile(r"(\d+)$")
_COUNTED_FROM = 1.0
"""Index that the contours give the first pixel. Not documented; the contrast across the contours
of three patients is largest with it: 0.68 standard deviations of the image, 0.64 with half a pixel
less and 0.57 with 0.
"""


class Sunnybrook:
    """One case per image with a contour.

    Args:
        folder: holds folders of DICOM images, folders of contours, and link.csv that names the
            pairs; without link.csv a folder of contours lies in, or is named like, that of its
            images.
        myocardium: learn the wall of the ventricle too; leaves out images without an outer contour.
    """

    def __init__(self, folder: str | None, *, myocardium: bool = False) -> None:
        self.folder = folder
        self.myocardium = myocardium

    def cases(self) -> list[Case]:
        """Cases named after the folder of their contours and the number of their image.

        Raises:
            InputError: there are no contours, or some have no image or several.
        """
        folder = existing_folder(self.folder)
        contours = _contours(folder)
        images = _images(folder)
        links = _links(folder)
        cases, errors = [], []
        for (patient, number), files in contours.items():
            if "i" not in files or (self.myocardium and "o" not in files):
                continue
            try:
                image = _image_of(patient, number, images, links)
                cases.append(self._case(patient, number, image, files))
            except InputError as error:
                errors.append(error)
        raise_all(errors, where=str(folder), what="contours have no image of their own")
        if not cases:
            raise InputError(
                folder,
                "holds no contour file such as IM-0001-0059-icontour-manual.txt",
                "set data.source.folder to the folder of images and contours",
                code="E_NO_LABELS",
            )
        return sorted_cases(cases, where=folder)

    def describe(self) -> SourceDescription:
        return SourceDescription(labels=self._labels, channel_names=("cine MR",))

    @property
    def _labels(self) -> LabelSet:
        names = ["background", "left_ventricle", "myocardium"]
        return LabelSet.from_names(names if self.myocardium else names[:2])

    def _case(self, patient: str, number: int, image: Path, files: Mapping[str, Path]) -> Case:
        index = index_folder(image)
        raise_all(index.refused, where=str(image), what="images cannot be read")
        if len(index.volumes) != 1 or index.volumes[0].geometry.shape[2] != 1:
            raise InputError(
                image,
                "is not one image of one slice",
                "give the DICOM files of the cine series",
                code="E_DIMENSIONS",
            )
        found = index.volumes[0]
        used = [files["i"], *([files["o"]] if self.myocardium else [])]
        if set(re.split(r"[\W_]+", patient.lower())) & found.identifying_words:
            patient = f"patient_{found.patient}"  # names never come from DICOM attributes
        return Case(
            key=f"{patient}_{number:04d}",
            read_image=partial(_read_image, found),
            read_reference=partial(_read_reference, found, tuple(used), self._labels),
            group=patient,
            series=found.series,
            paths=(image, *used),
        )


def _contours(folder: Path) -> dict[tuple[str, int], dict[str, Path]]:
    """Contour files, inner "i" and outer "o", by the folder of their patient and image number."""
    found: dict[tuple[str, int], dict[str, Path]] = defaultdict(dict)
    for path in find_files(folder):
        match = _CONTOUR.match(path.name)
        if match:
            key = _patient(path, folder), int(match[1])
            if match[2] in found[key]:
                raise InputError(
                    path,
                    f"is the second contour of its kind beside {found[key][match[2]]}",
                    "keep the contours of one reader",
                    code="E_AMBIGUOUS_LABEL",
                )
            found[key][match[2]] = path
    return dict(sorted(found.items()))


def _patient(path: Path, folder: Path) -> str:
    """The folder that is named after a patient: the one with a number at its end nearest to the
    file.
    """
    parts = path.relative_to(folder).parts[:-1]
    named = [part for part in parts if _NUMBER.search(part)]
    return named[-1] if named else path.parent.name


def _images(folder: Path) -> dict[str, dict[int, list[Path]]]:
    """DICOM files by the folder of their patient and the number at the end of their name."""
    found: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in find_files(folder):
        number = _NUMBER.search(path.stem)
        if number and may_be_dicom(path):
            for part in set(path.relative_to(folder).parts[:-1]):
                found[part][int(number[1])].append(path)
    return found


def _links(folder: Path) -> dict[str, str]:
    """The folder of images for each folder of contours, as link.csv says."""
    path = folder / LINK
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"patient_id", "original_id"} <= set(rows[0]):
        raise InputError(
            path, "has no columns patient_id and original_id", "correct it", code="E_MANIFEST"
        )
    return {row["original_id"]: row["patient_id"] for row in rows}


def _image_of(
    patient: str,
    number: int,
    images: Mapping[str, Mapping[int, list[Path]]],
    links: Mapping[str, str],
) -> Path:
    name = links.get(patient, patient)
    found = images.get(name, {}).get(number, [])
    if len(found) != 1:
        raise InputError(
            f"image {number} of {patient}",
            f"{len(found) or 'no'} DICOM files with this number lie in a folder called {name}",
            f"keep the short-axis series alone, or name the folder of its images in {LINK}",
            code="E_NO_IMAGES" if not found else "E_KEY_COLLISION",
        )
    return found[0]


def _read_image(found: FoundVolume) -> Volume:
    return read_found(found)


def _read_reference(found: FoundVolume, contours: tuple[Path, ...], labels: LabelSet) -> LabelMap:
    """The inside of the inner contour is class 1, what is left of that of the outer one class 2."""
    columns, rows, _ = found.geometry.shape
    array = np.zeros((columns, rows), np.uint8)
    for class_id, path in reversed(list(enumerate(contours, start=1))):
        array[fill_contour(read_contour(path) - _COUNTED_FROM, (columns, rows))] = class_id
    return LabelMap(array[..., None], found.geometry, labels)


def read_contour(path: Path) -> NDArray[np.float64]:
    """Positions x (along i), y (along j) of a contour, shape (N, 2), as the file gives them.

    Raises:
        InputError: the file holds anything but two numbers per line, or fewer than three lines.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
        points = np.array([[float(n) for n in line.split()] for line in lines if line.strip()])
    except (OSError, ValueError) as error:
        raise _no_contour(path) from error
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise _no_contour(path)
    return points


def _no_contour(path: Path) -> InputError:
    return InputError(path, "is no contour of 'x y' lines", "replace the file", code="E_CONTOUR")
