"""Results without the patient: nothing that identifies stays, what belongs together still does."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import dicom_objects
import highdicom
import numpy as np
import phantoms
import pydicom
import pytest
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.dicom.deidentify import BasicProfile
from medseg.writers.dicom_seg import write_dicom_seg
from medseg.writers.dicom_sr import write_dicom_sr
from medseg.writers.rtstruct import write_rtstruct

CANARY = "LEAKCANARY"
DATES = {"StudyDate": "20240311", "AcquisitionDate": "20240311", "PatientBirthDate": "19511224"}
TEXTS = {
    "PatientName": f"{CANARY}^ANNA", "PatientID": f"{CANARY}1", "AccessionNumber": f"{CANARY}2",
    "StudyID": f"{CANARY}3", "InstitutionName": f"{CANARY} clinic", "StationName": CANARY,
    "StudyDescription": f"{CANARY} liver", "ReferringPhysicianName": f"{CANARY}^DOC",
    "PatientComments": f"{CANARY} fell", "IssuerOfPatientID": CANARY, "PatientAge": "072Y",
    "PatientSex": "F", "PatientWeight": "71", "AdmittingDiagnosesDescription": CANARY,
    "ClinicalTrialSubjectID": CANARY, "DeviceSerialNumber": f"{CANARY}4", "EthnicGroup": CANARY,
}  # fmt: skip


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    return str(path)


@pytest.fixture
def results(tmp_path):
    """A segmentation, a report on it and a structure set of one series, as they are written."""

    def edit(dataset, number):
        for keyword, value in {**TEXTS, **DATES}.items():
            setattr(dataset, keyword, value)

    grid = phantoms.grid(orientation="LPS", shape=(13, 16, 7))
    case, grid = dicom_objects.series_case(tmp_path / "in", grid, edit=edit)
    image = Volume(np.zeros((1, *grid.shape), np.int16), grid, "CT")
    case = replace(case, read_image=lambda: image)
    array = np.zeros(grid.shape, np.uint8)
    array[3:8, 4:9, 2:5] = 1
    found = LabelMap(array, grid, LabelSet.from_names(["background", "liver"]))
    seg = write_dicom_seg(found, case, tmp_path / "seg.dcm")
    sr = write_dicom_sr(found, case, tmp_path / "sr.dcm", seg_path=seg)
    rt = write_rtstruct(found, case, tmp_path / "rt.dcm")
    return {name: pydicom.dcmread(path) for name, path in (("seg", seg), ("sr", sr), ("rt", rt))}


def applied(profile, dataset):
    changed = pydicom.dcmread(_bytes(dataset))
    profile.apply(changed)
    return pydicom.dcmread(_bytes(changed))


def _bytes(dataset):
    content = BytesIO()
    dataset.save_as(content)
    content.seek(0)
    return content


def uids(dataset):
    """Every UID that the standard does not define itself, and where it stands."""
    found = []
    for element in dataset.iterall():
        if element.VR == "UI" and element.value:
            values = [element.value] if isinstance(element.value, str) else list(element.value)
            found += [
                (keyword_for_tag(element.tag), str(value))
                for value in values
                if not str(value).startswith("1.2.840.10008.")
            ]
    return found


def test_nothing_that_names_the_patient_is_in_a_result(results, key):
    for name, dataset in results.items():
        assert CANARY in str(dataset), name  # so that there is something to find

        clean = applied(BasicProfile(key), dataset)

        content = _bytes(clean).getvalue()
        for word in (CANARY, "19511224", "20240311", "072Y"):
            assert word.encode() not in content, (name, word)
        old = {uid for _, uid in uids(dataset)}
        assert old
        for uid in old:
            assert uid.encode() not in content, (name, uid)
            assert uid[-12:].encode() not in content, (name, uid)
        assert (clean.PatientSex, clean.PatientBirthDate, clean.AccessionNumber) == ("", "", "")
        assert clean.PatientIdentityRemoved == "YES"
        assert [item.CodeValue for item in clean.DeidentificationMethodCodeSequence] == ["113100"]
        assert clean.LongitudinalTemporalInformationModified == "REMOVED"


def test_results_of_a_study_still_belong_together(results, key):
    clean = {name: applied(BasicProfile(key), one) for name, one in results.items()}

    for keyword in ("StudyInstanceUID", "PatientID", "PatientName"):
        assert len({one[keyword].value for one in clean.values()}) == 1
    seg, sr = clean["seg"], clean["sr"]
    assert seg.SOPInstanceUID in {uid for _, uid in uids(sr)}
    assert seg.file_meta.MediaStorageSOPInstanceUID == seg.SOPInstanceUID
    assert len({uid for _, uid in uids(seg)}) == len({uid for _, uid in uids(results["seg"])})
    (segment,) = seg.SegmentSequence
    assert segment.TrackingID.split()[-1] == segment.TrackingUID[-12:]
    groups = highdicom.sr.srread(_bytes(sr)).content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_uid for group in groups] == [segment.TrackingUID]
    assert groups[0].tracking_identifier == segment.TrackingID


def test_the_voxels_and_what_medseg_says_of_itself_stay(results, key):
    before, after = results["seg"], applied(BasicProfile(key), results["seg"])

    np.testing.assert_array_equal(before.pixel_array, after.pixel_array)
    assert after.SeriesDescription == before.SeriesDescription
    assert after.SegmentSequence[0].SegmentLabel == "liver"
    assert after.Manufacturer == "medseg"


def test_the_same_result_gives_the_same_bytes_and_another_key_other_uids(results, key, tmp_path):
    other = tmp_path / "other"
    other.write_text("another key of more than 16 bytes")

    first, again = (_bytes(applied(BasicProfile(key), results["seg"])) for _ in range(2))
    differs = applied(BasicProfile(str(other)), results["seg"])

    assert first.getvalue() == again.getvalue()
    assert not {uid for _, uid in uids(pydicom.dcmread(first))} & {u for _, u in uids(differs)}


def test_shifted_dates_keep_the_interval_between_the_studies_of_a_patient(key):
    profile = BasicProfile(key, dates="shift")
    studies = []
    for day, patient in (("20240311", "A"), ("20240411", "A"), ("20240311", "B")):
        study = Dataset()
        study.SOPInstanceUID, study.Manufacturer = "2.25.7", "medseg"
        study.PatientID, study.StudyDate, study.StudyTime = patient, day, "101112"
        profile.apply(study)
        studies.append(study)

    one, later, other = (pydicom.valuerep.DA(study.StudyDate) for study in studies)
    assert (later - one).days == 31
    assert one.strftime("%Y%m%d") != "20240311"
    assert other != one
    assert studies[0].StudyTime == "101112"
    codes = [item.CodeValue for item in studies[0].DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107"]
    assert studies[0].LongitudinalTemporalInformationModified == "MODIFIED"


def test_a_day_that_stands_for_none_is_not_shifted(key):
    study = Dataset()
    study.SOPInstanceUID, study.ContentDate = "2.25.7", "19000101"

    BasicProfile(key, dates="shift").apply(study)

    assert study.ContentDate == "19000101"


def test_characteristics_stay_when_they_are_wanted(results, key):
    clean = applied(BasicProfile(key, keep_characteristics=True), results["seg"])

    assert (clean.PatientSex, clean.PatientAge) == ("F", "072Y")
    codes = [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113108"]


def test_private_elements_overlays_and_texts_of_others_go(key):
    dataset = Dataset()
    dataset.SOPInstanceUID, dataset.Manufacturer = "2.25.7", "Scanners Ltd"
    dataset.add_new(0x00091001, "LO", CANARY)
    dataset.add_new(0x60000022, "LO", CANARY)
    dataset.SeriesDescription = dataset.ImageComments = CANARY
    nested = Dataset()
    nested.OperatorsName, nested.ReferencedSOPInstanceUID = f"{CANARY}^X", "1.2.3"
    dataset.ReferencedImageSequence = [nested]

    BasicProfile(key).apply(dataset)

    assert CANARY not in str(dataset)
    (left,) = dataset.ReferencedImageSequence
    assert left.ReferencedSOPInstanceUID.startswith("2.25.")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("short", "holds 5 bytes")]
)
def test_a_key_that_is_none_is_refused_with_the_way_to_make_one(tmp_path, content, message):
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match=f"key_file.*{message}.*openssl rand"):
        BasicProfile(str(path)).load_key()


def test_dates_are_removed_or_shifted_and_nothing_else(key):
    with pytest.raises(ConfigError, match=r"deidentify\.dates: is 'keep'"):
        BasicProfile(key, dates="keep")
