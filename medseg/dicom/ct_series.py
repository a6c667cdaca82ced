"""Writes a volume as a classic CT series: one file per slice, geometry exact, nothing random.

It is for synthetic images only (phantoms, tests): the patient in the headers is invented and says
so.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from medseg.core.errors import GeometryError, InputError, OutputError
from medseg.core.geometry import LPS_TO_RAS, Geometry
from medseg.core.volume import Volume

# Stored value 0 is air of a 12-bit scanner; 16 unsigned bits then reach far beyond any tissue.
_INTERCEPT_HU = -1024
_LARGEST_STORED = 65535
_DATE, _TIME = "20000101", "120000"
_IMPLEMENTATION_UID = "2.25.196583012483406932871964107290817311"


def series_geometry(geometry: Geometry) -> Geometry:
    """The grid that a DICOM series gives the same voxels: k reversed if the axes are left-handed.

    DICOM slices follow one another along row direction x column direction, so a grid with (i, j,
    k) along columns, rows and slices is right-handed.
    """
    is_left_handed = np.linalg.det(geometry.affine[:3, :3]) < 0
    return geometry.permuted((0, 1, 2), (2,)) if is_left_handed else geometry


def write_ct_series(volume: Volume, folder: str | Path, *, case_key: str, seed: int) -> list[Path]:
    """Writes one CT Image file per slice along k and returns the files in the order of the slices.

    Axis i becomes the column number, j the row number and k the slice. The axes may point
    anywhere; left-handed ones have their slices written from the last to the first (see
    `series_geometry`), so every voxel keeps its position. Values are rounded to whole Hounsfield
    units.

    Args:
        volume: one channel of HU within -1024 and 64511, axes at right angles.
        folder: made if needed; files are named slice_0001.dcm and so on.
        case_key: names the invented patient; with `seed` it determines every UID.
        seed: of the phantom, so that equal keys of two data sets differ.

    Raises:
        InputError: more than one channel, or values that are not finite or do not fit.
        GeometryError: the axes are not at right angles.
        OutputError: the folder cannot be written, or holds a series already.
    """
    stored = _stored_values(volume, case_key=case_key)
    geometry = volume.geometry
    if not geometry.is_orthogonal:
        raise GeometryError(
            case_key,
            "the axes of the volume are not at right angles, which a CT series cannot express",
            "resample it to a grid with right angles",
        )
    if series_geometry(geometry) is not geometry:
        geometry = series_geometry(geometry)
        stored = stored[:, :, ::-1]
    target = Path(folder)
    if any(target.glob("slice_*.dcm")):
        raise OutputError(
            target,
            "already holds a series; slices of two series would lie side by side",
            "name an empty folder, or remove the old series",
        )
    common = _common_header(geometry, case_key=case_key, seed=seed)
    paths = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for k in range(geometry.shape[2]):
            path = target / f"slice_{k + 1:04d}.dcm"
            header = _slice_header(common, geometry, k, case_key=case_key, seed=seed)
            header.PixelData = np.ascontiguousarray(stored[:, :, k].T).astype("<u2").tobytes()
            header.save_as(path, enforce_file_format=True)
            paths.append(path)
    except OSError as error:
        raise OutputError(
            target,
            f"the CT series cannot be written ({error.strerror or error})",
            "check the folder's permissions and its free space",
        ) from error
    return paths


def _stored_values(volume: Volume, *, case_key: str) -> NDArray[Any]:
    if volume.num_channels != 1:
        raise InputError(
            case_key,
            f"a CT series holds one channel, the volume has {volume.num_channels}",
            "write each channel as a series of its own",
        )
    hu = volume.array[0]
    low, high = _INTERCEPT_HU, _LARGEST_STORED + _INTERCEPT_HU
    # Negated, so that NaN is refused too.
    if not (low <= hu.min() and hu.max() <= high):
        raise InputError(
            case_key,
            f"values run from {hu.min()} to {hu.max()} HU; a CT series holds {low} to {high}",
            "clip the volume or check its unit",
        )
    return np.round(hu).astype(np.int32) - _INTERCEPT_HU


def _common_header(geometry: Geometry, *, case_key: str, seed: int) -> Dataset:
    """Everything that all slices of the series share."""
    affine_lps = LPS_TO_RAS @ geometry.affine
    directions_lps = affine_lps[:3, :3] / np.array(geometry.spacing_mm)
    spacing_mm = geometry.spacing_mm
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    for keyword in ("Study", "Series", "Acquisition", "Content"):
        setattr(header, f"{keyword}Date", _DATE)
        setattr(header, f"{keyword}Time", _TIME)
    header.AccessionNumber = ""
    header.Modality = "CT"
    header.Manufacturer = "medseg"
    header.ManufacturerModelName = "phantom"
    header.DeviceSerialNumber = "0"
    header.SoftwareVersions = "1"
    header.ReferringPhysicianName = ""
    header.StudyDescription = "Synthetic phantom, not a patient"
    header.SeriesDescription = "Synthetic abdomen"
    # Not the key itself: names of cases must never repeat what stands in these elements.
    identity = hashlib.sha256(f"{seed} {case_key}".encode()).hexdigest()[:12].upper()
    header.PatientName = f"SYNTHETIC^{identity}"
    header.PatientID = identity
    header.PatientBirthDate = ""
    header.PatientSex = "O"
    header.BodyPartExamined = "ABDOMEN"
    header.SliceThickness = _decimal(spacing_mm[2])
    header.KVP = DSfloat(120)
    header.PatientPosition = "HFS"
    header.StudyInstanceUID = _uid("study", seed, case_key)
    header.SeriesInstanceUID = _uid("series", seed, case_key)
    header.StudyID = "1"
    header.SeriesNumber = 1
    header.AcquisitionNumber = 1
    header.ImageOrientationPatient = [_decimal(v) for v in directions_lps[:, :2].T.ravel()]
    header.FrameOfReferenceUID = _uid("frame of reference", seed, case_key)
    header.PositionReferenceIndicator = ""
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = geometry.shape[1], geometry.shape[0]
    # Distance between rows comes first (PS3.3 10.7.1.3); rows follow one another along j.
    header.PixelSpacing = [_decimal(spacing_mm[1]), _decimal(spacing_mm[0])]
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 0
    header.WindowCenter = DSfloat(40)
    header.WindowWidth = DSfloat(400)
    header.RescaleIntercept = DSfloat(_INTERCEPT_HU)
    header.RescaleSlope = DSfloat(1)
    header.RescaleType = "HU"
    return header


def _slice_header(
    common: Dataset, geometry: Geometry, k: int, *, case_key: str, seed: int
) -> Dataset:
    header = Dataset()
    header.update(common)
    header.SOPInstanceUID = _uid("image", seed, case_key, k)
    header.InstanceNumber = k + 1
    position_lps = (LPS_TO_RAS @ geometry.affine)[:3] @ np.array([0.0, 0.0, k, 1.0])
    header.ImagePositionPatient = [_decimal(v) for v in position_lps]
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.ImplementationClassUID = _IMPLEMENTATION_UID
    return header


def _decimal(value: float) -> DSfloat:
    """Decimal string of at most 16 characters; it differs from `value` by less than 1e-9 mm."""
    return DSfloat(float(value) + 0.0, auto_format=True)


def _uid(*parts: str | int) -> str:
    """UID under 2.25 (PS3.5 B.2), the same for the same parts."""
    name = "/".join(["medseg phantom", *(str(part) for part in parts)])
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}"
