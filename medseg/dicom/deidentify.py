"""Takes the patient out of results, after the Basic Profile of DICOM PS3.15 Annex E.

For what medseg writes (segmentations, reports, structure sets), where pixels are classes and not
the patient's image: no pixels are cleaned.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement

from medseg.core.errors import ConfigError
from medseg.core.labels import CodedConcept
from medseg.dicom.derived import MANUFACTURER, NO_DATE, code_item
from medseg.dicom.uids import derive_uid

_DICOM_ROOT = "1.2.840.10008."
_MIN_KEY_BYTES = 16
_MOST_DAYS = 3650
_TAIL = 12

_PROFILE = CodedConcept("113100", "DCM", "Basic Application Confidentiality Profile")
_MODIFIED_DATES = CodedConcept(
    "113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option"
)
_CHARACTERISTICS = CodedConcept("113108", "DCM", "Retain Patient Characteristics Option")

_CHARACTERISTIC = frozenset({
    "PatientAge", "PatientSex", "PatientSize", "PatientWeight", "EthnicGroup", "PregnancyStatus",
    "SmokingStatus",
})  # fmt: skip
# Must be there though empty (type 2) in what medseg writes; everything else that goes is removed.
_EMPTIED = frozenset({
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator",
    "StructureSetDate", "StructureSetTime", "OperatorsName", "ContentCreatorName",
})  # fmt: skip
# May not be empty (type 1).
_DATED = frozenset({"ContentDate", "ContentTime"})
# Say who, where or what, in value representations that also hold harmless things.
_REMOVED = frozenset({
    "AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyID", "StudyDescription",
    "InstitutionName", "InstitutionAddress", "InstitutionCodeSequence",
    "InstitutionalDepartmentName", "InstitutionalDepartmentTypeCodeSequence", "StationName",
    "ContributingEquipmentSequence", "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianIdentificationSequence", "PhysiciansOfRecordIdentificationSequence",
    "PerformingPhysicianIdentificationSequence", "OperatorIdentificationSequence",
    "PhysiciansReadingStudyIdentificationSequence", "RequestingService",
    "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers",
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID",
    "OtherPatientIDs", "OtherPatientIDsSequence", "ReferencedPatientSequence",
    "ReferencedPatientPhotoSequence", "PatientAddress", "PatientTelephoneNumbers",
    "PatientInsurancePlanCodeSequence", "PatientPrimaryLanguageCodeSequence",
    "PatientReligiousPreference", "MilitaryRank", "BranchOfService", "MedicalRecordLocator",
    "CountryOfResidence", "RegionOfResidence", "MedicalAlerts", "Allergies", "Occupation",
    "PatientState", "SpecialNeeds", "AdmissionID", "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "ServiceEpisodeID",
    "ServiceEpisodeDescription", "CurrentPatientLocation", "PatientInstitutionResidence",
    "ReasonForStudy", "ReasonForVisit", "RequestedProcedureID", "RequestedProcedureDescription",
    "RequestedProcedureLocation", "RequestAttributesSequence", "ReferencedRequestSequence",
    "FillerOrderNumberImagingServiceRequest", "PlacerOrderNumberImagingServiceRequest",
    "PerformedProcedureStepID", "PerformedProcedureStepDescription", "PerformedLocation",
    "PerformedStationName", "PerformedStationAETitle", "ScheduledStationName",
    "ScheduledStationAETitle", "ScheduledProcedureStepID", "ScheduledProcedureStepDescription",
    "ProtocolName", "RetrieveAETitle", "SourceApplicationEntityTitle", "VerifyingOrganization",
    "VerifyingObserverIdentificationCodeSequence", "CustodialOrganizationSequence",
    "AuthorObserverSequence", "ParticipantSequence", "PersonIdentificationCodeSequence",
    "PersonAddress", "PersonTelephoneNumbers", "DetectorID", "PlateID", "CassetteID", "GantryID",
    "DigitalSignaturesSequence", "MACParametersSequence", "OriginalAttributesSequence",
    "ModifiedAttributesSequence", "EncryptedAttributesSequence", "IconImageSequence",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription", "TimezoneOffsetFromUTC", "PatientSpeciesDescription",
    "PatientBreedDescription", "ResponsibleOrganization", "ResponsiblePersonRole",
    "PositionReferenceIndicator",
})  # fmt: skip
# Written by medseg itself, out of the bundle and the options alone.
_OWN_TEXTS = frozenset({
    "SeriesDescription", "ContentDescription", "ContentLabel", "StructureSetLabel",
    "StructureSetDescription", "ROIName", "ROIDescription", "ROIObservationLabel",
    "SegmentDescription", "SegmentLabel", "TextValue", "AlgorithmParameters",
    "AlgorithmName", "DeviceSerialNumber", "TrackingID", "UnformattedTextValue",
})  # fmt: skip
_DESCRIPTIONS = frozenset({"SeriesDescription", "DeviceSerialNumber"})
_FREE_TEXT = frozenset({"LT", "ST", "UT", "UR"})
_TIMES = frozenset({"DA", "DT", "TM"})


class BasicProfile:
    """Removes or replaces what says who the patient is.

    UIDs, name and identifier are replaced by values that depend on the old ones and on a secret
    key: the results of a study still belong together, and nobody without the key can find the
    patient by trying.

    Args:
        key_file: file with the secret, 16 bytes at least; the same for all that is to fit together.
        dates: "remove" them, or "shift" all of a patient's by the same secret number of days, which
            keeps the intervals between studies and the times of day.
        keep_characteristics: leave age, sex, size and weight.

    Raises:
        ConfigError: there is no such file, or the key is too short.
    """

    def __init__(
        self,
        key_file: str,
        *,
        dates: Literal["remove", "shift"] = "remove",
        keep_characteristics: bool = False,
    ) -> None:
        if dates not in ("remove", "shift"):
            raise ConfigError("deidentify.dates", f"is '{dates}'", "use 'remove' or 'shift'")
        self.key_file = Path(key_file)
        self.dates = dates
        self.keep_characteristics = keep_characteristics
        self._key: bytes | None = None

    def load_key(self) -> bytes:
        """The secret.

        Raises:
            ConfigError: it cannot be read, or is too short.
        """
        if self._key is None:
            try:
                key = self.key_file.read_bytes().strip()
            except OSError as error:
                raise ConfigError(
                    "deidentify.key_file",
                    f"{self.key_file} cannot be read ({error.strerror})",
                    "make it: openssl rand -hex 32 > FILE, for the service's user alone",
                ) from error
            if len(key) < _MIN_KEY_BYTES:
                raise ConfigError(
                    "deidentify.key_file",
                    f"holds {len(key)} bytes, of which {_MIN_KEY_BYTES} are needed at least",
                    "make it: openssl rand -hex 32 > FILE",
                )
            self._key = key
        return self._key

    def name(self, text: str) -> str:
        """What a case or file is called instead of `text`."""
        return f"case_{self._digest('name', text)[:16]}"

    def uid(self, uid: str) -> str:
        """The UID instead of `uid`; those that the standard itself defines stay."""
        if not uid or uid.startswith(_DICOM_ROOT):
            return uid
        return derive_uid("deidentified", self._digest("uid", uid))

    def apply(self, dataset: Dataset) -> None:
        """Takes the patient out of a data set and its file meta information, in place."""
        patient = f"{dataset.get('IssuerOfPatientID') or ''}\\{dataset.get('PatientID') or ''}"
        is_own = dataset.get("Manufacturer") == MANUFACTURER
        days = 1 + int(self._digest("days", patient), 16) % _MOST_DAYS
        tails = {uid[-_TAIL:]: self.uid(uid)[-_TAIL:] for uid in _uids(dataset)}
        self._clean(dataset, is_own=is_own, days=days, tails=tails)
        pseudonym = f"P{self._digest('patient', patient)[:16].upper()}"
        dataset.PatientName = dataset.PatientID = pseudonym
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "medseg, Basic Profile"
        codes = [_PROFILE]
        if self.dates == "shift":
            codes.append(_MODIFIED_DATES)
        if self.keep_characteristics:
            codes.append(_CHARACTERISTICS)
        dataset.DeidentificationMethodCodeSequence = [code_item(code) for code in codes]
        dataset.LongitudinalTemporalInformationModified = (
            "MODIFIED" if self.dates == "shift" else "REMOVED"
        )
        meta = getattr(dataset, "file_meta", None)
        if meta is not None:
            for keyword in ("SourceApplicationEntityTitle", "PrivateInformation"):
                meta.pop(keyword, None)
            meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.preamble = b"\0" * 128

    def _clean(self, dataset: Dataset, *, is_own: bool, days: int, tails: dict[str, str]) -> None:
        for tag in list(dataset.keys()):
            group = tag.group
            # Private elements, curves, overlays, and what no dictionary knows.
            if tag.is_private or group & 0xFF00 in (0x5000, 0x6000) or not dictionary_has_tag(tag):
                del dataset[tag]
                continue
            element = dataset[tag]
            if not self._keeps(element, is_own=is_own):
                if element.keyword in _EMPTIED:
                    element.value = None
                else:
                    del dataset[tag]
            elif element.VR == "SQ":
                for item in element.value:
                    self._clean(item, is_own=is_own, days=days, tails=tails)
            elif element.VR == "UI":
                element.value = _each(element.value, self.uid)
            elif element.VR in _TIMES:
                element.value = _each(
                    element.value, partial(self._time, element=element, days=days)
                )
                if not element.value and element.keyword not in _EMPTIED:
                    del dataset[tag]
            elif isinstance(element.value, str) and tails:
                element.value = _with_tails(element.value, tails)

    def _keeps(self, element: DataElement, *, is_own: bool) -> bool:
        """Whether an element stays, perhaps with another value."""
        keyword = element.keyword
        if keyword in _CHARACTERISTIC:
            return self.keep_characteristics
        if keyword in _REMOVED or keyword in _DESCRIPTIONS or element.VR in _FREE_TEXT:
            return is_own and keyword in _OWN_TEXTS
        if element.VR == "PN":
            return False
        return keyword != "PatientBirthDate" and keyword != "PatientBirthTime"

    def _time(self, text: str, *, element: DataElement, days: int) -> str:
        """A date, time or both, without what says when it was."""
        if text.startswith(NO_DATE) or (self.dates == "shift" and element.VR == "TM"):
            return text  # a day that everybody knows must not be shifted: it would tell how far
        if self.dates == "shift":
            try:
                day = date(int(text[:4]), int(text[4:6]), int(text[6:8])) - timedelta(days=days)
            except (ValueError, OverflowError):
                pass
            else:
                return f"{day.year:04}{day.month:02}{day.day:02}{text[8:]}"
        if element.keyword in _DATED or element.VR == "DT":
            return {"DA": NO_DATE, "TM": "000000"}.get(element.VR, f"{NO_DATE}000000")
        return ""

    def _digest(self, *parts: str) -> str:
        text = "\0".join(parts)
        return hmac.new(self.load_key(), text.encode(), hashlib.sha256).hexdigest()


def _uids(dataset: Dataset) -> set[str]:
    """All UIDs that will be replaced."""
    found: set[str] = set()
    for element in dataset.iterall():
        if element.VR == "UI" and element.value:
            values = [element.value] if isinstance(element.value, str) else element.value
            found |= {str(value) for value in values}
    return {uid for uid in found if not uid.startswith(_DICOM_ROOT)}


def _each(value: Any, change: Callable[[str], str]) -> Any:
    if value is None or value == "":
        return value
    if isinstance(value, str):
        return change(value)
    if isinstance(value, (list, tuple)) or hasattr(value, "__iter__"):
        return [change(str(one)) for one in value]
    return change(str(value))


def _with_tails(text: str, tails: dict[str, str]) -> str:
    """A text with the last digits of UIDs replaced, by which medseg tells objects apart."""
    head, space, last = text.rpartition(" ")
    return f"{head}{space}{tails[last]}" if last in tails else text
