"""Label maps as RT structure sets: closed contours on the slices of the source series.

Contours run along voxel edges, so filling them by voxel centres gives the label map back. What is
lost: voxels are staircases here, and systems that smooth or resample contours draw them their way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medseg.core.errors import OutputError
from medseg.core.identity import Case
from medseg.core.labels import Label
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.dicom.codes import segment_codes
from medseg.dicom.contours import trace_contours
from medseg.dicom.derived import (
    NOT_REVIEWED,
    Algorithm,
    code_item,
    derived_header,
    plain_text,
    reference_item,
    referenced_instances,
)
from medseg.dicom.encode import write_object
from medseg.dicom.frames import Frame, is_enhanced
from medseg.dicom.rtstruct_file import RT_STRUCTURE_SET
from medseg.dicom.source_series import SourceSeries, on_slices, read_source_series, source_of
from medseg.dicom.uids import UUID_ROOT
from medseg.writers.names import output_path
from medseg.writers.seg_header import segments_of

# PS3.3 C.8.8.5 wants a reference to the study as an object; this retired class stands for it.
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"


@dataclass(frozen=True)
class RtStructWriter:
    """Writes `<case key>_rtstruct.dcm`; see `write_rtstruct` for the arguments."""

    algorithm_name: str = "medseg"
    algorithm_version: str = ""
    bundle_sha256: str = ""
    uid_root: str = UUID_ROOT

    def check(self, case: Case) -> None:
        """Raises an OutputError if the case does not come from DICOM."""
        source_of(case, writer="RTSTRUCT")

    def write(self, result: LabelMap | ProbabilityMap, case: Case, *, folder: Path) -> list[Path]:
        path = output_path(folder, case, "_rtstruct.dcm")
        write_rtstruct(
            result,
            case,
            path,
            algorithm_name=self.algorithm_name,
            algorithm_version=self.algorithm_version,
            bundle_sha256=self.bundle_sha256,
            uid_root=self.uid_root,
        )
        return [path]


def write_rtstruct(
    label_map: LabelMap | ProbabilityMap,
    case: Case,
    path: str | Path,
    *,
    algorithm_name: str = "medseg",
    algorithm_version: str = "",
    bundle_sha256: str = "",
    uid_root: str = UUID_ROOT,
) -> Path:
    """Writes one structure set with a region for each class, without contours where it is empty.

    Holes are joined to their outline by a channel of no width, as the standard asks. The same
    result gives the same bytes.

    Args:
        label_map: result on the slices of the source series; of probabilities the likeliest class.
        case: where it comes from; needs its `series`.
        path: file to write.
        algorithm_name, algorithm_version, bundle_sha256: what made the result.
        uid_root: the site's own UID root.

    Returns:
        The path.

    Raises:
        OutputError: the case is no DICOM series, or the file cannot be written.
        GeometryError: the result does not lie on the slices of the series.
    """
    source = read_source_series(source_of(case, writer="RTSTRUCT"), where=case.key)
    voxels = on_slices(label_map.array, label_map.geometry, source, where=case.key)
    if isinstance(label_map, ProbabilityMap):
        voxels = voxels.argmax(axis=0)
    if source.is_projection:
        raise OutputError(
            case.key,
            "is a projection image, which has no place in the patient for contours to be drawn at",
            "use output=dicom_seg",
        )
    algorithm = Algorithm(algorithm_name, algorithm_version, bundle_sha256)
    regions = segments_of(label_map.labels, highest=int(voxels.max()))
    digest = hashlib.sha256(np.ascontiguousarray(voxels).data)
    digest.update(",".join(label.name for label in regions).encode())
    header = derived_header(
        source,
        algorithm,
        sop_class_uid=RT_STRUCTURE_SET,
        modality="RTSTRUCT",
        identity=(digest.hexdigest(),),
        series_offset=2,
        description="structures",
        uid_root=uid_root,
    )
    header.StructureSetLabel = plain_text(algorithm.name, 16)
    header.StructureSetDescription = NOT_REVIEWED
    header.StructureSetDate, header.StructureSetTime = header.SeriesDate, header.SeriesTime
    header.OperatorsName = None
    header.ApprovalStatus = "UNAPPROVED"
    header.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    header.StructureSetROISequence = [_roi(label, source) for label in regions]
    header.ROIContourSequence = [
        _contours(label, voxels, source.lattice.frames) for label in regions
    ]
    header.RTROIObservationsSequence = [_observation(label) for label in regions]
    write_object(header, path)
    return Path(path)


def _frame_of_reference(source: SourceSeries) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.header.SeriesInstanceUID
    series.ContourImageSequence = referenced_instances(source)
    study = Dataset()
    study.ReferencedSOPClassUID = _DETACHED_STUDY
    study.ReferencedSOPInstanceUID = source.header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    reference = Dataset()
    reference.FrameOfReferenceUID = source.header.FrameOfReferenceUID
    reference.RTReferencedStudySequence = [study]
    return reference


def _roi(label: Label, source: SourceSeries) -> Dataset:
    roi = Dataset()
    roi.ROINumber = label.class_id
    roi.ReferencedFrameOfReferenceUID = source.header.FrameOfReferenceUID
    roi.ROIName = plain_text(label.name, 64)
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    return roi


def _contours(label: Label, voxels: NDArray[Any], frames: Sequence[Frame]) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(label.rgb)
    item.ReferencedROINumber = label.class_id
    mask = voxels == label.class_id
    contours = []
    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        frame = frames[k]
        image = reference_item(frame)
        if is_enhanced(frame.header):
            image.ReferencedFrameNumber = frame.number + 1
        for points in trace_contours(mask[:, :, k]):
            contour = Dataset()
            contour.ContourImageSequence = [image]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = _to_lps_mm(points, frame)
            contours.append(contour)
    if contours:
        item.ContourSequence = contours
    return item


def _to_lps_mm(points: NDArray[np.float64], frame: Frame) -> list[str]:
    """Positions of pixel coordinates as decimal strings to a ten-thousandth of a millimetre."""
    steps = np.array([frame.row_lps * frame.spacing_mm[0], frame.column_lps * frame.spacing_mm[1]])
    positions = points @ steps + frame.position_lps
    return [f"{value:.4f}" for value in np.round(positions, 4).ravel() + 0.0]


def _observation(label: Label) -> Dataset:
    codes = segment_codes(label)
    observation = Dataset()
    observation.ObservationNumber = label.class_id
    observation.ReferencedROINumber = label.class_id
    identification = code_item(codes.type)
    if codes.modifiers:
        identification.SegmentedPropertyTypeModifierCodeSequence = [
            code_item(modifier) for modifier in codes.modifiers
        ]
    observation.RTROIIdentificationCodeSequence = [identification]
    # What a region is for (organ, target, ...) is the planner's decision.
    observation.RTROIInterpretedType = None
    observation.ROIInterpreter = None
    return observation
