"""The header of a DICOM segmentation: segments with their codes, dimensions, shared groups."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from pydicom import Dataset

from medseg.core.labels import CodedConcept, Label, LabelSet
from medseg.dicom.codes import SegmentCodes, segment_codes
from medseg.dicom.colour import dicom_lab
from medseg.dicom.derived import (
    ARTIFICIAL_INTELLIGENCE,
    NOT_REVIEWED,
    Algorithm,
    code_item,
    plain_text,
    referenced_instances,
)
from medseg.dicom.source_series import SourceSeries
from medseg.dicom.uids import derive_uid
from medseg.writers.seg_frames import decimals

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"

_log = logging.getLogger(__name__)

_SEGMENT_NUMBER, _SEGMENT_IDENTIFICATION = 0x0062000B, 0x0062000A
_IMAGE_POSITION, _PLANE_POSITION = 0x00200032, 0x00209113


def segments_of(labels: LabelSet | None, *, highest: int) -> tuple[Label, ...]:
    """The classes to describe; numbered names where nothing is known of them."""
    if labels is not None:
        return labels.foreground
    return tuple(Label(f"segment_{n}", n) for n in range(1, max(1, highest) + 1))


def tracking_uid(source: SourceSeries, algorithm: Algorithm, label: Label, *, root: str) -> str:
    """The UID by which other objects of this source speak of a segment."""
    facts = (algorithm.name, algorithm.version, algorithm.bundle_sha256, label.name)
    return derive_uid("tracking", str(source.header.SeriesInstanceUID), *facts, root=root)


def segment_items(
    segments: Sequence[Label],
    source: SourceSeries,
    algorithm: Algorithm,
    *,
    tracking_uids: Mapping[int, str],
    root: str,
) -> list[Dataset]:
    """Items of the Segment Sequence; segments without a tracking UID get a derived one."""
    items = []
    for label in segments:
        codes = segment_codes(label)
        if not codes.is_known:
            _log.info("label '%s' has no standard code; the general one is written", label.name)
        item = Dataset()
        item.SegmentNumber = label.class_id
        item.SegmentLabel = plain_text(label.name, 64)
        if not codes.is_known:
            item.SegmentDescription = "No standard code is known for this label"
        item.SegmentAlgorithmType = "AUTOMATIC"
        item.SegmentAlgorithmName = plain_text(algorithm.name, 64)
        item.SegmentationAlgorithmIdentificationSequence = [algorithm_item(algorithm)]
        _add_codes(item, codes)
        item.RecommendedDisplayCIELabValue = list(dicom_lab(label.rgb))
        uid = tracking_uids.get(label.class_id) or tracking_uid(source, algorithm, label, root=root)
        item.TrackingID = f"{plain_text(label.name, 64)} {uid.rpartition('.')[2][-12:]}"
        item.TrackingUID = uid
        items.append(item)
    return items


def algorithm_item(algorithm: Algorithm) -> Dataset:
    """Algorithm Identification Macro (PS3.3 10.16)."""
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = [code_item(ARTIFICIAL_INTELLIGENCE)]
    item.AlgorithmName = plain_text(algorithm.name, 64)
    item.AlgorithmVersion = plain_text(algorithm.version_or_hash, 64)
    item.AlgorithmSource = "medseg"
    if algorithm.bundle_sha256:
        item.AlgorithmParameters = f"bundle sha256 {plain_text(algorithm.bundle_sha256, 64)}"
    return item


def add_segmentation_modules(
    header: Dataset,
    source: SourceSeries,
    *,
    segmentation_type: str,
    bits: int,
    num_frames: int,
) -> None:
    """Adds image, dimension, reference and shared functional group elements."""
    geometry = source.lattice.geometry
    header.ImageType = ["DERIVED", "PRIMARY"]
    header.ContentDate, header.ContentTime = header.SeriesDate, header.SeriesTime
    header.ContentLabel = "SEGMENTATION"
    header.ContentDescription = NOT_REVIEWED
    header.ContentCreatorName = None
    header.SegmentationType = segmentation_type
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.PresentationLUTShape = "IDENTITY"
    header.PixelRepresentation = 0
    header.Columns, header.Rows = geometry.shape[:2]
    header.NumberOfFrames = num_frames
    header.BitsAllocated = header.BitsStored = bits
    header.HighBit = bits - 1
    _add_lossy_compression(header, source.header)
    if source.is_projection:
        header.PatientOrientation = source.header.get("PatientOrientation")
        for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
            header.pop(keyword, None)
    references = Dataset()
    references.SeriesInstanceUID = source.header.SeriesInstanceUID
    references.ReferencedInstanceSequence = referenced_instances(source)
    header.ReferencedSeriesSequence = [references]
    _add_dimensions(
        header,
        has_segments=segmentation_type != "LABELMAP",
        has_places=not source.is_projection,
    )
    header.SharedFunctionalGroupsSequence = [_shared_groups(source)]


def _add_codes(item: Dataset, codes: SegmentCodes) -> None:
    item.SegmentedPropertyCategoryCodeSequence = [code_item(codes.category)]
    kind = code_item(codes.type)
    if codes.modifiers:
        kind.SegmentedPropertyTypeModifierCodeSequence = _items(codes.modifiers)
    item.SegmentedPropertyTypeCodeSequence = [kind]
    if codes.region is not None:
        region = code_item(codes.region)
        if codes.modifiers:
            region.AnatomicRegionModifierSequence = _items(codes.modifiers)
        item.AnatomicRegionSequence = [region]


def _items(concepts: tuple[CodedConcept, ...]) -> list[Dataset]:
    return [code_item(concept) for concept in concepts]


def _add_lossy_compression(header: Dataset, source: Dataset) -> None:
    """A result of a lossy image is itself marked as lossy (PS3.3 C.7.6.1.1.5)."""
    header.LossyImageCompression = "01" if source.get("LossyImageCompression") == "01" else "00"
    if header.LossyImageCompression == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if source.get(keyword):
                setattr(header, keyword, source.get(keyword))


def _add_dimensions(header: Dataset, *, has_segments: bool, has_places: bool) -> None:
    uid = derive_uid("dimensions", str(header.SOPInstanceUID))
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    header.DimensionOrganizationSequence = [organization]
    position = (_IMAGE_POSITION, _PLANE_POSITION, "Image Position Patient")
    segment = (_SEGMENT_NUMBER, _SEGMENT_IDENTIFICATION, "Referenced Segment Number")
    indices = []
    for pointer, group, name in [segment] * has_segments + [position] * has_places:
        index = Dataset()
        index.DimensionOrganizationUID = uid
        index.DimensionIndexPointer = pointer
        index.FunctionalGroupPointer = group
        index.DimensionDescriptionLabel = name
        indices.append(index)
    header.DimensionIndexSequence = indices
    if not has_segments:
        header.DimensionOrganizationType = "3D"


def _shared_groups(source: SourceSeries) -> Dataset:
    shared = Dataset()
    if source.is_projection:
        return shared
    frame = source.lattice.frames[0]
    geometry = source.lattice.geometry
    normal = np.cross(geometry.directions[:, 0], geometry.directions[:, 1])
    spacing = abs(float(normal @ geometry.affine[:3, 2]))
    measures = Dataset()
    measures.PixelSpacing = decimals(reversed(frame.spacing_mm))
    measures.SliceThickness = decimals([frame.thickness_mm or spacing])[0]
    measures.SpacingBetweenSlices = decimals([spacing])[0]
    orientation = Dataset()
    orientation.ImageOrientationPatient = decimals([*frame.row_lps, *frame.column_lps])
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    return shared
