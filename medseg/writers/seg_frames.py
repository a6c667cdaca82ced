"""Label maps to the frames of a DICOM segmentation: which frames, their bits, their headers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.valuerep import DS

from medseg.core.labels import CodedConcept
from medseg.core.volume import permute_array
from medseg.dicom.derived import code_item, reference_item
from medseg.dicom.encode import encode_elements, sequence
from medseg.dicom.frames import Frame
from medseg.dicom.source_series import Alignment

_SEGMENTATION = CodedConcept("113076", "DCM", "Segmentation")
_SOURCE_IMAGE = CodedConcept("121322", "DCM", "Source image for image processing operation")
_FRAME_CONTENT = b"\x20\x00\x11\x91"  # (0020,9111)
_DIMENSION_INDEX_VALUES = b"\x20\x00\x57\x91"  # (0020,9157)

# A frame of the object: segment number (0 in a label map, whose frames hold all) and slice number.
FrameKey = tuple[int, int]


def planes_of(array: NDArray[Any], alignment: Alignment) -> NDArray[Any]:
    """The voxels as the source's planes, shape (slices, rows, columns), contiguous."""
    aligned = permute_array(array[None], alignment.order, alignment.flips)[0]
    return np.ascontiguousarray(aligned.transpose(2, 1, 0))


def slices_with(planes: NDArray[Any], numbers: Sequence[int]) -> dict[int, range]:
    """From the first to the last slice that each number occurs in; absent numbers are left out.

    Slices in between are part of the range even if empty: viewers that take the frames of a segment
    for consecutive slices would shift it otherwise.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    highest = max(numbers, default=0)
    for index, plane in enumerate(planes):
        for number in np.flatnonzero(np.bincount(plane.ravel(), minlength=highest + 1)):
            first.setdefault(int(number), index)
            last[int(number)] = index
    return {n: range(first[n], last[n] + 1) for n in numbers if n in first}


def bit_frames(planes: NDArray[Any], frames: Sequence[FrameKey]) -> Iterator[bytes]:
    """One bit per voxel, first voxel lowest, frames joined without padding (PS3.5 8.1.1).

    A frame need not end at a byte, so as many are packed together as make whole bytes.
    """
    voxels = planes.shape[1] * planes.shape[2]
    step = 8 // math.gcd(voxels, 8)
    for start in range(0, len(frames), step):
        group = frames[start : start + step]
        bits = np.concatenate([(planes[k] == number).ravel() for number, k in group])
        yield np.packbits(bits, bitorder="little").tobytes()


def rle_frame(plane: NDArray[Any]) -> bytes:
    """One plane of unsigned integers as DICOM RLE (PS3.5 annex G)."""
    bits = plane.dtype.itemsize * 8
    return bytes(
        RLELosslessEncoder.encode(
            plane.astype(plane.dtype.newbyteorder("<"), copy=False),
            rows=plane.shape[0],
            columns=plane.shape[1],
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=bits,
            bits_stored=bits,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        )
    )


def frame_groups(alignment: Alignment, frames: Sequence[FrameKey]) -> list[bytes]:
    """Encoded functional groups of each frame: its source images, its place, its segment."""
    derivations = [encode_elements(_derivation(sources)) for sources in alignment.frames]
    positions = [encode_elements(_position(sources[0])) for sources in alignment.frames]
    identities = {n: encode_elements(_identity(n)) for n in {n for n, _ in frames} if n > 0}
    return [
        derivations[k]
        + _frame_content([number, k + 1] if number > 0 else [k + 1])
        + positions[k]
        + identities.get(number, b"")
        for number, k in frames
    ]


def decimals(values: Any) -> list[DS]:
    """Numbers as decimal strings of at most 16 characters."""
    return [DS(float(value), auto_format=True) for value in values]


def _derivation(sources: tuple[Frame, ...]) -> Dataset:
    items = []
    for uid in dict.fromkeys(frame.header.text("SOPInstanceUID") for frame in sources):
        same_file = [f for f in sources if f.header.text("SOPInstanceUID") == uid]
        item = reference_item(same_file[0])
        if same_file[0].header.has("PerFrameFunctionalGroupsSequence"):
            item.ReferencedFrameNumber = [frame.number + 1 for frame in same_file]
        item.SpatialLocationsPreserved = "YES"
        item.PurposeOfReferenceCodeSequence = [code_item(_SOURCE_IMAGE)]
        items.append(item)
    derivation = Dataset()
    derivation.SourceImageSequence = items
    derivation.DerivationCodeSequence = [code_item(_SEGMENTATION)]
    group = Dataset()
    group.DerivationImageSequence = [derivation]
    return group


def _position(frame: Frame) -> Dataset:
    position = Dataset()
    position.ImagePositionPatient = decimals(frame.position_lps)
    group = Dataset()
    group.PlanePositionSequence = [position]
    return group


def _identity(number: int) -> Dataset:
    identity = Dataset()
    identity.ReferencedSegmentNumber = number
    group = Dataset()
    group.SegmentIdentificationSequence = [identity]
    return group


def _frame_content(indices: list[int]) -> bytes:
    values = np.array(indices, "<u4").tobytes()
    element = _DIMENSION_INDEX_VALUES + b"UL" + len(values).to_bytes(2, "little") + values
    return sequence(_FRAME_CONTENT, [element])
