"""The transfer syntaxes and SOP classes that medseg knows, by what it does with them."""

from __future__ import annotations

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"

NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG})

JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70))
JPEG_LS = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))

ENCAPSULATED = JPEG | JPEG_LS | JPEG_2000 | {RLE}
ACCEPTED = NATIVE | ENCAPSULATED

_STORAGE = "1.2.840.10008.5.1.4.1.1"

DICOMDIR = "1.2.840.10008.1.3.10"

# One slice per file, its geometry at the top level.
CLASSIC = frozenset(f"{_STORAGE}.{end}" for end in ("2", "4", "128"))

# Cross-sectional images: each frame has a position in the patient.
CROSS_SECTIONAL = frozenset(
    f"{_STORAGE}.{end}"
    for end in (
        "2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "128", "128.1", "130", "20", "30",
        "77.1.5.4", "13.1.1", "13.1.2", "13.1.3", "6.2",
    )
)  # fmt: skip

# Images of one plane without a place in the patient: X-ray, ultrasound, photographs.
PROJECTIONS = frozenset(
    f"{_STORAGE}.{end}"
    for end in (
        "1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "6", "6.1", "3", "3.1", "12.1",
        "12.1.1", "12.2",
        "12.2.1", "12.3", "481.1", "77.1.1", "77.1.1.1", "77.1.2", "77.1.2.1", "77.1.4", "77.1.4.1",
        "77.1.5.1",
        "77.1.5.2",
    )
)  # fmt: skip

SECONDARY_CAPTURES = frozenset(f"{_STORAGE}.{end}" for end in ("7", "7.1", "7.2", "7.3", "7.4"))

# What a study may hold besides images; left out, by name.
OTHER_OBJECTS = {
    DICOMDIR: "a DICOMDIR",
    f"{_STORAGE}.4.2": "an MR spectrum",
    f"{_STORAGE}.66": "raw data",
    f"{_STORAGE}.66.1": "a spatial registration",
    f"{_STORAGE}.66.2": "spatial fiducials",
    f"{_STORAGE}.66.3": "a deformable registration",
    f"{_STORAGE}.66.4": "a segmentation",
    f"{_STORAGE}.66.5": "a surface segmentation",
    f"{_STORAGE}.66.6": "a tractography result",
    f"{_STORAGE}.66.7": "a label map segmentation",
    f"{_STORAGE}.67": "a real world value mapping",
    f"{_STORAGE}.77.1.6": "a whole slide image",
    f"{_STORAGE}.481.2": "a dose grid",
    f"{_STORAGE}.481.3": "a structure set",
    f"{_STORAGE}.481.5": "a treatment plan",
    f"{_STORAGE}.481.8": "a treatment plan",
}

# Objects that say which voxels of a series are what: SEG, label map SEG and RTSTRUCT.
SEGMENTATIONS = frozenset(f"{_STORAGE}.{end}" for end in ("66.4", "66.7", "481.3"))

# Families told by the beginning of their UID.
OTHER_FAMILIES = {
    f"{_STORAGE}.88.": "a report",
    f"{_STORAGE}.11.": "a presentation state",
    f"{_STORAGE}.104.": "an encapsulated document",
    f"{_STORAGE}.9.": "a waveform",
    f"{_STORAGE}.481.": "a radiotherapy object",
    f"{_STORAGE}.68.": "a surface scan",
    f"{_STORAGE}.78.": "a refraction measurement",
    f"{_STORAGE}.79.": "an ophthalmic measurement",
    f"{_STORAGE}.80.": "an ophthalmic measurement",
    f"{_STORAGE}.200.": "a workflow object",
    "1.2.840.10008.5.1.4.43.": "an implant template",
    "1.2.840.10008.5.1.4.44.": "an implant template",
    "1.2.840.10008.5.1.4.45.": "an implant template",
    "1.2.840.10008.5.1.4.34.": "a workflow object",
    "1.2.840.10008.5.1.4.38.": "a hanging protocol",
}


def other_object(sop_class: str) -> str:
    """What a SOP class that is no image is called; "" for images and unknown classes."""
    if sop_class in OTHER_OBJECTS:
        return OTHER_OBJECTS[sop_class]
    if is_image_class(sop_class):
        return ""
    return next((name for start, name in OTHER_FAMILIES.items() if sop_class.startswith(start)), "")


def is_projection_class(sop_class: str) -> bool:
    """True for images of one plane without a place in the patient, captures included."""
    return sop_class in PROJECTIONS or sop_class in SECONDARY_CAPTURES


def is_image_class(sop_class: str) -> bool:
    """True for images, captures left aside."""
    return sop_class in PROJECTIONS or sop_class in CROSS_SECTIONAL
