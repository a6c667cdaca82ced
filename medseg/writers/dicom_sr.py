"""Measurements of each segment as a DICOM structured report (TID 1500), linked to the SEG.

Volume, longest diameter within a slice and, for CT, mean attenuation. It measures what the SEG
shows and judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr.coding import CodedConcept as HighdicomConcept
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from scipy import ndimage
from scipy.spatial import ConvexHull

from medseg.core.errors import OutputError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.labels import CodedConcept, Label
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import (
    InstanceSet,
    LabelMap,
    PanopticMap,
    ProbabilityMap,
    Result,
    UncertaintyMap,
)
from medseg.core.segments import SegmentSet
from medseg.dicom.codes import segment_codes
from medseg.dicom.contours import trace_contours
from medseg.dicom.derived import Algorithm, derived_header, plain_text, referenced_instances
from medseg.dicom.encode import write_object
from medseg.dicom.parse import quiet
from medseg.dicom.source_series import SourceSeries, on_slices, read_source_series, source_of
from medseg.dicom.uids import UUID_ROOT, derive_uid
from medseg.writers.names import output_path
from medseg.writers.object_segments import object_segments
from medseg.writers.seg_header import segments_of

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"

_DEVICE = CodedConcept("121007", "DCM", "Device")
_REPORT = CodedConcept("126000", "DCM", "Imaging Measurement Report")
_IMAGING = CodedConcept("363679005", "SCT", "Imaging procedure")
_VOLUME = CodedConcept("118565006", "SCT", "Volume")
_LONG_AXIS = CodedConcept("103339001", "SCT", "Long axis")
_ATTENUATION = CodedConcept("112031", "DCM", "Attenuation Coefficient")
_MEAN = CodedConcept("373098007", "SCT", "Mean")
_MM = CodedConcept("mm", "UCUM", "mm")
_MM3 = CodedConcept("mm3", "UCUM", "cubic millimeter")
_EMPTY_BOX = (slice(0, 0),) * 3
_HU = CodedConcept("[hnsf'U]", "UCUM", "Hounsfield unit")


@dataclass(frozen=True)
class SegmentMeasurements:
    """What is measured of one class.

    Args:
        volume_mm3: voxels times the volume of one.
        diameter_mm: longest distance between two points of the outline in one slice, along voxel
            edges; None if it is empty.
        mean_hu: mean attenuation; None if it is empty or the image is no CT.
    """

    volume_mm3: float
    diameter_mm: float | None
    mean_hu: float | None


@dataclass(frozen=True)
class DicomSrWriter:
    """Writes `<case key>_sr.dcm`, linked to the `<case key>.dcm` that DicomSegWriter has written.

    List it behind dicom_seg: `output=[dicom_seg,dicom_sr]`.
    """

    algorithm_name: str = "medseg"
    algorithm_version: str = ""
    bundle_sha256: str = ""
    uid_root: str = UUID_ROOT

    @property
    def takes(self) -> tuple[ResultKind, ...]:
        return ("label_map", "instances")

    def check(self, case: Case) -> None:
        """Raises an OutputError if the case does not come from DICOM."""
        source_of(case, writer="DICOM-SR")

    def write(self, result: Result, case: Case, *, folder: Path) -> list[Path]:
        path = output_path(folder, case, "_sr.dcm")
        assert not isinstance(result, UncertaintyMap)  # which this takes none of
        content = (
            object_segments(result, where=case.key)
            if isinstance(result, InstanceSet | PanopticMap)
            else result
        )
        write_dicom_sr(
            content,
            case,
            path,
            seg_path=output_path(folder, case, ".dcm"),
            algorithm_name=self.algorithm_name,
            algorithm_version=self.algorithm_version,
            bundle_sha256=self.bundle_sha256,
            uid_root=self.uid_root,
        )
        return [path]


def write_dicom_sr(
    label_map: LabelMap | ProbabilityMap | SegmentSet,
    case: Case,
    path: str | Path,
    *,
    seg_path: str | Path,
    algorithm_name: str = "medseg",
    algorithm_version: str = "",
    bundle_sha256: str = "",
    uid_root: str = UUID_ROOT,
) -> Path:
    """Writes one measurement report. The same result gives the same bytes.

    Args:
        label_map: result on the slices of the source series, the same that is in the SEG; of a
            SegmentSet each segment is measured.
        case: where it comes from; needs its `series`. A CT is read for the attenuation.
        path: file to write.
        seg_path: the DICOM segmentation of this result.
        algorithm_name, algorithm_version, bundle_sha256: what made the result.
        uid_root: the site's own UID root.

    Returns:
        The path.

    Raises:
        OutputError: the case is no DICOM series, the SEG is missing or of another series, or the
            file cannot be written.
        GeometryError: the result does not lie on the slices of the series.
    """
    source = read_source_series(source_of(case, writer="DICOM-SR"), where=case.key)
    seg = _read_seg(Path(seg_path), source, case.key)
    if isinstance(label_map, ProbabilityMap):
        label_map = LabelMap(label_map.array.argmax(axis=0), label_map.geometry, label_map.labels)
    if isinstance(label_map, SegmentSet):
        layers, layer_of = label_map.layers()
        labels = label_map.labels.foreground
    else:
        layers = label_map.array[None]
        labels = segments_of(label_map.labels, highest=int(layers.max()))
        layer_of = dict.fromkeys((label.class_id for label in labels), 0)
    measured: dict[str, SegmentMeasurements] = {}
    for n, layer in enumerate(layers):
        own = tuple(label for label in labels if layer_of.get(label.class_id, 0) == n)
        voxels = on_slices(layer, label_map.geometry, source, where=case.key)
        measured |= measure(LabelMap(layer, label_map.geometry), voxels, source, case, own)
    measured = {label.name: measured[label.name] for label in labels}
    algorithm = Algorithm(algorithm_name, algorithm_version, bundle_sha256)
    header = derived_header(
        source,
        algorithm,
        sop_class_uid=COMPREHENSIVE_SR,
        modality="SR",
        identity=(str(seg.SOPInstanceUID), repr(measured)),
        series_offset=3,
        description="measurements",
        uid_root=uid_root,
    )
    # A report has no positions of its own.
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
        header.pop(keyword, None)
    header.ContentDate, header.ContentTime = header.SeriesDate, header.SeriesTime
    header.CompletionFlag = "COMPLETE"
    header.VerificationFlag = "UNVERIFIED"
    header.ReferencedPerformedProcedureStepSequence = []
    header.PerformedProcedureCodeSequence = []
    header.CurrentRequestedProcedureEvidenceSequence = [_evidence(source, seg)]
    items = {int(item.SegmentNumber): item for item in seg.SegmentSequence}
    groups = [
        _group(label, measured[label.name], items[label.class_id], seg, source, algorithm)
        for label in labels
        if label.class_id in items
    ]
    report = MeasurementReport(
        observation_context=_observer(algorithm, uid_root),
        procedure_reported=_concept(_IMAGING),
        imaging_measurements=groups,
        title=_concept(_REPORT),
    )
    for element in report[0]:
        header.add(element)
    write_object(header, path)
    return Path(path)


def measure(
    label_map: LabelMap,
    voxels: NDArray[Any],
    source: SourceSeries,
    case: Case,
    labels: tuple[Label, ...],
) -> dict[str, SegmentMeasurements]:
    """Measurements of each class by its name.

    Args:
        label_map: on the grid that reading the image gives.
        voxels: the same on the slices as acquired, shape (columns, rows, slices).
        source: the slices.
        case: gives the image, read only for CT.
        labels: the classes.
    """
    geometry = source.lattice.geometry
    acquired, read = _boxes(voxels), _boxes(label_map.array)
    hu = _attenuation(label_map.geometry, case) if source.header.Modality == "CT" else None
    result = {}
    for label in labels:
        box = acquired.get(label.class_id, _EMPTY_BOX)
        mask = voxels[box] == label.class_id
        count = int(mask.sum())
        mean = None
        if hu is not None and count and label.class_id in read:
            place = read[label.class_id]
            inside = label_map.array[place] == label.class_id
            mean = float(hu[place][inside].mean(dtype=np.float64))
        result[label.name] = SegmentMeasurements(
            volume_mm3=count * geometry.voxel_volume_mm3,
            diameter_mm=longest_diameter_mm(mask, geometry.spacing_mm[:2]) if count else None,
            mean_hu=mean,
        )
    return result


def _boxes(array: NDArray[Any]) -> dict[int, tuple[slice, ...]]:
    """The box of each positive number that is there."""
    found = ndimage.find_objects(np.maximum(array, 0))
    return {n: box for n, box in enumerate(found, start=1) if box is not None}


def longest_diameter_mm(mask: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> float:
    """Longest distance between two points of a mask's outline within one slice.

    Args:
        mask: shape (columns, rows, slices), not empty.
        spacing_mm: along columns and rows.
    """
    longest = 0.0
    for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        points = np.concatenate(trace_contours(mask[:, :, k])) * spacing_mm[:2]
        hull = points[ConvexHull(points).vertices]
        longest = max(longest, *(float(np.linalg.norm(a - b)) for a, b in combinations(hull, 2)))
    return longest


def _attenuation(geometry: Geometry, case: Case) -> NDArray[Any] | None:
    """The CT on the result's grid; None if it was read onto another."""
    image = case.read_image()
    return image.array[0] if image.geometry.difference(geometry) is None else None


def _read_seg(path: Path, source: SourceSeries, where: str) -> Dataset:
    try:
        with quiet():
            seg = dcmread(path, stop_before_pixels=True)
    except Exception as error:  # a missing file, or one that is no DICOM
        raise OutputError(
            where,
            f"has no DICOM segmentation {path.name} for the report to refer to",
            "write both, the segmentation first: output=[dicom_seg,dicom_sr]",
        ) from error
    references = [item.SeriesInstanceUID for item in seg.get("ReferencedSeriesSequence") or ()]
    if source.header.SeriesInstanceUID not in references:
        raise OutputError(
            where,
            f"the segmentation {path.name} was made from another series",
            "write the segmentation anew, before the report",
        )
    return seg


def _evidence(source: SourceSeries, seg: Dataset) -> Dataset:
    """Everything that the report refers to, by study and series."""
    segmentation = Dataset()
    segmentation.ReferencedSOPClassUID = seg.SOPClassUID
    segmentation.ReferencedSOPInstanceUID = seg.SOPInstanceUID
    series = []
    for uid, instances in (
        (seg.SeriesInstanceUID, [segmentation]),
        (source.header.SeriesInstanceUID, referenced_instances(source)),
    ):
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedSOPSequence = instances
        series.append(item)
    study = Dataset()
    study.StudyInstanceUID = source.header.StudyInstanceUID
    study.ReferencedSeriesSequence = series
    return study


def _observer(algorithm: Algorithm, uid_root: str) -> ObservationContext:
    facts = (algorithm.name, algorithm.version, algorithm.bundle_sha256)
    attributes = DeviceObserverIdentifyingAttributes(
        uid=derive_uid("device", *facts, root=uid_root),
        name=plain_text(algorithm.name, 64),
        manufacturer_name="medseg",
        model_name=plain_text(algorithm.name, 64),
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=_concept(_DEVICE), observer_identifying_attributes=attributes
        )
    )


def _group(
    label: Label,
    measured: SegmentMeasurements,
    item: Dataset,
    seg: Dataset,
    source: SourceSeries,
    algorithm: Algorithm,
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """One segment's measurements; it is tracked by the UID that the SEG gives it."""
    codes = segment_codes(label)
    measurements = [_measurement(_VOLUME, measured.volume_mm3, _MM3)]
    if measured.diameter_mm is not None:
        measurements.append(_measurement(_LONG_AXIS, measured.diameter_mm, _MM))
    if measured.mean_hu is not None:
        measurements.append(_measurement(_ATTENUATION, measured.mean_hu, _HU, derivation=_MEAN))
    laterality = codes.modifiers[0] if codes.modifiers else None
    is_side = laterality is not None and laterality.meaning in ("Left", "Right")
    site = FindingSite(
        _concept(codes.region or codes.type),
        laterality=_concept(laterality) if laterality is not None and is_side else None,
    )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=item.TrackingUID, identifier=item.TrackingID),
        referenced_segment=ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=label.class_id,
            source_series=SourceSeriesForSegmentation(str(source.header.SeriesInstanceUID)),
        ),
        finding_category=_concept(codes.category),
        finding_type=_concept(codes.type),
        finding_sites=[site],
        algorithm_id=AlgorithmIdentification(
            name=plain_text(algorithm.name, 64), version=plain_text(algorithm.version_or_hash, 64)
        ),
        measurements=measurements,
    )


def _measurement(
    name: CodedConcept, value: float, unit: CodedConcept, derivation: CodedConcept | None = None
) -> Measurement:
    # Six digits are far beyond what a voxel grid can tell, and keep decimal strings short.
    return Measurement(
        name=_concept(name),
        value=float(f"{value:.6g}"),
        unit=_concept(unit),
        derivation=None if derivation is None else _concept(derivation),
    )


def _concept(concept: CodedConcept) -> HighdicomConcept:
    return HighdicomConcept(concept.value, concept.scheme, concept.meaning[:64])
