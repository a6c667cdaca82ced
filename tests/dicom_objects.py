"""Source series with known geometry, and other programs' view of the objects made from them."""

import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from medseg.core.geometry import LPS_TO_RAS, Geometry
from medseg.core.identity import Case, SeriesRef
from medseg.core.volume import Volume
from medseg.dicom.ct_series import series_geometry, write_ct_series

# Directions of an oblique grid in RAS: no axis lies in a plane of the patient.
OBLIQUE = np.linalg.qr(np.array([[-0.9, 0.3, 0.2], [-0.25, -0.85, 0.35], [0.3, 0.2, 0.93]]))[0]


def oblique_geometry(shape=(19, 18, 11), spacing_mm=(0.9, 1.3, 2.7)):
    """A right-handed grid turned about every axis, with the odd matrix 19 x 18."""
    directions = OBLIQUE * np.sign(np.diag(OBLIQUE)) * (-1, -1, 1)
    if np.linalg.det(directions) < 0:
        directions[:, 2] *= -1
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = (31.0, -17.5, 112.25)
    return Geometry(shape, affine)


def series_case(folder, geometry, *, key="case_1", edit=None):
    """A CT series on `geometry` and its Case; returns (case, grid of the slices).

    Args:
        folder: to write to.
        geometry: any orthogonal grid; its k axis is reversed if it is left-handed.
        key: case key.
        edit: called with each slice's data set and its number before it is written again.
    """
    volume = Volume(np.zeros((1, *geometry.shape), np.int16), geometry, "CT")
    paths = write_ct_series(volume, folder, case_key=key, seed=5)
    for number, path in enumerate(paths):
        if edit is not None:
            dataset = pydicom.dcmread(path)
            edit(dataset, number)
            dataset.save_as(path)
    return case_of(paths, key), series_geometry(geometry)


def case_of(paths, key="case_1"):
    header = pydicom.dcmread(paths[0], stop_before_pixels=True)
    series = SeriesRef(
        str(header.get("StudyInstanceUID", "")),
        str(header.get("SeriesInstanceUID", "")),
        str(header.get("FrameOfReferenceUID", "")),
        header.Modality,
        tuple(paths),
    )
    return Case(key, lambda: pytest.fail("a writer reads no pixels"), series=series)


def tilted_case(folder, geometry, degrees=12.0):
    """A series whose gantry leans by `degrees`; returns (case, sheared grid of the slices)."""
    shift = geometry.spacing_mm[2] * np.tan(np.deg2rad(degrees))
    column_lps = (LPS_TO_RAS[:3, :3] @ geometry.directions)[:, 1]

    def lean(dataset, number):
        position = np.array([float(v) for v in dataset.ImagePositionPatient])
        dataset.ImagePositionPatient = [round(v, 6) for v in position + number * shift * column_lps]
        dataset.GantryDetectorTilt = degrees

    case, grid = series_case(folder, geometry, edit=lean)
    affine = grid.affine.copy()
    affine[:3, 2] += shift * geometry.directions[:, 1]
    return case, Geometry(grid.shape, affine)


def enhanced_case(folder, geometry):
    """The same series as one Enhanced CT file, frames stored from the last to the first."""
    case, grid = series_case(folder / "classic", geometry)
    slices = [pydicom.dcmread(path) for path in case.series.paths]
    first = slices[0]
    enhanced = Dataset()
    for element in first:
        if element.keyword not in _PER_FRAME:
            enhanced.add(element)
    enhanced.SOPClassUID = EnhancedCTImageStorage
    enhanced.SOPInstanceUID = first.SOPInstanceUID + ".1"
    enhanced.NumberOfFrames = len(slices)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_pick(first, "PixelSpacing", "SliceThickness")]
    shared.PlaneOrientationSequence = [_pick(first, "ImageOrientationPatient")]
    rescale = _pick(first, "RescaleSlope", "RescaleIntercept", "RescaleType")
    shared.PixelValueTransformationSequence = [rescale]
    enhanced.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, dataset in enumerate(reversed(slices)):
        group = Dataset()
        content = Dataset()
        content.DimensionIndexValues = [number + 1]
        group.FrameContentSequence = [content]
        group.PlanePositionSequence = [_pick(dataset, "ImagePositionPatient")]
        groups.append(group)
    enhanced.PerFrameFunctionalGroupsSequence = groups
    enhanced.PixelData = b"".join(dataset.PixelData for dataset in reversed(slices))
    enhanced.file_meta = FileMetaDataset()
    enhanced.file_meta.MediaStorageSOPClassUID = enhanced.SOPClassUID
    enhanced.file_meta.MediaStorageSOPInstanceUID = enhanced.SOPInstanceUID
    enhanced.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / "enhanced.dcm"
    enhanced.save_as(path, enforce_file_format=True)
    return case_of([path]), grid


def problems_of(path):
    """What dciodvfy (dicom3tools) complains about; skips where it is not installed."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    result = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning"))]


def highdicom_masks(path, geometry):
    """Mask of each segment as highdicom reads it, brought to `geometry` by position."""
    segmentation = highdicom.seg.segread(path)
    volume = segmentation.get_volume(combine_segments=False, rescale_fractional=True)
    affine_ras = LPS_TO_RAS @ volume.affine
    numbers = [n for n in segmentation.segment_numbers if n != 0]
    return {
        number: at_positions(volume.array[..., index], affine_ras, geometry)
        for index, number in enumerate(numbers)
    }


def dcmqi_masks(path, folder, geometry):
    """Mask of each segment as dcmqi reads it, brought to `geometry` by position.

    Skips where dcmqi is not installed. Segments without voxels are left out, as dcmqi does.
    """
    folder.mkdir(parents=True)
    command = ["--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd"]
    subprocess.run([dcmqi_program(), *command], capture_output=True, check=True)
    masks = {}
    for file in sorted(folder.glob("*.nrrd")):
        image = SimpleITK.ReadImage(str(file))
        array = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
        affine = np.eye(4)
        directions = np.array(image.GetDirection()).reshape(3, 3)
        affine[:3, :3] = directions * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        for number in np.unique(array[array > 0]):
            mask = at_positions(array == number, LPS_TO_RAS @ affine, geometry)
            masks[int(number)] = masks.get(int(number), False) | mask
    return masks


def dcmqi_program():
    beside = Path(sys.executable).parent / "segimage2itkimage"
    program = str(beside) if beside.exists() else shutil.which("segimage2itkimage")
    if program is None:
        pytest.skip("segimage2itkimage is not installed (Python package dcmqi)")
    return program


def at_positions(values, affine_ras, geometry):
    """Values of another grid at the same positions in mm; fails if a voxel lies between two."""
    result = np.zeros(geometry.shape, values.dtype)
    where = np.argwhere(values)
    positions = where @ affine_ras[:3, :3].T + affine_ras[:3, 3]
    indices = geometry.to_index(positions)
    rounded = np.rint(indices).astype(int)
    if len(where):
        # A hundredth of a voxel: decimal strings are shorter than a float64.
        assert np.abs(indices - rounded).max() < 1e-2
        assert rounded.min() >= 0
        assert (rounded < geometry.shape).all()
    result[tuple(rounded.T)] = values[tuple(where.T)]
    return result


_PER_FRAME = {
    "PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "RescaleSlope", "RescaleIntercept", "RescaleType", "SOPClassUID",
    "SOPInstanceUID",
}  # fmt: skip


def _pick(dataset, *keywords):
    item = Dataset()
    for keyword in keywords:
        setattr(item, keyword, dataset[keyword].value)
    return item
