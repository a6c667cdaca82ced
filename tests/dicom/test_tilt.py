"""Leaning stacks are straightened, and results go back onto the slices as acquired."""

from __future__ import annotations

from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest
from dicom_cases import SPOT_LPS, save_all, slices
from pydicom.dataset import Dataset

from medseg.core.errors import GeometryError
from medseg.core.identity import SeriesRef
from medseg.dicom.headers import index_folder
from medseg.dicom.source_series import on_slices, read_source_series
from medseg.dicom.volumes import read_dicom_volumes, read_series


def tilted(folder: Path, degrees: float, *, state_it: bool = False) -> SeriesRef:
    """A CT whose gantry leans: slices turn about the x axis, the table moves along z."""
    angle = np.radians(degrees)
    column = (0.0, float(np.cos(angle)), float(np.sin(angle)))

    def edit(ds: Dataset, k: int) -> None:
        if state_it:
            ds.GantryDetectorTilt = degrees

    datasets = slices(
        shape=(40, 42, 15),
        column=column,
        step_lps=np.array([0.0, 0.0, 2.5]),
        edit=edit,
    )
    save_all(datasets, folder)
    (found,) = index_folder(folder).volumes
    return found.series


@pytest.mark.parametrize("degrees", [15.0, -15.0, 22.5, 4.0])
def test_tilted_series_is_read_on_an_orthogonal_grid(degrees: float, tmp_path: Path) -> None:
    tilted(tmp_path, degrees)

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.geometry.is_orthogonal
    assert any("tilt" in note for note in volume.notes)
    array = volume.array[0].astype(float)
    expected = cases.expected_values(volume.geometry.affine, volume.spatial_shape)
    inside = array > -900
    assert inside.sum() >= 40 * 41.5 * 15
    # Linear interpolation within a slice: exact on the slopes, up to 8 of 600 HU too low on the
    # spot.
    assert np.abs(array - expected)[inside].max() < 15
    centre = cases.spot_centre_ras(np.where(inside, array, expected), volume.geometry.affine)
    reference = cases.spot_centre_ras(expected, volume.geometry.affine)
    np.testing.assert_allclose(centre, reference, atol=0.1)
    np.testing.assert_allclose(centre, SPOT_LPS * (-1, -1, 1), atol=0.3)


def test_tilted_series_can_be_kept_as_acquired(tmp_path: Path) -> None:
    series = tilted(tmp_path, 15.0)

    volume = read_series(series, on_tilt="keep")

    assert volume.spatial_shape == (40, 42, 15)
    assert not volume.geometry.is_orthogonal
    expected = cases.expected_values(volume.geometry.affine, volume.spatial_shape)
    assert np.abs(volume.array[0] - expected).max() <= 0.6


def test_tilted_series_can_be_refused(tmp_path: Path) -> None:
    series = tilted(tmp_path, 15.0)

    with pytest.raises(GeometryError, match=r"lean by 15\.0 degrees") as caught:
        read_series(series, on_tilt="refuse")

    assert caught.value.code == "E_TILT"
    assert "on_tilt=resample" in caught.value.remedy


def test_small_tilt_is_believed_if_the_header_states_it(tmp_path: Path) -> None:
    tilted(tmp_path, 1.5, state_it=True)

    (volume,) = read_dicom_volumes(tmp_path)

    assert volume.geometry.is_orthogonal


def test_small_tilt_is_refused_if_nothing_states_it(tmp_path: Path) -> None:
    angle = np.radians(1.5)
    column = (0.0, float(np.cos(angle)), float(np.sin(angle)))
    save_all(slices(column=column, step_lps=np.array([0.0, 0.0, 2.5])), tmp_path)

    with pytest.raises(GeometryError, match="shifted sideways") as caught:
        read_dicom_volumes(tmp_path)

    assert caught.value.code == "E_SLICE_DRIFT"


@pytest.mark.parametrize("degrees", [15.0, -15.0])
def test_labels_go_back_onto_the_tilted_slices(degrees: float, tmp_path: Path) -> None:
    series = tilted(tmp_path, degrees)
    volume = read_series(series)
    native = read_series(series, on_tilt="keep")
    source = read_source_series(series, where="tilted")

    restored = on_slices(volume.array[0] > 250, volume.geometry, source, where="tilted")

    assert native.geometry.difference(source.lattice.geometry) is None
    assert restored.shape == (40, 42, 15)
    truth = native.array[0] > 250
    overlap = 2 * (truth & restored).sum() / (truth.sum() + restored.sum())
    # Two nearest-neighbour roundings of half a pixel at the rim of a ball 12 voxels wide.
    assert overlap > 0.93


def test_labels_of_an_upright_series_come_back_unchanged(tmp_path: Path) -> None:
    save_all(slices(), tmp_path)
    (found,) = index_folder(tmp_path).volumes
    volume = read_series(found.series)
    source = read_source_series(found.series, where="upright")

    restored = on_slices(volume.array[0] > 250, volume.geometry, source, where="upright")

    assert restored.any()
    np.testing.assert_array_equal(restored, volume.array[0] > 250)


def test_paths_of_a_series_follow_k(tmp_path: Path) -> None:
    series = tilted(tmp_path, 15.0)
    import pydicom

    heights = [float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in series.paths]

    assert heights == sorted(heights)


def test_missing_slices_are_interpolated_when_asked(tmp_path: Path) -> None:
    datasets = slices(shape=(19, 18, 20), spacing_mm=(1.25, 0.9, 1.0))
    del datasets[3]
    del datasets[14:16]
    save_all(datasets, tmp_path)

    (volume,) = read_dicom_volumes(tmp_path, on_gap="resample")

    assert volume.spatial_shape == (19, 18, 20)
    expected = cases.expected_values(volume.geometry.affine, volume.spatial_shape)
    # Exact on the linear slopes; the spot (sigma 3 mm) is flattened by at most a few per cent.
    difference = np.abs(volume.array[0] - expected).max(axis=(0, 1))
    assert difference.max() < 60
    assert np.delete(difference, [3, 15, 16]).max() <= 0.6
    assert any("3 missing slices interpolated" in note for note in volume.notes)


def test_uneven_slices_are_refused_even_when_gaps_are_interpolated(tmp_path: Path) -> None:
    datasets = slices()
    datasets[5].ImagePositionPatient[2] = float(datasets[5].ImagePositionPatient[2]) + 0.4
    save_all(datasets, tmp_path)

    with pytest.raises(GeometryError) as caught:
        read_dicom_volumes(tmp_path, on_gap="resample")

    assert caught.value.code == "E_SLICE_GAP"


def test_labels_on_another_grid_are_brought_back_by_position(tmp_path: Path) -> None:
    series = tilted(tmp_path, 15.0)
    straight = read_series(series)
    turned = straight.reoriented("RAS")
    source = read_source_series(series, where="tilted")

    from_turned, from_straight = (
        on_slices(volume.array[0] > 250, volume.geometry, source, where="tilted")
        for volume in (turned, straight)
    )

    assert turned.geometry.difference(straight.geometry) is not None
    assert from_turned.any()
    np.testing.assert_array_equal(from_turned, from_straight)
