"""RT structure sets of any tool, parsed: names, colours and contours in RAS millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from medseg.core.errors import InputError
from medseg.core.geometry import LPS_TO_RAS
from medseg.dicom.parse import quiet
from medseg.dicom.values import number_of, text_of

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_CLOSED = ("CLOSED_PLANAR", "CLOSED_PLANAR_XOR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True, eq=False)
class Roi:
    """One region of interest.

    Args:
        number: as in the file.
        name: as in the file.
        rgb: display colour; None if there is none.
        contours: closed, each of shape (N, 3), RAS mm.
        num_skipped: points and open contours, which enclose nothing.
    """

    number: int
    name: str
    rgb: tuple[int, int, int] | None
    contours: tuple[NDArray[np.float64], ...]
    num_skipped: int


@dataclass(frozen=True, eq=False)
class RtStructFile:
    """A structure set.

    Args:
        path: the file.
        rois: in the order of their numbers.
        series_uids: the series that it refers to.
        frame_of_reference_uids: of its regions; empty if it names none.
    """

    path: Path
    rois: tuple[Roi, ...]
    series_uids: tuple[str, ...]
    frame_of_reference_uids: tuple[str, ...]


def read_rtstruct_file(path: str | Path) -> RtStructFile:
    """Parses a structure set.

    Raises:
        InputError: the file is none, or a contour is broken.
    """
    where = str(path)
    try:
        with quiet():
            dataset = dcmread(path, force=True)
            is_structure_set = text_of(dataset, "SOPClassUID", where=where) == RT_STRUCTURE_SET
    except InputError:
        raise
    except Exception as error:  # pydicom raises many types on corrupt bytes
        raise InputError(
            where,
            f"is not a DICOM file that can be parsed ({type(error).__name__})",
            "export the structure set again",
            code="E_HEADER",
        ) from error
    if not is_structure_set:
        raise InputError(
            where, "is no RT structure set", "give an RTSTRUCT object", code="E_NOT_SEGMENTATION"
        )
    with quiet():
        return _parse(dataset, Path(path), where)


def _parse(dataset: Dataset, path: Path, where: str) -> RtStructFile:
    drawn = {}
    for item in dataset.get("ROIContourSequence") or ():
        drawn[int(number_of(item, "ReferencedROINumber", where=where))] = item
    rois, frames = [], []
    for item in dataset.get("StructureSetROISequence") or ():
        number = int(number_of(item, "ROINumber", where=where))
        name = text_of(item, "ROIName", where=where) or f"roi_{number}"
        frames.append(text_of(item, "ReferencedFrameOfReferenceUID", where=where))
        rois.append(_roi(number, name, drawn.get(number), where))
    frames.append(text_of(dataset, "FrameOfReferenceUID", where=where))
    series, _, shared = images_of(dataset, where)
    return RtStructFile(
        path,
        tuple(sorted(rois, key=lambda roi: roi.number)),
        series,
        tuple(dict.fromkeys(uid for uid in (*frames, *shared) if uid)),
    )


def images_of(
    dataset: Dataset, where: str
) -> tuple[tuple[str, ...], frozenset[str], tuple[str, ...]]:
    """UIDs of the series, images and frames of reference that a structure set was drawn on."""
    series, images, frames = [], [], []
    for reference in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        frames.append(text_of(reference, "FrameOfReferenceUID", where=where))
        for study in reference.get("RTReferencedStudySequence") or ():
            for one in study.get("RTReferencedSeriesSequence") or ():
                series.append(text_of(one, "SeriesInstanceUID", where=where))
                images += [
                    text_of(image, "ReferencedSOPInstanceUID", where=where)
                    for image in one.get("ContourImageSequence") or ()
                ]
    return (
        tuple(dict.fromkeys(uid for uid in series if uid)),
        frozenset(images) - {""},
        tuple(frames),
    )


def _roi(number: int, name: str, item: Dataset | None, where: str) -> Roi:
    contours, skipped = [], 0
    for contour in (item.get("ContourSequence") if item is not None else None) or ():
        kind = text_of(contour, "ContourGeometricType", where=where)
        if kind not in _CLOSED:
            skipped += 1
            continue
        contours.append(_points(contour, f"{where}, region {number}"))
    colour = item.get("ROIDisplayColor") if item is not None else None
    is_colour = colour is not None and not isinstance(colour, int) and len(colour) == 3
    rgb = (int(colour[0]), int(colour[1]), int(colour[2])) if colour and is_colour else None
    return Roi(number, name, rgb, tuple(contours), skipped)


def _points(contour: Dataset, where: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(value) for value in contour.ContourData], np.float64)
        points = values.reshape(-1, 3)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            where,
            "has a contour whose data are not triples of numbers",
            "export the structure set again",
            code="E_CONTOUR",
        ) from error
    if not np.isfinite(points).all() or len(points) == 0:
        raise InputError(
            where,
            "has a contour with positions that are empty or not finite",
            "export the structure set again",
            code="E_CONTOUR",
        )
    return points @ LPS_TO_RAS[:3, :3].T
