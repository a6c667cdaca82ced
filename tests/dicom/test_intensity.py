"""Standardised uptake: the formula, and every reason to refuse it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest
from dicom_cases import save_all, slices
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medseg.core.errors import InputError
from medseg.core.identity import SeriesRef
from medseg.dicom.headers import index_folder
from medseg.dicom.volumes import read_series


def pet(folder: Path, change: Callable[[Dataset], None] | None = None) -> SeriesRef:
    """A PET of 1000 Bq/ml: 80 kg, 400 MBq of a 6600 s half-life, injected 6600 s before."""

    def edit(ds: Dataset, k: int) -> None:
        cases.set_pixels(ds, np.full((ds.Rows, ds.Columns), 500, "<u2"))
        ds.RescaleSlope, ds.RescaleIntercept = 2, 0
        ds.Units, ds.DecayCorrection = "BQML", "START"
        ds.CorrectedImage = ["DECY", "ATTN", "SCAT"]
        ds.PatientWeight = 80
        item = Dataset()
        item.RadionuclideTotalDose, item.RadionuclideHalfLife = 400e6, 6600
        item.RadiopharmaceuticalStartTime = "082500.00"
        ds.RadiopharmaceuticalInformationSequence = Sequence([item])
        if change is not None:
            change(ds)

    save_all(slices(sop_class=cases.PET, modality="PT", edit=edit), folder)
    return index_folder(folder).volumes[0].series


def test_uptake_is_weight_over_decayed_dose(tmp_path: Path) -> None:
    volume = read_series(pet(tmp_path), suv=True)

    # 1000 Bq/ml * 80 000 g / (400 MBq / 2, one half-life before the scan at 10:15:00)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, 0.4, rtol=1e-6)
    assert any("standardised uptake" in note for note in volume.notes)


def test_stored_units_are_kept_unless_uptake_is_asked_for(tmp_path: Path) -> None:
    volume = read_series(pet(tmp_path))

    assert (volume.array == 1000).all()


def test_injection_before_midnight_counts_as_the_day_before(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        ds.SeriesTime = "003000"
        ds.RadiopharmaceuticalInformationSequence[0].RadiopharmaceuticalStartTime = "224000"

    volume = read_series(pet(tmp_path, change), suv=True)

    np.testing.assert_allclose(volume.array, 0.4, rtol=1e-6)


def drop(keyword: str) -> Callable[[Dataset], None]:
    return lambda ds: delattr(ds, keyword)


def item(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda ds: setattr(ds.RadiopharmaceuticalInformationSequence[0], keyword, value)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (drop("PatientWeight"), "E_MISSING_TAG", "PatientWeight"),
        (lambda ds: setattr(ds, "PatientWeight", 0), "E_BAD_VALUE", "PatientWeight"),
        (
            drop("RadiopharmaceuticalInformationSequence"),
            "E_MISSING_TAG",
            "RadiopharmaceuticalInformationSequence",
        ),
        (item("RadionuclideTotalDose", None), "E_MISSING_TAG", "RadionuclideTotalDose"),
        (item("RadionuclideHalfLife", None), "E_MISSING_TAG", "RadionuclideHalfLife"),
        (item("RadiopharmaceuticalStartTime", ""), "E_MISSING_TAG", "RadiopharmaceuticalStartTime"),
        (lambda ds: setattr(ds, "Units", "CNTS"), "E_SUV", "CNTS"),
        (lambda ds: setattr(ds, "DecayCorrection", "ADMIN"), "E_SUV", "ADMIN"),
        (lambda ds: setattr(ds, "CorrectedImage", ["ATTN"]), "E_SUV", "CorrectedImage"),
    ],
)
def test_uptake_is_refused_without_what_it_needs(
    change: Callable[[Dataset], None], code: str, named: str, tmp_path: Path
) -> None:
    series = pet(tmp_path, change)

    with pytest.raises(InputError, match=named) as caught:
        read_series(series, suv=True)

    assert caught.value.code == code
    assert caught.value.remedy
