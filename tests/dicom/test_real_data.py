"""Real series: geometry and values agree with independent readers, and no file of the set
surprises.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from medseg.core.errors import InputError
from medseg.core.geometry import LPS_TO_RAS
from medseg.dicom.headers import index_folder
from medseg.dicom.volumes import read_dicom_volumes, read_found
from medseg.sources.dicom_folder import DicomFolder

pytestmark = pytest.mark.real_data
RealData = Callable[[str], Path]

PLAIN_SERIES = (
    "dcm_qa_decubitus/In/HFP/2_t1_fl2d_sag",
    "dcm_qa_frag/In/5001_anat-T1w_acq-tfl",
    "dicom_dcm4che/dcm4che-assembly/src/etc/testdata/dicom",
    "dicom_dcmqi/segmentations/24x38x3/image",
    "dicom_dcmqi/segmentations/ct-3slice",
    "dicom_dicom2nifti/ge/anatomical/001",
    "dicom_dicom2nifti/generic/anatomical/002_non_isotropic",
    "dicom_dicom2nifti/generic/compressed_j2k/001",
    "dicom_dicom2nifti/generic/compressed_rle/001",
    "dicom_dicom2nifti/hitachi/anatomical/001",
    "dicom_dicom2nifti/siemens/anatomical/001",
    "dicom_pydicom/test_files/dicomdirtests/98892001/CT5N",
    "dicom_rtutils/mock_data",
)


def itk_affine(image: sitk.Image) -> np.ndarray:
    affine_lps = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine_lps[:3, :3] = direction * np.array(image.GetSpacing())
    affine_lps[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine_lps


@pytest.mark.parametrize("name", PLAIN_SERIES)
def test_plain_series_agree_with_simpleitk(name: str, real_data: RealData) -> None:
    folder = real_data("dicom") / name
    (volume,) = read_dicom_volumes(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()

    # 1 um per slice over the stack: ITK measures the step from two slices, we fit all of them.
    np.testing.assert_allclose(volume.geometry.affine, itk_affine(image), atol=0.02)
    values = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    kept = values > -1024 if volume.modality == "CT" else np.ones(values.shape, bool)
    np.testing.assert_allclose(volume.array[0][kept], values[kept], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", PLAIN_SERIES[:5])
def test_plain_series_agree_with_highdicom(name: str, real_data: RealData) -> None:
    folder = real_data("dicom") / name
    (found,) = index_folder(folder).volumes
    volume = read_found(found)

    reference = highdicom.get_volume_from_series(
        [pydicom.dcmread(path) for path in found.series.paths], apply_presentation_lut=False
    ).to_patient_orientation(volume.geometry.orientation)

    np.testing.assert_allclose(volume.geometry.affine, LPS_TO_RAS @ reference.affine, atol=0.02)
    kept = reference.array > -1024
    np.testing.assert_allclose(volume.array[0][kept], reference.array[kept], rtol=1e-5, atol=1e-3)


def test_enhanced_ct_agrees_with_its_classic_slices(real_data: RealData) -> None:
    folder = real_data("dicom") / "dicom_dcmqi/segmentations/24x38x3"
    (classic,) = read_dicom_volumes(folder / "image")
    (enhanced,) = read_dicom_volumes(folder / "multiframe")

    assert enhanced.geometry.difference(classic.geometry) is None
    np.testing.assert_array_equal(enhanced.array, classic.array)


def test_grid_agrees_with_the_reference_nrrd_of_the_set(real_data: RealData) -> None:
    folder = real_data("dicom") / "dicom_dcmqi/segmentations/24x38x3"
    (volume,) = read_dicom_volumes(folder / "image")

    reference = sitk.ReadImage(str(folder / "nrrd" / "label.nrrd"))

    assert reference.GetSize() == volume.spatial_shape
    np.testing.assert_allclose(volume.geometry.affine, itk_affine(reference), atol=1e-3)


def test_tilted_series_is_straightened_by_its_own_angle(real_data: RealData) -> None:
    folder = real_data("dicom") / "dicom_dicom2nifti/failing/gantrytilting/001"

    (volume,) = read_dicom_volumes(folder)

    assert volume.geometry.is_orthogonal
    first, last = (pydicom.dcmread(sorted(folder.iterdir())[n]) for n in (0, -1))
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    step = np.subtract(last.ImagePositionPatient, first.ImagePositionPatient).astype(float)
    cosine = abs(np.cross(row, column) @ step) / np.linalg.norm(step)
    assert f"{np.degrees(np.arccos(cosine)):.1f} degrees" in " ".join(volume.notes)


def test_one_image_in_many_transfer_syntaxes_has_the_same_values(real_data: RealData) -> None:
    folder = real_data("dicom") / "dicom_cornerstone/testImages"
    reference = read_dicom_volumes(folder / "CTImage.dcm")[0].array

    for path in sorted(folder.glob("CTImage.dcm_*")):
        if "4.55" in path.name:
            continue
        values = read_dicom_volumes(path)[0].array
        if any(part in path.name for part in ("Process1T", "Process2_4", "JPEGLSLossy")):
            # Lossy: 8-bit baseline, 12-bit extended, near-lossless.
            assert values.shape == reference.shape
        else:
            np.testing.assert_array_equal(values, reference, err_msg=path.name)


@pytest.mark.parametrize(
    "name",
    [
        "HTJ2KLossless_08_RGB.dcm",
        "JLSL_08_07_0_1F.dcm",
        "JLSL_16_15_1_1F.dcm",
        "SC_rgb_expb_16bit.dcm",
        "SC_rgb_dcmtk_ebcyn1_dcmd.dcm",
    ],
)
def test_codecs_agree_with_pydicom(name: str, real_data: RealData, tmp_path: Path) -> None:
    # Files of codec tests without identity; given one, they are secondary captures.
    ds = pydicom.dcmread(real_data("dicom") / "dicom_pydicom_data" / name)
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    ds.save_as(tmp_path / name)

    (volume,) = read_dicom_volumes(tmp_path / name)

    expected = pydicom.pixels.pixel_array(ds)
    expected = expected[..., None] if expected.ndim == 2 else expected
    np.testing.assert_array_equal(volume.array[..., 0], expected.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("Study1/13_HCropVolume", ["13_HCropVolume"]),
        ("", ["Study1_13_HCropVolume", "Study3_11_HCropVolume", "Study3_26401-T1prereg-52906"]),
    ],
)
def test_brain_series_become_cases(name: str, keys: list[str], real_data: RealData) -> None:
    cases = DicomFolder(str(real_data("brain_mr_dicom") / name)).cases()

    assert [case.key for case in cases] == keys


def test_heart_phases_are_separated_once_positions_are_trusted(real_data: RealData) -> None:
    folder = real_data("cardiac_sunnybrook") / "dicoms" / "SCD0000101"
    with pytest.raises(InputError, match="a frame of reference of its own") as caught:
        read_dicom_volumes(folder)
    assert caught.value.code == "E_MIXED_FRAME_OF_REFERENCE"

    volumes = read_dicom_volumes(folder, trust_positions=True)

    assert [volume.spatial_shape for volume in volumes] == [(256, 256, 9)] * 2
    assert [volume.notes[0] for volume in volumes] == ["phase 1 of 2", "phase 2 of 2"]
    assert all("positions were trusted" in volume.notes[1] for volume in volumes)


@pytest.mark.slow
def test_no_file_of_the_set_raises_anything_but_input_error(real_data: RealData) -> None:
    read = 0
    for path in sorted(real_data("dicom").rglob("*")):
        if not path.is_file() or "mr_0004" in path.parts:
            continue
        try:
            read += len(read_dicom_volumes(path))
        except InputError:
            continue
    assert read > 200
