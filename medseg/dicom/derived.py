"""What all objects made from a series share: patient, study, series, equipment, references.

Patient and study are copied, never made up. Dates come from the source too, so that the same result
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement

from medseg import __version__
from medseg.core.labels import CodedConcept
from medseg.dicom.frames import Frame
from medseg.dicom.source_series import SourceSeries
from medseg.dicom.uids import UUID_ROOT, derive_uid

MANUFACTURER = "medseg"
NOT_REVIEWED = "AI result, not reviewed"
ARTIFICIAL_INTELLIGENCE = CodedConcept("123110", "DCM", "Artificial Intelligence")
NO_DATE = "19000101"
_ACQUISITION_EQUIPMENT = CodedConcept("109101", "DCM", "Acquisition Equipment")

# Modules Patient, Clinical Trial Subject, General Study, Patient Study: copied where present.
_COPIED = [
    "SpecificCharacterSet", "TimezoneOffsetFromUTC", "PatientName", "PatientID",
    "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientBirthTime",
    "EthnicGroup", "PatientComments", "PatientSpeciesDescription", "PatientBreedDescription",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "IssuerOfAccessionNumberSequence",
    "StudyDescription", "PhysiciansOfRecord", "PatientAge", "PatientSize", "PatientWeight",
    "AdmittingDiagnosesDescription", "FrameOfReferenceUID", "PositionReferenceIndicator",
]  # fmt: skip
# Type 2: must be there, may be empty.
_EMPTY_IF_ABSENT = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator",
]  # fmt: skip
_EQUIPMENT = [
    "Manufacturer", "InstitutionName", "StationName", "ManufacturerModelName", "DeviceSerialNumber",
    "SoftwareVersions",
]  # fmt: skip


@dataclass(frozen=True)
class Algorithm:
    """What made a result.

    Args:
        name: of the model or method, such as the bundle's name.
        version: its version; "" if it has none.
        bundle_sha256: hash of the model bundle in hexadecimal; "" if there is none.
    """

    name: str = MANUFACTURER
    version: str = ""
    bundle_sha256: str = ""

    @property
    def version_or_hash(self) -> str:
        """The version, else the hash, else medseg's version: type 1 elements may not be empty."""
        return self.version or self.bundle_sha256[:16] or __version__


def derived_header(
    source: SourceSeries,
    algorithm: Algorithm,
    *,
    sop_class_uid: str,
    modality: str,
    identity: Sequence[str],
    series_offset: int,
    description: str,
    uid_root: str = UUID_ROOT,
) -> Dataset:
    """Header of a new object in the source's study, in a new series of one instance.

    Args:
        source: the series it is made from.
        algorithm: what made it.
        sop_class_uid, modality: of the new object.
        identity: what sets this object apart from others of the same source and algorithm; with
            these two it decides all UIDs.
        series_offset: 1 to 99; the series number is the source's times 100 plus this.
        description: what the series holds, such as "segmentation".
        uid_root: UID below which the new ones lie.
    """
    header = Dataset()
    copy_elements(source.header, header, _COPIED)
    for keyword in _EMPTY_IF_ABSENT:
        if keyword not in header:
            setattr(header, keyword, None)
    parts = (
        str(source.header.SeriesInstanceUID),
        *source.sop_instance_uids,
        algorithm.name,
        algorithm.version,
        algorithm.bundle_sha256,
        sop_class_uid,
        *identity,
    )
    header.SOPClassUID = sop_class_uid
    header.SOPInstanceUID = derive_uid("instance", *parts, root=uid_root)
    header.SeriesInstanceUID = derive_uid("series", *parts, root=uid_root)
    header.Modality = modality
    header.SeriesNumber = series_number(source.header, series_offset)
    header.InstanceNumber = 1
    header.SeriesDescription = plain_text(
        f"{algorithm.name} {algorithm.version} {description} ({NOT_REVIEWED})".replace("  ", " "),
        64,
    )
    header.SeriesDate, header.SeriesTime = _content_date_and_time(source.header)
    header.Manufacturer = MANUFACTURER
    header.ManufacturerModelName = plain_text(algorithm.name, 64)
    header.DeviceSerialNumber = plain_text(algorithm.bundle_sha256[:16] or __version__, 64)
    header.SoftwareVersions = [
        plain_text(f"medseg {__version__}", 64),
        plain_text(f"{algorithm.name} {algorithm.version_or_hash}", 64),
    ]
    equipment = Dataset()
    copy_elements(source.header, equipment, _EQUIPMENT)
    if equipment.get("Manufacturer"):
        equipment.PurposeOfReferenceCodeSequence = [code_item(_ACQUISITION_EQUIPMENT)]
        header.ContributingEquipmentSequence = [equipment]
    return header


def code_item(concept: CodedConcept) -> Dataset:
    """A coded concept as the item of a code sequence."""
    item = Dataset()
    item.CodeValue = concept.value
    item.CodingSchemeDesignator = concept.scheme
    item.CodeMeaning = plain_text(concept.meaning, 64)
    return item


def reference_item(frame: Frame) -> Dataset:
    """Reference to the SOP instance of a frame."""
    item = Dataset()
    item.ReferencedSOPClassUID = frame.header.text("SOPClassUID")
    item.ReferencedSOPInstanceUID = frame.header.text("SOPInstanceUID")
    return item


def referenced_instances(source: SourceSeries) -> list[Dataset]:
    """One reference for each SOP instance of the series, in the order of the slices."""
    by_uid = {frame.header.text("SOPInstanceUID"): frame for frame in source.lattice.frames}
    return [reference_item(frame) for frame in by_uid.values()]


def series_number(source: Dataset, offset: int) -> int:
    """Source's number times 100 plus offset, so that results sort behind their series."""
    try:
        number = int(source.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    # IS holds at most 2**31 - 1; very large numbers, as some scanners have, are used as they are.
    number = abs(number)
    return number * 100 + offset if number * 100 + offset < 2**31 else offset


def plain_text(text: str, length: int) -> str:
    """Text that every character set holds and LO or SH allow: ASCII, no backslash, cut."""
    ascii_text = text.encode("ascii", "replace").decode("ascii")
    printable = "".join(c if c.isprintable() and c != "\\" else " " for c in ascii_text)
    return printable.strip()[:length].strip()


def copy_elements(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Copies elements that hold something; undecoded text keeps its bytes, as it is."""
    explicit = getattr(source, "original_encoding", (None, None))[0] is False
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in source:
            continue
        raw = source.get_item(tag)
        if raw is None or raw.value in (None, b"", ""):
            continue
        vr = dictionary_VR(tag)
        if isinstance(raw, RawDataElement) and vr != "SQ" and raw.value is not None:
            # Text has no byte order, so its bytes can stand in the new file as they are.
            known = raw.VR if explicit and raw.VR not in (None, "UN") else vr
            value = raw.value + b" " * (len(raw.value) % 2)
            target[tag] = raw._replace(
                VR=known,
                value=value,
                length=len(value),
                is_implicit_VR=False,
                is_little_endian=True,
            )
            continue
        element = deepcopy(source[tag])
        for item in element.value if vr == "SQ" else ():
            for _ in item.iterall():  # decodes the item, so that it can be encoded anew
                pass
        target[tag] = element


def _content_date_and_time(source: Dataset) -> tuple[str, str]:
    """The source's own date and time, from the most to the least particular.

    A series stripped of all dates gives a day that nobody takes for true, as the content date of an
    object may not be empty, and today's would give other bytes tomorrow.
    """
    for name in ("Acquisition", "Content", "Series", "Study", "InstanceCreation"):
        day = source.get(f"{name}Date")
        if day:
            return str(day), str(source.get(f"{name}Time") or "000000")
    return NO_DATE, "000000"
