"""read_volumes: every volume below a path, in any format."""

import gzip
import logging

import dicom_cases
import image_folders
import nibabel as nib
import numpy as np
import phantoms
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from medseg.core.errors import InputError
from medseg.sources.read import read_volumes


def test_all_formats_below_a_folder_are_read(tmp_path):
    image_folders.write(tmp_path / "deep" / "down" / "a.nii.gz", image_folders.image())
    Image.fromarray(np.eye(7, 5, dtype=np.uint8)).save(tmp_path / "b.png")
    phantoms.dicom_series(tmp_path / "series")
    (tmp_path / "notes.txt").write_text("not an image")

    volumes = read_volumes(tmp_path)

    assert [volume.array.shape for volume in volumes[:2]] == [(1, 5, 7, 1), (1, 6, 5, 4)]
    assert len(volumes) == 3
    assert volumes[2].modality == "CT"


def test_a_file_may_be_given_as_text(tmp_path):
    path = image_folders.write(tmp_path / "a.nii.gz", image_folders.image())

    (volume,) = read_volumes(str(path))

    np.testing.assert_allclose(volume.geometry.affine, image_folders.AFFINE)


def test_a_nifti_file_is_known_without_its_ending(tmp_path):
    path = image_folders.write(tmp_path / "a.nii.gz", image_folders.image())
    plain, packed = tmp_path / "plain", tmp_path / "packed.gz"
    packed.write_bytes(path.read_bytes())
    plain.write_bytes(gzip.decompress(path.read_bytes()))

    for renamed in (plain, packed):
        assert read_volumes(renamed)[0].array.shape == (1, *image_folders.SHAPE)


def test_a_bad_file_among_good_ones_is_logged_with_its_code(tmp_path, caplog):
    image_folders.write(tmp_path / "a.nii.gz", image_folders.image())
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-30])

    with caplog.at_level(logging.WARNING):
        volumes = read_volumes(tmp_path)

    assert len(volumes) == 1
    assert "E_TRUNCATED" in caplog.text
    assert "b.nii.gz" in caplog.text


def test_a_single_bad_file_raises_its_own_error(tmp_path):
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(image_folders.image(), None), path)

    with pytest.raises(InputError) as caught:
        read_volumes(tmp_path)

    assert caught.value.code == "E_NO_ORIENTATION"
    assert caught.value.where == str(path)
    assert read_volumes(path, allow_unknown_orientation=True)[0].num_channels == 1


def test_all_bad_files_are_named_when_nothing_is_left(tmp_path):
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).write_bytes(b"")

    with pytest.raises(InputError) as caught:
        read_volumes(tmp_path)

    assert caught.value.code == "E_TRUNCATED"
    assert "a.nii" in caught.value.what
    assert "b.nii" in caught.value.what


@pytest.mark.parametrize("content", [None, b"", b"neither image nor DICOM"])
def test_a_path_without_images_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "x").write_bytes(content)

    for path in (tmp_path, tmp_path / "x"):
        with pytest.raises(InputError) as caught:
            read_volumes(path)
        assert caught.value.code.startswith("E_")
        assert caught.value.remedy


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no such file; check the path") as caught:
        read_volumes(tmp_path / "nowhere")

    assert caught.value.code == "E_NO_FILE"
    assert caught.value.where == str(tmp_path / "nowhere")


@pytest.mark.real_data
def test_real_folders_give_all_their_volumes(real_data):
    assert len(read_volumes(real_data("spine_mr_sct"))) == 6
    (crop,) = read_volumes(real_data("brain_mr_dicom") / "Study1" / "13_HCropVolume")
    assert crop.array.shape[0] == 1


def test_remedies_for_dicom_series_are_options(tmp_path):
    datasets = dicom_cases.slices()
    for dataset in datasets:
        dataset.FrameOfReferenceUID = generate_uid()
    dicom_cases.save_all([*datasets[:5], *datasets[6:]], tmp_path)

    for options, code, wanted in (
        ({}, "E_MIXED_FRAME_OF_REFERENCE", "trust_positions=true"),
        ({"trust_positions": True}, "E_SLICE_GAP", "on_gap=resample"),
    ):
        with pytest.raises(InputError) as caught:
            read_volumes(tmp_path, **options)
        assert caught.value.code == code
        assert wanted in caught.value.remedy

    (volume,) = read_volumes(tmp_path, trust_positions=True, on_gap="resample")

    assert volume.spatial_shape == dicom_cases.SHAPE
    assert any("positions were trusted" in note for note in volume.notes)
    assert any("1 missing slices interpolated" in note for note in volume.notes)
