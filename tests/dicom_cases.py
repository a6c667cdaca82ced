"""Synthetic DICOM series with known answers: a field whose value at every point in the patient is
given.

The field grows by different amounts to the left, back and head and holds one bright spot, so that a
grid that is mirrored, shifted, scaled or sheared shows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
PET = "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"

SPOT_LPS = np.array([-3.0, 2.0, 4.0])
SHAPE = (19, 18, 11)
SPACING_MM = (1.25, 0.9, 2.5)

Edit = Callable[[Dataset, int], None]


def field_hu(points_lps: np.ndarray) -> np.ndarray:
    """Value at LPS points, shape (..., 3): a slope in each direction and a spot of 600 HU, sigma 3
    mm.
    """
    slopes = points_lps @ np.array([3.0, 5.0, 7.0])
    distance = np.linalg.norm(points_lps - SPOT_LPS, axis=-1)
    return np.asarray(40 + slopes + 600 * np.exp(-0.5 * (distance / 3.0) ** 2))


def expected_values(affine_ras: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The field on a grid, shape (I, J, K)."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points_ras = indices @ affine_ras[:3, :3].T + affine_ras[:3, 3]
    return field_hu(points_ras * np.array([-1.0, -1.0, 1.0]))


def spot_centre_ras(array: np.ndarray, affine_ras: np.ndarray) -> np.ndarray:
    """Centre of the spot as an image shows it: weighted mean of what stands out from the linear
    slope.
    """
    indices = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), axis=-1)
    points = indices @ affine_ras[:3, :3].T + affine_ras[:3, 3]
    above = array - (40 + (points * np.array([-1.0, -1.0, 1.0])) @ np.array([3.0, 5.0, 7.0]))
    weights = np.where(above > 60, above, 0)
    return (points * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum()


def instance(sop_class: str = CT, *, modality: str = "CT") -> Dataset:
    """An image data set without geometry or pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = generate_uid()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.SeriesDate = "20240229"
    ds.StudyTime = ds.SeriesTime = "101500"
    ds.Modality = modality
    ds.PatientName = "LEAK^TEST"
    ds.PatientID = "LEAK-ID"
    ds.PatientBirthDate = "19000101"
    return ds


def set_pixels(ds: Dataset, stored: np.ndarray, *, bits: int = 16) -> None:
    """Stored values, shape (rows, columns), with a consistent pixel module."""
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated = stored.dtype.itemsize * 8
    ds.BitsStored = min(bits, ds.BitsAllocated)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    ds["PixelData"].VR = "OW" if ds.BitsAllocated > 8 else "OB"


def slices(
    *,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    row: tuple[float, ...] = (1.0, 0.0, 0.0),
    column: tuple[float, ...] = (0.0, 1.0, 0.0),
    step_lps: np.ndarray | None = None,
    sop_class: str = CT,
    modality: str = "CT",
    stored_type: str = "u2",
    edit: Edit | None = None,
) -> list[Dataset]:
    """A classic series around the spot, one data set per slice in the order of k.

    `edit(ds, k)` changes a slice before it is returned; positions that it changes do not move the
    content.
    """
    row_lps, column_lps = np.array(row), np.array(column)
    step = np.cross(row_lps, column_lps) * spacing_mm[2] if step_lps is None else np.array(step_lps)
    offsets = np.array([4.0, -3.0, 1.0])  # the spot is off centre in every direction
    extent = [(n - 1) / 2 for n in shape]
    origin = (
        SPOT_LPS
        + offsets
        - row_lps * spacing_mm[0] * extent[0]
        - column_lps * spacing_mm[1] * extent[1]
        - step * extent[2]
    )
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    result = []
    for k in range(shape[2]):
        ds = instance(sop_class, modality=modality)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        position = origin + k * step
        ds.ImagePositionPatient = [f"{value:.8g}" for value in position]
        ds.ImageOrientationPatient = [f"{value:.9g}" for value in (*row, *column)]
        ds.PixelSpacing = [spacing_mm[1], spacing_mm[0]]
        ds.SliceThickness = spacing_mm[2]
        ds.InstanceNumber = k + 1
        ds.AcquisitionNumber = 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
        j, i = np.meshgrid(np.arange(shape[1]), np.arange(shape[0]), indexing="ij")
        points = (
            position
            + i[..., None] * spacing_mm[0] * row_lps
            + j[..., None] * spacing_mm[1] * column_lps
        )
        set_pixels(ds, np.rint(field_hu(points) + 1024).astype(f"<{stored_type}"))
        if edit is not None:
            edit(ds, k)
        result.append(ds)
    return result


def save(ds: Dataset, path: Path) -> Path:
    """Writes a Part 10 file in the data set's transfer syntax."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


def save_all(
    datasets: list[Dataset], folder: Path, *, name: str = "{k:03d}.dcm", seed: int = 3
) -> list[Path]:
    """Writes slices under names whose order is not that of k."""
    order = np.random.default_rng(seed).permutation(len(datasets))
    return [save(ds, folder / name.format(k=int(n))) for n, ds in zip(order, datasets, strict=True)]


def to_big_endian(ds: Dataset) -> None:
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    width = ds.BitsAllocated // 8
    if width > 1:
        ds.PixelData = np.frombuffer(ds.PixelData, f"<u{width}").astype(f">u{width}").tobytes()


def to_implicit(ds: Dataset) -> None:
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def enhanced(
    *,
    sop_class: str = ENHANCED_CT,
    modality: str = "CT",
    order: list[int] | None = None,
    slopes: list[float] | None = None,
    times: int = 1,
    edit: Callable[[Dataset], None] | None = None,
) -> Dataset:
    """One enhanced multi-frame object of the same field; frames stored in `order`, rescale per
    frame.
    """
    planes = slices(sop_class=sop_class, modality=modality)
    order = list(range(len(planes))) if order is None else order
    ds = instance(sop_class, modality=modality)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(ds, keyword, getattr(planes[0], keyword))
    shared = Dataset()
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = planes[0].PixelSpacing, SPACING_MM[2]
    orientation.ImageOrientationPatient = planes[0].ImageOrientationPatient
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups, stored = [], []
    for time in range(times):
        for n, k in enumerate(order):
            plane = planes[k]
            values = np.frombuffer(plane.PixelData, "<u2")[: plane.Rows * plane.Columns]
            slope = 1.0 if slopes is None else slopes[n % len(slopes)]
            position, rescale, content = Dataset(), Dataset(), Dataset()
            position.ImagePositionPatient = plane.ImagePositionPatient
            rescale.RescaleSlope, rescale.RescaleIntercept = slope, -1024
            rescale.RescaleType = "US"
            content.StackID, content.InStackPositionNumber = "1", k + 1
            content.TemporalPositionIndex = time + 1
            content.DimensionIndexValues = [1, k + 1, time + 1]
            group = Dataset()
            group.PlanePositionSequence = Sequence([position])
            group.PixelValueTransformationSequence = Sequence([rescale])
            group.FrameContentSequence = Sequence([content])
            groups.append(group)
            # Time points differ by 100, so that mixed phases show.
            stored.append(np.rint((values + 100.0 * time) / slope).astype("<u2"))
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    stack = np.stack(stored).reshape(len(stored), planes[0].Rows, planes[0].Columns)
    set_pixels(ds, stack)
    ds.NumberOfFrames = len(stored)
    if edit is not None:
        edit(ds)
    return ds


def other_object(sop_class: str, *, modality: str, like: Dataset | None = None) -> Dataset:
    """A small object that is no image of a volume, of the same study (and series, if asked) as
    `like`.
    """
    ds = instance(sop_class, modality=modality)
    ds.StudyInstanceUID = generate_uid() if like is None else like.StudyInstanceUID
    ds.SeriesInstanceUID = generate_uid()
    return ds


def raw_header_end(path: Path) -> int:
    """Position of the pixel element of an explicit VR little endian file."""
    return path.read_bytes().rindex(b"\xe0\x7f\x10\x00")


def any_value(ds: Dataset, keyword: str, value: Any) -> None:
    """Sets an element without pydicom's own checks of the value."""
    tag = pydicom.datadict.tag_for_keyword(keyword)
    vr = pydicom.datadict.dictionary_VR(tag)
    ds.pop(tag, None)
    raw = value if isinstance(value, bytes) else str(value).encode()
    raw += b" " * (len(raw) % 2)
    ds[tag] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(tag), vr, len(raw), raw, 0, False, True
    )
