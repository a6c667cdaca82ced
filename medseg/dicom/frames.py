"""Frames: the planes that volumes are built of, one per classic file or several per enhanced file.

Reads geometry and rescale from headers and functional groups. Positions are LPS here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError, InputError
from medseg.dicom.frame_keys import classic_keys, enhanced_keys
from medseg.dicom.parse import Header
from medseg.dicom.syntaxes import CLASSIC, CROSS_SECTIONAL, is_projection_class
from medseg.dicom.values import bad_value, missing, number_of, numbers_of, text_any, text_of

# Largest accepted cosine between row and column directions, and deviation of their length from 1.
_MAX_NOT_ORTHOGONAL = 1e-3


@dataclass(frozen=True, eq=False)
class Frame:
    """One plane of pixels with its place in the patient.

    Args:
        header: of the file that holds it.
        number: 0-based number in that file.
        position_lps: centre of the first voxel, mm, shape (3,).
        row_lps, column_lps: unit vectors along increasing column index i and row index j.
        spacing_mm: centre-to-centre distance along (i, j).
        thickness_mm: SliceThickness, or None.
        slope, intercept: stored value to modality value; has_rescale says if the header has them.
        keys: what may tell it from other frames at the same position, as comparable text or
            numbers.
        is_projection: an X-ray, ultrasound or photograph: positions and directions are the image
            plane's own.
    """

    header: Header
    number: int
    position_lps: NDArray[np.float64]
    row_lps: NDArray[np.float64]
    column_lps: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    slope: float = 1.0
    intercept: float = 0.0
    has_rescale: bool = False
    keys: dict[str, Any] = field(default_factory=dict)
    is_projection: bool = False

    @property
    def normal_lps(self) -> NDArray[np.float64]:
        return np.cross(self.row_lps, self.column_lps)

    @property
    def name(self) -> str:
        """How messages call the frame."""
        if is_enhanced(self.header):
            return f"{self.header.name}, frame {self.number + 1}"
        return self.header.name


def is_cross_sectional(header: Header) -> bool:
    """True if the object should have a position in the patient."""
    if header.has("PerFrameFunctionalGroupsSequence") or header.has(
        "SharedFunctionalGroupsSequence"
    ):
        return True
    sop_class = header.text("SOPClassUID")
    if sop_class in CROSS_SECTIONAL:
        return True
    # A private or unknown class of these modalities is a slice; it is refused if it does not say
    # where it lies.
    if header.text("Modality") in ("CT", "MR", "PT") and not is_projection_class(sop_class):
        return True
    return header.has("ImagePositionPatient") or header.has("ImageOrientationPatient")


def is_enhanced(header: Header) -> bool:
    """True if the frames' facts lie in functional groups.

    Some archives add empty functional groups to classic objects, whose position then stands at the
    top level.
    """
    if not header.has("PerFrameFunctionalGroupsSequence"):
        return False
    is_classic = header.text("SOPClassUID") in CLASSIC
    return not (is_classic and header.has("ImagePositionPatient"))


def is_localizer(header: Header) -> bool:
    """True for scouts and for captures of scouts with the slices drawn in."""
    image_type = header.text("ImageType").upper()
    return any(word in image_type for word in ("LOCALIZER", "SURVIEW", "SCOUT"))


def frames_of(header: Header) -> list[Frame]:
    """All frames of a cross-sectional object.

    Raises:
        InputError: geometry or rescale is missing or wrong, or the frames have no positions of
            their own.
    """
    image_type = header.text("ImageType").upper()
    if "MOSAIC" in image_type.split("\\"):
        raise InputError(
            header.name,
            "is a mosaic: many slices tiled into one image, with positions only in private "
            "elements",
            "export it as single slices or as an enhanced multi-frame object",
            code="E_MOSAIC",
        )
    count = header.integer("NumberOfFrames", 1)
    if is_enhanced(header):
        return _enhanced_frames(header, count)
    if header.text("SOPClassUID").endswith((".2.1", ".4.1", ".130", ".2.2", ".4.4", ".128.1")):
        raise missing(header.name, "PerFrameFunctionalGroupsSequence")
    if count != 1:
        raise InputError(
            header.name,
            f"has {count} frames but no position for each of them",
            "a film (2D and time) is no volume; export single frames or an enhanced object",
            code="E_CINE",
        )
    return [_classic_frame(header)]


def projection_frame(header: Header) -> Frame:
    """The one frame of an image without a place in the patient (X-ray, ultrasound, photograph).

    Raises:
        InputError: it is a film, or its pixel spacing is unusable.
    """
    count = header.integer("NumberOfFrames", 1)
    if count != 1:
        raise InputError(
            header.name,
            f"is a film of {count} frames (2D and time), which is no volume",
            "export the frames wanted as single images",
            code="E_CINE",
        )
    slope, intercept, has_rescale = rescale_of(header.dataset, header.name)
    return Frame(
        header=header,
        number=0,
        position_lps=np.zeros(3),
        row_lps=np.array([1.0, 0.0, 0.0]),
        column_lps=np.array([0.0, 1.0, 0.0]),
        spacing_mm=projection_spacing(header)[0],
        thickness_mm=1.0,
        slope=slope,
        intercept=intercept,
        has_rescale=has_rescale,
        is_projection=True,
    )


def projection_spacing(header: Header) -> tuple[tuple[float, float], str]:
    """Distance of pixels along (i, j) in mm, and the name of the element it comes from; ("") if
    there is none.

    Without any such element pixels count 1 mm, which is recorded in the volume's notes.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if header.has(keyword):
            values = header.numbers(keyword, 2)
            if min(values) <= 0:
                raise bad_value(header.name, keyword, values, "must be positive")
            return (values[1], values[0]), keyword
    regions = header.dataset.get("SequenceOfUltrasoundRegions")
    # Several regions have scales of their own; one region in centimetres (unit 3) gives the scale
    # of the image.
    if regions and len(regions) == 1 and text_any(regions[0], "PhysicalUnitsXDirection") == "3":
        x = abs(number_of(regions[0], "PhysicalDeltaX", where=header.name, default=0.0)) * 10
        y = abs(number_of(regions[0], "PhysicalDeltaY", where=header.name, default=0.0)) * 10
        if x > 0 and y > 0:
            return (x, y), "SequenceOfUltrasoundRegions"
    return (1.0, 1.0), ""


def _classic_frame(header: Header) -> Frame:
    where = header.name
    position = np.array(header.numbers("ImagePositionPatient", 3))
    row, column = orientation_of(header.dataset, where)
    keys = classic_keys(header.dataset, where)
    slope, intercept, has_rescale = rescale_of(header.dataset, where)
    return Frame(
        header=header,
        number=0,
        position_lps=position,
        row_lps=row,
        column_lps=column,
        spacing_mm=spacing_of(header.dataset, where),
        thickness_mm=thickness_of(header.dataset, where),
        slope=slope,
        intercept=intercept,
        has_rescale=has_rescale,
        keys=keys,
    )


def orientation_of(dataset: Any, where: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit row and column directions; refused unless at right angles and of length 1 to 1e-3."""
    cosines = numbers_of(dataset, "ImageOrientationPatient", count=6, where=where)
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > _MAX_NOT_ORTHOGONAL or abs(row @ column) > _MAX_NOT_ORTHOGONAL:
        raise GeometryError(
            where,
            f"ImageOrientationPatient {cosines} is not two unit vectors at right angles",
            "export the series again with correct headers",
            code="E_ORIENTATION",
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


# No modality has pixels of a metre; such numbers are damage or another unit.
_MAX_SPACING_MM = 1000.0


def spacing_of(dataset: Any, where: str) -> tuple[float, float]:
    """Distance along (i, j) from PixelSpacing, whose first value runs down the rows (j)."""
    values = numbers_of(dataset, "PixelSpacing", count=2, where=where)
    if not 0 < min(values) <= max(values) <= _MAX_SPACING_MM:
        expected = f"must be positive and at most {_MAX_SPACING_MM:g} mm"
        raise bad_value(where, "PixelSpacing", values, expected)
    return values[1], values[0]


def thickness_of(dataset: Any, where: str) -> float | None:
    """SliceThickness if it is there and usable; it is only needed for single slices."""
    try:
        value = number_of(dataset, "SliceThickness", where=where, default=0.0)
    except InputError:
        return None
    return value if value > 0 else None


def rescale_of(dataset: Any, where: str) -> tuple[float, float, bool]:
    """Slope, intercept and whether they are stated."""
    has_slope = text_of(dataset, "RescaleSlope", where=where) != ""
    has_intercept = text_of(dataset, "RescaleIntercept", where=where) != ""
    slope = number_of(dataset, "RescaleSlope", where=where, default=1.0)
    intercept = number_of(dataset, "RescaleIntercept", where=where, default=0.0)
    if has_slope != has_intercept:
        raise missing(where, "RescaleIntercept" if has_slope else "RescaleSlope")
    if slope == 0.0:
        raise InputError(
            where,
            "RescaleSlope is 0, which makes every voxel the same",
            "export the series again with correct headers",
            code="E_RESCALE",
        )
    return slope, intercept, has_slope


def _enhanced_frames(header: Header, count: int) -> list[Frame]:
    where = header.name
    groups = list(header.dataset.PerFrameFunctionalGroupsSequence)
    shared_items = list(header.dataset.get("SharedFunctionalGroupsSequence") or [])
    shared = shared_items[0] if shared_items else None
    if len(groups) != count:
        raise InputError(
            where,
            f"has {count} frames but functional groups for {len(groups)}",
            "export the object again",
            code="E_FRAME_COUNT",
        )
    return [_enhanced_frame(header, n, group, shared) for n, group in enumerate(groups)]


def _enhanced_frame(header: Header, number: int, group: Any, shared: Any) -> Frame:
    where = f"{header.name}, frame {number + 1}"

    def macro(keyword: str) -> Any:
        for holder in (group, shared):
            items = None if holder is None else holder.get(keyword)
            if items:
                return items[0]
        return None

    def needed(keyword: str) -> Any:
        item = macro(keyword)
        if item is None:
            raise missing(where, keyword)
        return item

    position = numbers_of(
        needed("PlanePositionSequence"), "ImagePositionPatient", count=3, where=where
    )
    row, column = orientation_of(needed("PlaneOrientationSequence"), where)
    measures = needed("PixelMeasuresSequence")
    transformation = macro("PixelValueTransformationSequence")
    rescale = (1.0, 0.0, False)
    if transformation is not None:
        rescale = rescale_of(transformation, where)
    elif header.text("RescaleSlope"):
        rescale = rescale_of(header.dataset, where)
    return Frame(
        header=header,
        number=number,
        position_lps=np.array(position),
        row_lps=row,
        column_lps=column,
        spacing_mm=spacing_of(measures, where),
        thickness_mm=thickness_of(measures, where),
        slope=rescale[0],
        intercept=rescale[1],
        has_rescale=rescale[2],
        keys=enhanced_keys(macro),
    )
