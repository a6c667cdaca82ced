"""One file to its header: bounded, tolerant of what the standard tolerates, and with one kind of
error.

Nothing here looks at pixels. Files are untrusted: every length is clamped to the bytes that exist,
deflated data sets are inflated up to a limit, and whatever pydicom raises leaves as an InputError.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.filereader import read_dataset

from medseg.core.errors import InputError
from medseg.dicom.cut_header import cut_element, cut_header, is_stump
from medseg.dicom.syntaxes import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
)
from medseg.dicom.values import (
    bad_value,
    is_empty,
    number_of,
    numbers_of,
    raw_value,
    tag_of,
    text_of,
)

# Tags (7FE0,xxxx) that hold pixels: float, double and integer, and the extended offset table before
# them.
FLOAT_PIXELS, DOUBLE_PIXELS, PIXELS = 0x7FE00008, 0x7FE00009, 0x7FE00010

_FIRST_READ = 1 << 16
# A header (everything but pixels) longer than this is not an image header; enhanced series stay
# below 64 MiB.
_MAX_HEADER = 1 << 27
# Deflate reaches 1032:1; a real image data set reaches about 10:1. Declared pixels are not known
# before inflating.
_MAX_INFLATED_RATIO = 200
_MAX_INFLATED_SLACK = 1 << 26
# Elements of the file meta information, group 2.
_SYNTAX, _SOP_CLASS = b"\x10\x00", b"\x02\x00"

_KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate",
    "SeriesDate", "AcquisitionDate", "AcquisitionDateTime", "StudyTime", "SeriesTime",
    "AcquisitionTime", "ContentTime", "Modality", "PatientName", "PatientID", "PatientWeight",
    "SliceThickness", "RepetitionTime", "EchoTime", "InversionTime", "SpacingBetweenSlices",
    "EchoNumbers", "EffectiveEchoTime", "InversionTimes", "TriggerTime",
    "ImageTriggerDelay", "FrameReferenceTime", "FrameReferenceDateTime", "StackID", "KVP",
    "ConvolutionKernel", "TemporalPositionTimeOffset", "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase", "NominalRespiratoryTriggerDelayTime", "FlipAngle",
    "DiffusionBValue",
    "DiffusionGradientOrientation", "GantryDetectorTilt", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber",
    "InstanceNumber", "SliceLocation", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier", "TemporalPositionIndex", "NominalCardiacTriggerDelayTime",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "PixelAspectRatio", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence", "Units",
    "DecayCorrection", "CorrectedImage", "RadiopharmaceuticalInformationSequence",
    "SequenceOfUltrasoundRegions", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "DetectorInformationSequence", "ComplexImageComponent",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "SegmentSequence",
    "VolumetricProperties",
)  # fmt: skip


TAGS: list[int] = sorted(tag_of(keyword) for keyword in _KEYWORDS)


class NotDicomError(Exception):
    """The bytes are not a DICOM file; internal, never leaves `medseg.dicom`."""


@dataclass(frozen=True, eq=False)
class Header:
    """The elements of one file that medseg looks at, and where its pixels lie.

    Args:
        path: the file.
        name: how messages call it; the path, or archive and member.
        dataset: the pydicom data set without pixels.
        transfer_syntax: UID; a guess from the first element where the file has no meta information.
        is_little_endian: byte order of native pixels.
        pixel_tag: which of the three pixel elements there is; 0 if none.
        pixel_offset: of the pixel value's first byte, in the file or, if deflated, in the inflated
            bytes.
        pixel_length: declared bytes of the value; -1 for undefined (encapsulated).
        available: bytes from `pixel_offset` to the end of the file or inflated data.
        deflated_at: where the deflated data set starts in the file; -1 if it is not deflated.
    """

    path: Path
    name: str
    dataset: Any
    transfer_syntax: str
    is_little_endian: bool
    pixel_tag: int
    pixel_offset: int
    pixel_length: int
    available: int
    deflated_at: int = -1

    def has(self, keyword: str) -> bool:
        """True if the element is there and not empty."""
        return not is_empty(raw_value(self.dataset, keyword, self.name))

    def text(self, keyword: str) -> str:
        """The element as text, "" if absent or empty."""
        return text_of(self.dataset, keyword, where=self.name)

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The element as one whole number; refused if absent and without a default."""
        value = self.number(keyword, default)
        if value != int(value):
            raise bad_value(self.name, keyword, value, "must be a whole number")
        return int(value)

    def number(self, keyword: str, default: float | None = None) -> float:
        """The element as one finite number; refused if absent and without a default."""
        return number_of(self.dataset, keyword, where=self.name, default=default)

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        """The element as exactly `count` finite numbers; refused if absent."""
        return numbers_of(self.dataset, keyword, count=count, where=self.name)


def open_pixels(header: Header) -> BinaryIO:
    """The bytes that `pixel_offset` counts in: the file, or its data set inflated anew."""
    file = header.path.open("rb")
    if header.deflated_at < 0:
        return file
    with file:
        file.seek(header.deflated_at)
        return io.BytesIO(_inflate(file.read(), header.name))


def read_header(path: Path, *, name: str | None = None) -> Header:
    """The header of a file.

    Raises:
        NotDicomError: the file is something else.
        InputError: the file is DICOM but cut short, corrupt or of an unknown transfer syntax.
    """
    label = name or str(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            return _read(file, size, path, label)
    except (InputError, NotDicomError):
        raise
    except OSError as error:
        raise InputError(
            label,
            f"cannot be read ({error.strerror or type(error).__name__})",
            "check the file and its permissions",
            code="E_HEADER",
        ) from error
    except (MemoryError, RecursionError) as error:
        raise InputError(
            label,
            f"has a header that cannot be parsed within limits ({type(error).__name__})",
            "the file is corrupt or hostile; export it again",
            code="E_HEADER",
        ) from None
    except Exception as error:  # pydicom raises a dozen types on corrupt bytes
        raise _corrupt(label, type(error).__name__) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Silences pydicom's warnings and log, which quote element values and so may carry a patient's
    name.

    Wraps whole operations, not single reads: the setting belongs to the process.
    """
    mode, log = pydicom.config.settings.reading_validation_mode, logging.getLogger("pydicom")
    was_disabled = log.disabled
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pydicom.config.settings.reading_validation_mode = mode
        log.disabled = was_disabled


def _read(file: io.BufferedReader, size: int, path: Path, name: str) -> Header:
    file.seek(0)
    head = file.read(_FIRST_READ)
    syntax, sop_class, start = _file_meta(head, name)
    implicit, little = syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    if not syntax:
        syntax, implicit, little = _guess_encoding(head[start : start + 8])
    deflated_at = -1
    if syntax == DEFLATED:
        file.seek(start)
        deflated_at = start
        head, start = _inflate(file.read(), name), 0
        size = len(head)
    while True:
        stream = io.BytesIO(head)
        stream.seek(start)
        found: list[tuple[int, int]] = []
        last_tag = 0

        def at_pixels(tag: int, vr: str | None, length: int, found: list[Any] = found) -> bool:
            nonlocal last_tag
            last_tag = int(tag)
            if tag in (FLOAT_PIXELS, DOUBLE_PIXELS, PIXELS):
                found.append((int(tag), int(length)))
            return bool(found)

        failure: Exception | None = None
        try:
            dataset = read_dataset(
                stream, implicit, little, stop_when=at_pixels, specific_tags=list(TAGS)
            )
        except Exception as error:
            failure = error
        if found and failure is None:
            break
        if len(head) >= size:
            if failure is not None:
                raise failure
            sop_class = sop_class or text_of(dataset, "SOPClassUID", where=name)
            is_cut = stream.tell() != size or cut_element(dataset)
            if is_cut or is_stump(dataset, sop_class, last_tag):
                raise cut_header(name, dataset, sop_class)
            break
        if len(head) >= _MAX_HEADER:
            raise InputError(
                name,
                f"has more than {_MAX_HEADER >> 20} MiB of header before its pixels",
                "the file is corrupt or hostile; export it again",
                code="E_TOO_LARGE",
            )
        file.seek(0)
        head = file.read(min(len(head) * 16, _MAX_HEADER))
    if not found:
        return Header(path, name, dataset, syntax, little, 0, size, 0, 0, deflated_at)
    tag, length = found[0]
    # The parser rewinds to the element's tag: 4 bytes tag, then 4 (implicit) or 8 (explicit OB, OW,
    # OF, OD).
    element = stream.tell()
    explicit = head[element + 4 : element + 6] in (b"OB", b"OW", b"OF", b"OD", b"UN")
    offset = element + (12 if explicit else 8)
    return Header(
        path=path,
        name=name,
        dataset=dataset,
        transfer_syntax=syntax,
        is_little_endian=little,
        pixel_tag=tag,
        pixel_offset=offset,
        pixel_length=-1 if length == 0xFFFFFFFF else length,
        available=max(0, size - offset),
        deflated_at=deflated_at,
    )


def _file_meta(head: bytes, name: str) -> tuple[str, str, int]:
    """Transfer syntax and SOP class ("" if not stated), and where the data set starts."""
    has_magic = head[128:132] == b"DICM"
    position = 132 if has_magic else 0
    if not has_magic and not looks_like_dataset(head):
        raise NotDicomError
    stated = {_SYNTAX: "", _SOP_CLASS: ""}
    # File meta information is always explicit VR little endian (PS3.10 section 7.1).
    while len(head) - position >= 8 and head[position : position + 2] == b"\x02\x00":
        vr = head[position + 4 : position + 6]
        if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"UC", b"UR"):
            length = int.from_bytes(head[position + 8 : position + 12], "little")
            value = position + 12
        else:
            length = int.from_bytes(head[position + 6 : position + 8], "little")
            value = position + 8
        if value + length > len(head):
            raise _corrupt(name, "the meta information is cut short")
        element = head[position + 2 : position + 4]
        if element in stated:
            stated[element] = head[value : value + length].decode("ascii", "replace").strip("\0 ")
        position = value + length
    if has_magic and len(head) - position < 8:
        raise _corrupt(name, "the file ends after the meta information")
    return stated[_SYNTAX], stated[_SOP_CLASS], position


def looks_like_dataset(head: bytes) -> bool:
    """True if bytes without the DICM mark begin like a data set: group 2 or 8, small element, sane
    length.
    """
    if len(head) < 16:
        return False
    for order in ("little", "big"):
        group = int.from_bytes(head[0:2], order)
        element = int.from_bytes(head[2:4], order)
        if group not in (0x0002, 0x0008) or element > 0x3010:
            continue
        if head[4:6].isalpha() and head[4:6].isupper():
            return True
        length = int.from_bytes(head[4:8], order)
        return length < 1 << 12
    return False


def _guess_encoding(first: bytes) -> tuple[str, bool, bool]:
    little = int.from_bytes(first[0:2], "little") < 0x0100
    explicit = first[4:6].isalpha() and first[4:6].isupper()
    if not little:
        return EXPLICIT_BIG, not explicit, False
    return (EXPLICIT_LITTLE, False, True) if explicit else (IMPLICIT_LITTLE, True, True)


def _inflate(deflated: bytes, name: str) -> bytes:
    limit = _MAX_INFLATED_RATIO * len(deflated) + (1 << 20)
    limit = min(limit, _MAX_INFLATED_SLACK + 16 * len(deflated))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(deflated, limit)
    except zlib.error:
        raise _corrupt(name, "the deflated data cannot be inflated") from None
    if inflater.unconsumed_tail or (not inflater.eof and len(inflated) >= limit):
        raise InputError(
            name,
            f"inflates to more than {limit >> 20} MiB from {len(deflated) >> 10} KiB",
            "the file is corrupt or hostile; export it again without deflate",
            code="E_TOO_LARGE",
        )
    if not inflater.eof:
        raise _corrupt(name, "the deflated data is cut short")
    return inflated


def _corrupt(name: str, why: str) -> InputError:
    return InputError(
        name,
        f"is DICOM but its header cannot be read ({why})",
        "export or send the file again",
        code="E_HEADER",
    )
