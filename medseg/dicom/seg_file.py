"""DICOM segmentations of any tool, parsed: which frame holds which segment where, and its bits.

Reads BINARY, FRACTIONAL and LABELMAP objects with positions in a patient. Where the frames go is
decided elsewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels

from medseg.core.errors import InputError
from medseg.core.geometry import LPS_TO_RAS
from medseg.core.labels import CodedConcept
from medseg.dicom.codec_pool import decode_in_child
from medseg.dicom.frames import orientation_of, spacing_of, thickness_of
from medseg.dicom.parse import quiet
from medseg.dicom.syntaxes import ENCAPSULATED
from medseg.dicom.values import missing, number_of, numbers_of, text_of

SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
_RLE, _DEFLATED_FRAMES = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"


@dataclass(frozen=True)
class SegmentFacts:
    """What the object says of a segment; "" and None where it says nothing."""

    number: int
    label: str
    category: CodedConcept | None
    type: CodedConcept | None
    lab: tuple[int, int, int] | None
    tracking_uid: str


@dataclass(frozen=True, eq=False)
class SegFrame:
    """One frame.

    Args:
        segment: its segment's number; 0 in a label map, where every voxel names its own.
        affine: 4x4, (column, row, 0, 1) of the frame to RAS mm; the third axis is the unit normal.
            None for a frame of a projection image, which has no place in the patient.
    """

    segment: int
    affine: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class SegFile:
    """A segmentation object.

    Args:
        path: the file.
        kind: BINARY, FRACTIONAL or LABELMAP.
        shape: columns and rows of every frame.
        frames: in the order of the file.
        segments: in the order of their numbers, background left out.
        slice_spacing_mm: distance between slices as stated, None if not.
        thickness_mm: slice thickness as stated, None if not.
        full: value that means all of a voxel (FRACTIONAL), else 1.
        background: value of no segment (LABELMAP), else 0.
        series_uids: the series that the object refers to.
        frame_of_reference_uid: "" if there is none.
    """

    path: Path
    kind: str
    shape: tuple[int, int]
    frames: tuple[SegFrame, ...]
    segments: tuple[SegmentFacts, ...]
    slice_spacing_mm: float | None
    thickness_mm: float | None
    full: int
    background: int
    series_uids: tuple[str, ...]
    frame_of_reference_uid: str
    dataset: Dataset

    def planes(self) -> Iterator[NDArray[Any]]:
        """Stored values of each frame, shape (rows, columns), decoded one after the other.

        Raises:
            InputError: the pixels are cut short or cannot be decoded.
        """
        try:
            with quiet():
                yield from self._planes()
        except InputError:
            raise
        except Exception as error:  # decoders raise many types on corrupt bytes
            raise InputError(
                self.path,
                f"has pixel data that cannot be decoded ({type(error).__name__})",
                "export the segmentation again",
                code="E_PIXELS",
            ) from error

    def _planes(self) -> Iterator[NDArray[Any]]:
        columns, rows = self.shape
        dataset = self.dataset
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        bits = int(dataset.BitsAllocated)
        if syntax in _NATIVE:
            content = dataset.PixelData
            needed = (len(self.frames) * rows * columns * bits + 7) // 8
            if len(content) < needed:
                raise InputError(
                    self.path,
                    f"has {len(content)} bytes of pixels, its header declares {needed}",
                    "the file is cut short; send it again",
                    code="E_TRUNCATED",
                )
            for number in range(len(self.frames)):
                yield _native_plane(content, number, rows=rows, columns=columns, bits=bits)
        elif syntax in (_RLE, _DEFLATED_FRAMES) and bits == 1:
            num_bytes = (rows * columns + 7) // 8
            for code in generate_frames(dataset.PixelData, number_of_frames=len(self.frames)):
                packed = (
                    _unpack_rle(code)
                    if syntax == _RLE
                    else zlib.decompressobj(-zlib.MAX_WBITS).decompress(code, num_bytes)
                )
                yield _bits(packed, 0, rows=rows, columns=columns)
        elif syntax in ENCAPSULATED:
            for code in generate_frames(dataset.PixelData, number_of_frames=len(self.frames)):
                yield self._decoded(code, syntax)
        else:
            yield from iter_pixels(dataset)

    def _decoded(self, code: bytes, syntax: str) -> NDArray[Any]:
        columns, rows = self.shape
        form = {
            "rows": rows,
            "columns": columns,
            "samples_per_pixel": 1,
            "bits_allocated": int(self.dataset.BitsAllocated),
            "bits_stored": int(self.dataset.BitsStored),
            "photometric_interpretation": str(self.dataset.PhotometricInterpretation),
            "pixel_representation": 0,
        }
        plane = decode_in_child(code, syntax, form, where=str(self.path))
        if isinstance(plane, str) or plane.shape != (rows, columns):
            why = plane if isinstance(plane, str) else f"shape {plane.shape}"
            raise InputError(
                self.path,
                f"has pixel data that cannot be decoded ({why})",
                "export the segmentation again",
                code="E_PIXELS",
            )
        return plane


def read_seg_file(path: str | Path) -> SegFile:
    """Parses a segmentation object.

    Raises:
        InputError: the file is none, lacks what is needed, or its frames have no position.
    """
    where = str(path)
    try:
        with quiet():
            dataset = dcmread(path)
    except Exception as error:  # pydicom raises many types on corrupt bytes
        raise InputError(
            where,
            f"is not a DICOM file that can be parsed ({type(error).__name__})",
            "export the segmentation again",
            code="E_HEADER",
        ) from error
    if text_of(dataset, "SOPClassUID", where=where) not in SEGMENTATION_CLASSES:
        raise InputError(
            where, "is no DICOM segmentation", "give a SEG object", code="E_NOT_SEGMENTATION"
        )
    kind = text_of(dataset, "SegmentationType", where=where)
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise InputError(
            where,
            f"has the segmentation type '{kind}', known are BINARY, FRACTIONAL and LABELMAP",
            "export it as one of these",
            code="E_SEGMENTATION_TYPE",
        )
    frames = _frames(dataset, kind, where)
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    measures = _item(shared, "PixelMeasuresSequence")
    is_label_map = kind == "LABELMAP"
    return SegFile(
        path=Path(path),
        kind=kind,
        shape=(_integer(dataset, "Columns", where), _integer(dataset, "Rows", where)),
        frames=tuple(frames),
        segments=tuple(segments_of(dataset, where)),
        slice_spacing_mm=_spacing_between(measures, where),
        thickness_mm=None if measures is None else thickness_of(measures, where),
        full=_integer(dataset, "MaximumFractionalValue", where) if kind == "FRACTIONAL" else 1,
        background=int(number_of(dataset, "PixelPaddingValue", where=where, default=0))
        if is_label_map
        else 0,
        series_uids=tuple(
            text_of(item, "SeriesInstanceUID", where=where)
            for item in dataset.get("ReferencedSeriesSequence") or ()
        ),
        frame_of_reference_uid=text_of(dataset, "FrameOfReferenceUID", where=where),
        dataset=dataset,
    )


def _frames(dataset: Dataset, kind: str, where: str) -> Iterator[SegFrame]:
    shared = _item(dataset, "SharedFunctionalGroupsSequence")
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    count = int(number_of(dataset, "NumberOfFrames", where=where, default=1))
    if len(groups) != count:
        raise InputError(
            where,
            f"declares {count} frames but has functional groups for {len(groups)}",
            "frames without groups are tiles of microscopy, which is not read; else export again",
            code="E_FRAME_COUNT",
        )
    for number, group in enumerate(groups):
        name = f"{where}, frame {number + 1}"

        def macro(keyword: str, group: Dataset = group) -> Dataset | None:
            return _item(group, keyword) or _item(shared, keyword)

        def needed(keyword: str, name: str = name, macro: Any = macro) -> Dataset:
            item = macro(keyword)
            if item is None:
                raise missing(name, keyword)
            return item

        segment = 0
        if kind != "LABELMAP":
            identity = needed("SegmentIdentificationSequence")
            segment = _integer(identity, "ReferencedSegmentNumber", name)
        if macro("PlanePositionSequence") is None and not dataset.get("FrameOfReferenceUID"):
            yield SegFrame(segment, None)
            continue
        position = numbers_of(
            needed("PlanePositionSequence"), "ImagePositionPatient", count=3, where=name
        )
        row, column = orientation_of(needed("PlaneOrientationSequence"), name)
        spacing = spacing_of(needed("PixelMeasuresSequence"), name)
        affine_lps = np.eye(4)
        affine_lps[:3, 0] = row * spacing[0]
        affine_lps[:3, 1] = column * spacing[1]
        affine_lps[:3, 2] = np.cross(row, column)
        affine_lps[:3, 3] = position
        yield SegFrame(segment, LPS_TO_RAS @ affine_lps)


def segments_of(dataset: Dataset, where: str) -> list[SegmentFacts]:
    """Segments in the order of their numbers, background left out.

    Raises:
        InputError: there is none.
    """
    facts = []
    for item in dataset.get("SegmentSequence") or ():
        number = _integer(item, "SegmentNumber", where)
        if number == 0:
            continue
        lab = item.get("RecommendedDisplayCIELabValue")
        facts.append(
            SegmentFacts(
                number=number,
                label=text_of(item, "SegmentLabel", where=where),
                category=_concept(item, "SegmentedPropertyCategoryCodeSequence", where),
                type=_concept(item, "SegmentedPropertyTypeCodeSequence", where),
                lab=(int(lab[0]), int(lab[1]), int(lab[2])) if lab and len(lab) == 3 else None,
                tracking_uid=text_of(item, "TrackingUID", where=where),
            )
        )
    if not facts:
        raise missing(where, "SegmentSequence")
    return sorted(facts, key=lambda segment: segment.number)


def _concept(item: Dataset, keyword: str, where: str) -> CodedConcept | None:
    code = _item(item, keyword)
    if code is None:
        return None
    value = text_of(code, "CodeValue", where=where) or text_of(code, "LongCodeValue", where=where)
    scheme = text_of(code, "CodingSchemeDesignator", where=where)
    return CodedConcept(value, scheme, text_of(code, "CodeMeaning", where=where))


def _item(dataset: Dataset | None, keyword: str) -> Dataset | None:
    items = None if dataset is None else dataset.get(keyword)
    return items[0] if items else None


def _integer(dataset: Dataset, keyword: str, where: str) -> int:
    return int(number_of(dataset, keyword, where=where))


def _spacing_between(measures: Dataset | None, where: str) -> float | None:
    if measures is None:
        return None
    spacing = number_of(measures, "SpacingBetweenSlices", where=where, default=0.0)
    return spacing if spacing > 0 else None


def _native_plane(
    content: bytes, number: int, *, rows: int, columns: int, bits: int
) -> NDArray[Any]:
    if bits == 1:
        return _bits(content, number * rows * columns, rows=rows, columns=columns)
    dtype = np.dtype("<u2" if bits == 16 else "u1")
    start = number * rows * columns * dtype.itemsize
    return np.frombuffer(content, dtype, rows * columns, start).reshape(rows, columns)


def _bits(content: bytes, first: int, *, rows: int, columns: int) -> NDArray[Any]:
    """A frame whose first voxel is bit `first`; frames need not begin at a byte (PS3.5 8.1.1)."""
    start, skip = divmod(first, 8)
    length = (skip + rows * columns + 7) // 8
    packed = np.frombuffer(content, np.uint8, length, start)
    bits = np.unpackbits(packed, bitorder="little", count=skip + rows * columns)
    return bits[skip:].reshape(rows, columns)


def _unpack_rle(code: bytes) -> bytes:
    """The single segment of an RLE frame of packed bits (PS3.5 annex G)."""
    result = bytearray()
    position = int.from_bytes(code[4:8], "little")
    while position < len(code):
        control = code[position]
        if control < 128:
            result += code[position + 1 : position + 2 + control]
            position += 2 + control
        elif control > 128:
            result += code[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    return bytes(result)
