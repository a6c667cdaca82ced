"""Phantoms: the same each time, hard enough, on disk as in memory, never in place of real data."""

from __future__ import annotations

import json
import pickle
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from medseg.core.errors import ConfigError, InputError, OutputError
from medseg.core.labels import LabelSet
from medseg.sources.phantom import FolderOrPhantoms, Phantoms
from medseg.sources.phantom_files import write_dataset
from medseg.sources.phantom_scan import (
    AXIAL_ORIENTATIONS,
    OTHER_ORIENTATIONS,
    PHANTOM_VERSION,
    make_phantom,
)

SAMPLE = [make_phantom(0, number) for number in range(6)]


def dice(reference, prediction):
    return 2 * (reference & prediction).sum() / max(reference.sum() + prediction.sum(), 1)


def largest_component(mask):
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def test_the_same_arguments_give_the_same_bits():
    volume, label_map = make_phantom(0, 1)

    assert np.array_equal(volume.array, SAMPLE[1][0].array)
    assert np.array_equal(label_map.array, SAMPLE[1][1].array)
    assert np.array_equal(volume.geometry.affine, SAMPLE[1][0].geometry.affine)


@pytest.mark.parametrize(
    "arguments", [{"seed": 1, "number": 0}, {"seed": 0, "number": 0, "stream": 1}]
)
def test_another_seed_or_stream_gives_another_phantom(arguments):
    volume, _ = make_phantom(**arguments)

    same_shape = volume.array.shape == SAMPLE[0][0].array.shape
    assert not (same_shape and np.array_equal(volume.array, SAMPLE[0][0].array))


@pytest.mark.parametrize("number", range(6))
def test_a_phantom_is_a_ct_of_the_promised_size(number):
    volume, label_map = SAMPLE[number]
    canonical = label_map.reoriented("RAS")

    assert volume.modality == "CT"
    assert volume.array.dtype == np.int16
    assert volume.array.min() >= -1024
    assert volume.array.max() <= 3071
    assert label_map.geometry.difference(volume.geometry) is None
    assert volume.geometry.orientation in AXIAL_ORIENTATIONS + OTHER_ORIENTATIONS
    assert all(
        low <= extent <= high
        for extent, low, high in zip(
            canonical.array.shape, (112, 96, 28), (144, 128, 48), strict=True
        )
    )
    assert 4.0 <= canonical.geometry.spacing_mm[2] <= 6.0


@pytest.mark.parametrize("number", range(6))
def test_the_liver_is_one_organ_on_the_right_with_tumours_inside(number):
    _, label_map = SAMPLE[number]
    liver = label_map.array > 0
    volume_ml = liver.sum() * label_map.geometry.voxel_volume_mm3 / 1000
    centre = label_map.geometry.to_world_mm(np.argwhere(liver).mean(axis=0))

    assert ndimage.label(liver)[1] == 1
    # Livers of adults measure about 1000 to 2300 ml.
    assert 900 < volume_ml < 2500
    assert centre[0] > label_map.geometry.centre_mm[0] + 20
    # Tumours lie in the liver: around each voxel of one there is liver or tumour nearly everywhere.
    around = ndimage.binary_dilation(label_map.array == 2) & (label_map.array == 0)
    assert around.sum() <= 0.35 * max((label_map.array == 2).sum(), 1)


def test_phantoms_differ_in_phase_orientation_spacing_and_number_of_tumours():
    liver_hu = [volume.array[0][label_map.array == 1].mean() for volume, label_map in SAMPLE]
    tumours = {ndimage.label(label_map.array == 2)[1] for _, label_map in SAMPLE}

    assert max(liver_hu) - min(liver_hu) > 20
    assert len({volume.geometry.orientation for volume, _ in SAMPLE}) >= 4
    assert len({volume.geometry.spacing_mm for volume, _ in SAMPLE}) == 6
    assert len(tumours) >= 3


def test_no_interval_of_hounsfield_units_finds_liver_or_tumours():
    livers: dict[tuple[int, int], list[float]] = {}
    tumours: dict[tuple[int, int], list[float]] = {}
    for volume, label_map in (*SAMPLE, *(make_phantom(0, number) for number in range(6, 14))):
        # Smoothed against noise, and every second voxel for speed.
        hu = volume.reoriented("RAS").array[0].astype(np.float32)
        hu = ndimage.gaussian_filter(hu, (1.0, 1.0, 0.5))[::2, ::2]
        labels = label_map.reoriented("RAS").array[::2, ::2]
        for low in range(30, 111, 20):
            for width in (20, 40, 60, 80):
                within = (hu >= low) & (hu <= low + width)
                found = dice(labels > 0, largest_component(within))
                livers.setdefault((low, width), []).append(found)
                tumours.setdefault((low, width), []).append(dice(labels == 2, within))

    assert max(np.mean(values) for values in livers.values()) < 0.75
    assert max(np.mean(values) for values in tumours.values()) < 0.3


def test_organs_have_the_hounsfield_units_of_an_abdomen():
    volume, label_map = (image.reoriented("RAS") for image in SAMPLE[0])
    hu = volume.array[0]
    # Slice by slice, as the lungs leave the field of view at the top.
    body = largest_component(hu > -300)
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in body.transpose(2, 0, 1)], -1)

    assert -1005 < np.median(hu[~ndimage.binary_dilation(body, iterations=3)]) < -980
    assert 40 < hu[label_map.array == 1].mean() < 130
    inside = hu[body]
    # Lung and gas, fat, and bone each take a part of the body.
    assert 0.02 < (inside < -700).mean() < 0.30
    assert 0.15 < ((inside > -140) & (inside < -60)).mean() < 0.60
    assert 0.01 < (inside > 250).mean() < 0.12


def test_a_phantom_for_a_series_shows_the_same_anatomy_on_a_right_handed_axial_grid():
    for number in (1, 3):
        volume, label_map = make_phantom(0, number, for_series=True)

        canonical = volume.reoriented("RAS")
        assert np.array_equal(canonical.array, SAMPLE[number][0].reoriented("RAS").array)
        assert volume.geometry.orientation[2] in "IS"
        assert np.linalg.det(volume.geometry.affine[:3, :3]) > 0
        assert label_map.geometry.difference(volume.geometry) is None


def test_the_source_lists_training_and_held_out_cases_sorted_by_key():
    cases = Phantoms(3, 2, seed=5).cases()

    keys = [case.key for case in cases]
    assert keys == ["phantom_000", "phantom_001", "phantom_002", "unseen_000", "unseen_001"]
    assert [case.is_held_out for case in cases] == [False, False, False, True, True]


def test_cases_can_be_sent_to_another_process_and_read_in_any_order():
    case = pickle.loads(pickle.dumps(Phantoms(2, 0).cases()[1]))

    reference, image = case.read_reference(), case.read_image()

    assert np.array_equal(reference.array, SAMPLE[1][1].array)
    assert np.array_equal(image.array, SAMPLE[1][0].array)
    assert np.array_equal(case.read_image().array, image.array)


def test_the_source_says_that_its_cases_are_not_patients():
    description = FolderOrPhantoms(num_cases=2).describe()

    assert description.notice == "trained on synthetic phantoms, not for patients"
    assert description.channel_names == ("CT",)
    assert description.labels.names == ("background", "liver", "tumour")


def test_held_out_cases_are_written_once_and_read_back_from_dicom(tmp_path):
    source = Phantoms(0, 1, seed=3, studies_folder=str(tmp_path / "studies"))
    case = source.cases()[0]
    written = case.paths[0].stat().st_mtime_ns

    image, reference = case.read_image(), case.read_reference()
    again = source.cases()[0]

    volume, label_map = make_phantom(3, 0, stream=1, for_series=True)
    assert case.series.modality == "CT"
    assert case.series.paths == again.series.paths
    assert again.paths[0].stat().st_mtime_ns == written
    assert image.geometry.difference(volume.geometry) is None
    assert np.array_equal(image.array, volume.array)
    assert reference.geometry.difference(image.geometry) is None
    assert np.array_equal(reference.array, label_map.array)


def test_held_out_studies_of_which_a_part_is_gone_are_written_anew(tmp_path):
    source = Phantoms(0, 1, studies_folder=str(tmp_path))
    lost = source.cases()[0].series.paths[4]
    lost.unlink()

    cases = source.cases()

    assert lost in cases[0].series.paths
    assert lost.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [
        f"version_{PHANTOM_VERSION}_seed_0_cases_1"
    ]


def test_a_studies_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "taken").write_text("")

    with pytest.raises(OutputError, match=r"taken.*cannot be written .*"):
        Phantoms(0, 1, studies_folder=str(tmp_path / "taken")).cases()


def test_a_named_folder_that_is_missing_is_an_error_and_not_a_phantom(tmp_path):
    missing = str(tmp_path / "Task03_Liver")

    with pytest.raises(
        InputError, match=re.escape(missing) + r": there is no such folder; correct source.folder"
    ):
        FolderOrPhantoms(folder=missing).cases()
    with pytest.raises(InputError, match="there is no such folder"):
        FolderOrPhantoms(folder=missing).describe()


def test_an_empty_folder_name_is_an_error():
    with pytest.raises(ConfigError, match=r"source.folder: is empty; name a folder, or leave"):
        FolderOrPhantoms(folder=" ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_cases": -1}, r"source.num_cases: is -1, must be at least 0"),
        ({"seed": -4}, r"source.seed: is -4, must be at least 0"),
        ({"num_cases": 0, "num_held_out": 0}, r"asks for no phantom at all; set source.num_cases"),
    ],
)
def test_impossible_numbers_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Phantoms(**arguments)


def test_a_given_folder_is_read_in_place_of_phantoms(tmp_path):
    write_dataset(tmp_path, num_cases=2, seed=0)

    source = FolderOrPhantoms(folder=str(tmp_path))
    cases = source.cases()

    assert source.describe().notice == ""
    assert source.describe().labels.names == ("background", "liver", "tumour")
    assert [case.key for case in cases] == ["phantom_000", "phantom_001"]
    assert np.array_equal(cases[1].read_image().array, SAMPLE[1][0].array)
    assert np.array_equal(cases[1].read_reference().array, SAMPLE[1][1].array)


def test_a_written_data_set_is_read_back_by_other_libraries(tmp_path):
    write_dataset(tmp_path, num_cases=1, seed=0, formats=("nifti", "dicom"))

    image = nib.load(tmp_path / "imagesTr" / "phantom_000.nii.gz")
    label = nib.load(tmp_path / "labelsTr" / "phantom_000.nii.gz")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "dicom" / "phantom_000")))
    series = sitk.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)
    volume, label_map = make_phantom(0, 0, for_series=True)
    assert np.array_equal(np.asarray(image.dataobj), volume.array[0])
    assert np.array_equal(np.asarray(label.dataobj), label_map.array)
    assert np.array_equal(series, volume.array[0])
    # NIfTI stores float32.
    assert image.affine == pytest.approx(volume.geometry.affine, abs=1e-4)
    description = json.loads((tmp_path / "dataset.json").read_text())
    assert description["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    assert description["numTraining"] == 1


def test_the_labels_of_the_liver_option_are_those_of_the_phantom():
    from omegaconf import OmegaConf

    from medseg.config.compose import conf_dir

    option = OmegaConf.load(conf_dir() / "data" / "liver.yaml")

    written = LabelSet.from_mapping(OmegaConf.to_container(option.labels))
    assert written == FolderOrPhantoms().describe().labels
