"""DICOM SEG and RTSTRUCT objects by their headers alone: what they name, and on which images.

Voxels and contours are read later, by `medseg.sources.segmentations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread

from medseg.core.errors import InputError
from medseg.core.labels import CodedConcept
from medseg.core.protocols import SegmentationKind
from medseg.dicom.colour import rgb_of
from medseg.dicom.parse import quiet
from medseg.dicom.rtstruct_file import RT_STRUCTURE_SET, images_of
from medseg.dicom.seg_file import SEGMENTATION_CLASSES, segments_of
from medseg.dicom.values import number_of, text_of

_LOOKED_AT = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID",
    "SegmentSequence", "ReferencedSeriesSequence", "StructureSetROISequence",
    "ReferencedFrameOfReferenceSequence",
]  # fmt: skip


@dataclass(frozen=True)
class NamedSegment:
    """What a file calls one of its segments; codes and colour are None where it gives none."""

    name: str
    category: CodedConcept | None = None
    type: CodedConcept | None = None
    rgb: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class ReferenceFile:
    """A segmentation object.

    Args:
        path: the file.
        kind: "dicom_seg" or "rtstruct".
        sop_uid: its SOPInstanceUID.
        segments: in the order in which `read_segments` gives them.
        series_uids: the series that it refers to; empty if it names none.
        image_uids: SOPInstanceUIDs of the images that it refers to; empty if it names none.
        frame_of_reference_uids: of its coordinates; empty if it names none.
    """

    path: Path
    kind: SegmentationKind
    sop_uid: str
    segments: tuple[NamedSegment, ...]
    series_uids: tuple[str, ...]
    image_uids: frozenset[str]
    frame_of_reference_uids: tuple[str, ...]


def read_reference_file(path: Path) -> ReferenceFile:
    """What a SEG or RTSTRUCT file says of itself.

    Raises:
        InputError: it is none, or is damaged.
    """
    where = str(path)
    try:
        with quiet():
            dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=_LOOKED_AT)
            return _parse(dataset, path, where)
    except InputError:
        raise
    except Exception as error:  # pydicom raises many types on corrupt bytes
        raise InputError(
            where,
            f"is not a DICOM file that can be parsed ({type(error).__name__})",
            "export the segmentation again",
            code="E_HEADER",
        ) from None


def _parse(dataset: Dataset, path: Path, where: str) -> ReferenceFile:
    sop_class = text_of(dataset, "SOPClassUID", where=where)
    sop_uid = text_of(dataset, "SOPInstanceUID", where=where)
    frame = text_of(dataset, "FrameOfReferenceUID", where=where)
    if sop_class == RT_STRUCTURE_SET:
        series, images, frames = images_of(dataset, where)
        rois = list(_rois(dataset, where))
        frames = (frame, *frames, *(uid for _, _, uid in rois))
        segments = tuple(NamedSegment(name) for _, name, _ in sorted(rois, key=lambda roi: roi[0]))
        unique = tuple(dict.fromkeys(uid for uid in frames if uid))
        return ReferenceFile(path, "rtstruct", sop_uid, segments, series, images, unique)
    if sop_class not in SEGMENTATION_CLASSES:
        raise InputError(
            where,
            "is neither a DICOM segmentation nor an RT structure set",
            "give a SEG or RTSTRUCT object",
            code="E_NOT_SEGMENTATION",
        )
    named = tuple(
        NamedSegment(
            facts.label,
            facts.category,
            facts.type,
            None if facts.lab is None else rgb_of(facts.lab),
        )
        for facts in segments_of(dataset, where)
    )
    items = list(dataset.get("ReferencedSeriesSequence") or ())
    series = tuple(text_of(item, "SeriesInstanceUID", where=where) for item in items)
    images = frozenset(
        text_of(image, "ReferencedSOPInstanceUID", where=where)
        for item in items
        for image in item.get("ReferencedInstanceSequence") or ()
    )
    if not items:
        images = _images_of_frames(path, where)
    return ReferenceFile(
        path,
        "dicom_seg",
        sop_uid,
        named,
        tuple(uid for uid in series if uid),
        images - {""},
        (frame,) if frame else (),
    )


def _rois(dataset: Dataset, where: str) -> Iterator[tuple[int, str, str]]:
    """Number, name and frame of reference of each region, in the order of the file."""
    for item in dataset.get("StructureSetROISequence") or ():
        number = int(number_of(item, "ROINumber", where=where))
        name = text_of(item, "ROIName", where=where) or f"roi_{number}"
        yield number, name, text_of(item, "ReferencedFrameOfReferenceUID", where=where)


def _images_of_frames(path: Path, where: str) -> frozenset[str]:
    """Images that the frames of a SEG derive from, for objects that list no series."""
    groups = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
    dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=groups)
    return frozenset(
        text_of(image, "ReferencedSOPInstanceUID", where=where)
        for keyword in groups
        for group in dataset.get(keyword) or ()
        for derivation in group.get("DerivationImageSequence") or ()
        for image in derivation.get("SourceImageSequence") or ()
    )
