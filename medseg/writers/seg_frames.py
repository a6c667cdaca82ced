"""Label maps to the frames of a DICOM segmentation: which frames, their bits, their headers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.valuerep import DS

from medseg.core.labels import CodedConcept
from medseg.dicom.derived import code_item
from medseg.dicom.encode import element, encode_elements, sequence
from medseg.dicom.frames import Frame, is_enhanced
from medseg.dicom.source_series import SourceSeries

_SEGMENTATION = CodedConcept("113076", "DCM", "Segmentation")
_SOURCE_IMAGE = CodedConcept("121322", "DCM", "Source image for image processing operation")
_SOP_CLASS, _SOP_INSTANCE, _FRAME_NUMBER = 0x00081150, 0x00081155, 0x00081160
_SOURCE_IMAGES, _DERIVATION_IMAGES, _DERIVATION_CODE = 0x00082112, 0x00089124, 0x00089215
_IMAGE_POSITION, _PLANE_POSITION = 0x00200032, 0x00209113
_FRAME_CONTENT, _DIMENSION_INDEX_VALUES = 0x00209111, 0x00209157
_SPATIAL_LOCATIONS_PRESERVED, _PURPOSE_OF_REFERENCE = 0x0028135A, 0x0040A170
_SEGMENT_IDENTIFICATION, _SEGMENT_NUMBER = 0x0062000A, 0x0062000B

# A frame of the object: segment number (0 in a label map, whose frames hold all) and slice number.
FrameKey = tuple[int, int]


def bit_frames(masks: Iterable[NDArray[np.bool_]], *, num_voxels: int) -> Iterator[bytes]:
    """One bit per voxel, first voxel lowest, frames joined without padding (PS3.5 8.1.1).

    A frame need not end at a byte, so as many are packed together as make whole bytes.

    Args:
        masks: one for each frame.
        num_voxels: of one frame.
    """
    step = 8 // math.gcd(num_voxels, 8)
    remaining = iter(masks)
    while group := [mask.ravel() for mask in islice(remaining, step)]:
        bits = group[0] if len(group) == 1 else np.concatenate(group)
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


def frame_groups(source: SourceSeries, frames: Sequence[FrameKey]) -> list[bytes]:
    """Encoded functional groups of each frame: its source image, its place, its segment."""
    preserved = element(_SPATIAL_LOCATIONS_PRESERVED, "CS", "YES")
    purpose = sequence(_PURPOSE_OF_REFERENCE, [encode_elements(code_item(_SOURCE_IMAGE))])
    code = sequence(_DERIVATION_CODE, [encode_elements(code_item(_SEGMENTATION))])
    derivations, positions = [], []
    for frame in source.lattice.frames:
        image = sequence(_SOURCE_IMAGES, [_reference(frame) + preserved + purpose])
        derivations.append(sequence(_DERIVATION_IMAGES, [image + code]))
        positions.append(b"" if frame.is_projection else _position(frame))
    has_places = not source.is_projection
    return [
        derivations[k]
        + _frame_content(([number] if number > 0 else []) + ([k + 1] if has_places else []))
        + positions[k]
        + (_segment_identification(number) if number > 0 else b"")
        for number, k in frames
    ]


def decimals(values: Any) -> list[DS]:
    """Numbers as decimal strings of at most 16 characters."""
    return [DS(float(value), auto_format=True) for value in values]


def _reference(frame: Frame) -> bytes:
    """Elements of a reference to one frame, in the order of their tags."""
    header = frame.header
    reference = element(_SOP_CLASS, "UI", header.text("SOPClassUID"))
    reference += element(_SOP_INSTANCE, "UI", header.text("SOPInstanceUID"))
    if is_enhanced(header):
        reference += element(_FRAME_NUMBER, "IS", str(frame.number + 1))
    return reference


def _position(frame: Frame) -> bytes:
    place = "\\".join(str(value) for value in decimals(frame.position_lps))
    return sequence(_PLANE_POSITION, [element(_IMAGE_POSITION, "DS", place)])


def _frame_content(indices: list[int]) -> bytes:
    values = element(_DIMENSION_INDEX_VALUES, "UL", np.array(indices, "<u4").tobytes())
    return sequence(_FRAME_CONTENT, [values])


def _segment_identification(number: int) -> bytes:
    value = element(_SEGMENT_NUMBER, "US", number.to_bytes(2, "little"))
    return sequence(_SEGMENT_IDENTIFICATION, [value])
