"""Label maps, objects and probabilities as DICOM segmentations that refer to their source series.

The voxels lie on the slices of that series, so nothing is resampled; codes, colours and patient
come from the label set and from the source. The same result gives the same UIDs and the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from medseg.core.errors import ConfigError, OutputError
from medseg.core.identity import Case
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import (
    InstanceSet,
    LabelMap,
    PanopticMap,
    ProbabilityMap,
    Result,
    UncertaintyMap,
)
from medseg.core.segments import SegmentSet
from medseg.dicom.derived import Algorithm, derived_header
from medseg.dicom.encode import DEFLATED, EXPLICIT_LITTLE, RLE, write_frames
from medseg.dicom.source_series import read_source_series, source_of
from medseg.dicom.uids import UUID_ROOT
from medseg.writers.names import output_path
from medseg.writers.object_segments import object_segments
from medseg.writers.seg_content import FULL_SHARE, SegContent, SegmentationType, content_of
from medseg.writers.seg_frames import FrameKey, bit_frames, frame_groups, rle_frame
from medseg.writers.seg_header import (
    LABEL_MAP_SEGMENTATION_STORAGE,
    SEGMENTATION_STORAGE,
    add_segmentation_modules,
    segment_items,
)

EmptyFrames = Literal["auto", "keep", "omit"]
Compression = Literal["auto", "none", "rle", "deflate"]

# Viewers place results best when every slice has a frame (shared with highdicom#214, OHIF#2833);
# beyond these limits the file would grow too large for that.
_KEEP_UP_TO_SEGMENTS = 4
_KEEP_BELOW_BYTES = 50_000_000
_MAX_NATIVE_BYTES = 2**32 - 2  # the length of native pixel data is a 32-bit even number


@dataclass(frozen=True)
class DicomSegWriter:
    """Writes `<case key>.dcm`; see `write_dicom_seg` for the arguments.

    Raises:
        ConfigError: an argument is none of the accepted words.
    """

    segmentation_type: SegmentationType = "BINARY"
    algorithm_name: str = "medseg"
    algorithm_version: str = ""
    bundle_sha256: str = ""
    empty_frames: EmptyFrames = "auto"
    compression: Compression = "auto"
    uid_root: str = UUID_ROOT

    def __post_init__(self) -> None:
        _check_words(self.segmentation_type, self.empty_frames, self.compression)

    @property
    def takes(self) -> tuple[ResultKind, ...]:
        is_fractional = self.segmentation_type == "FRACTIONAL"
        return ("probabilities",) if is_fractional else ("label_map", "instances")

    def check(self, case: Case) -> None:
        """Raises an OutputError if the case does not come from DICOM."""
        source_of(case, writer="DICOM-SEG")

    def write(self, result: Result, case: Case, *, folder: Path) -> list[Path]:
        path = output_path(folder, case, ".dcm")
        assert not isinstance(result, UncertaintyMap)  # which this takes none of
        content = (
            object_segments(result, where=case.key)
            if isinstance(result, InstanceSet | PanopticMap)
            else result
        )
        write_dicom_seg(
            content,
            case,
            path,
            segmentation_type=self.segmentation_type,
            algorithm_name=self.algorithm_name,
            algorithm_version=self.algorithm_version,
            bundle_sha256=self.bundle_sha256,
            empty_frames=self.empty_frames,
            compression=self.compression,
            uid_root=self.uid_root,
        )
        return [path]


def write_dicom_seg(
    label_map: LabelMap | ProbabilityMap | SegmentSet,
    case: Case,
    path: str | Path,
    *,
    segmentation_type: SegmentationType = "BINARY",
    algorithm_name: str = "medseg",
    algorithm_version: str = "",
    bundle_sha256: str = "",
    empty_frames: EmptyFrames = "auto",
    compression: Compression = "auto",
    uid_root: str = UUID_ROOT,
) -> Path:
    """Writes one DICOM segmentation object.

    Args:
        label_map: result on the slices of the source series; its axes may run in any order and
            direction. BINARY and LABELMAP take the likeliest class of probabilities, FRACTIONAL
            stores them in 256 steps, and a label map as 0 and 1. A SegmentSet holds segments that
            overlap, or instances with a name and tracking UID each; no LABELMAP can hold overlaps.
        case: where the result comes from; needs its `series`.
        path: file to write.
        segmentation_type: BINARY, one bit per voxel and class, is what every viewer reads.
            FRACTIONAL has eight. LABELMAP (DICOM 2024d) has one class number per voxel: by far the
            smallest for many classes, but older archives refuse it.
        algorithm_name, algorithm_version, bundle_sha256: what made the result.
        empty_frames: "keep" has a frame for every slice and segment, "omit" only for the slices
            from the first to the last of each segment. "auto" keeps with up to 4 segments or below
            50 MB.
        compression: "rle" fits FRACTIONAL and LABELMAP (where it is the default); "deflate" shrinks
            a BINARY of many segments a hundredfold, but not every archive knows it.
        uid_root: the site's own UID root.

    Returns:
        The path.

    Raises:
        OutputError: the case is no DICOM series, the series lacks identifiers, or the file cannot
            be written.
        GeometryError: the result does not lie on the slices of the series.
        LabelError: the label map holds numbers that its label set does not.
    """
    _check_words(segmentation_type, empty_frames, compression)
    series = source_of(case, writer="DICOM-SEG")
    source = read_source_series(series, where=case.key)
    algorithm = Algorithm(algorithm_name, algorithm_version, bundle_sha256)
    if source.is_projection and segmentation_type == "LABELMAP":
        raise OutputError(
            case.key,
            "is a projection image, whose label map has no position to be indexed by",
            "use segmentation_type=BINARY",
        )
    content = content_of(label_map, source, segmentation_type=segmentation_type, where=case.key)
    frames = _frames(content, segmentation_type, empty_frames)

    if compression == "auto":
        compression = "rle" if segmentation_type == "LABELMAP" else "none"
    if compression == "rle" and segmentation_type == "BINARY":
        raise ConfigError(
            "compression", "DICOM has no RLE for single bits", "use deflate, or LABELMAP with rle"
        )
    is_label_map = segmentation_type == "LABELMAP"
    header = derived_header(
        source,
        algorithm,
        sop_class_uid=LABEL_MAP_SEGMENTATION_STORAGE if is_label_map else SEGMENTATION_STORAGE,
        modality="SEG",
        identity=(segmentation_type, compression, empty_frames, content.digest()),
        series_offset=1,
        description="segmentation",
        uid_root=uid_root,
    )
    bits = 1 if segmentation_type == "BINARY" else content.layers.dtype.itemsize * 8
    add_segmentation_modules(
        header,
        source,
        segmentation_type=segmentation_type,
        bits=bits,
        num_frames=len(frames),
    )
    header.SegmentsOverlap = content.overlap
    if segmentation_type == "FRACTIONAL":
        header.SegmentationFractionalType = content.fractional_type
        header.MaximumFractionalValue = FULL_SHARE
    if is_label_map:
        header.PixelPaddingValue = 0
    header.SegmentSequence = segment_items(
        content.segments,
        source,
        algorithm,
        tracking_uids=content.tracking_uids,
        root=uid_root,
    )

    num_bytes = _native_bytes(content, len(frames), bits)
    if compression == "none" and num_bytes > _MAX_NATIVE_BYTES:
        raise OutputError(
            path,
            f"{len(frames)} frames for {len(content.numbers)} segments need more than the 4 GiB "
            "that an uncompressed object can hold",
            "use segmentation_type=LABELMAP",
        )
    encoded = [rle_frame(content.plane(*key)) for key in frames] if compression == "rle" else None
    write_frames(
        header,
        path,
        groups=frame_groups(source, frames),
        native=_native(content, frames, segmentation_type),
        num_native_bytes=num_bytes,
        encapsulated=encoded,
        value_representation="OW" if bits == 16 else "OB",
        syntax={"rle": RLE, "deflate": DEFLATED}.get(compression, EXPLICIT_LITTLE),
    )
    return Path(path)


def _frames(
    content: SegContent, segmentation_type: str, empty_frames: EmptyFrames
) -> list[FrameKey]:
    """Segment by segment, each in the order of the slices."""
    every = range(content.num_slices)
    if segmentation_type == "LABELMAP":
        return [(0, k) for k in every]
    numbers = content.numbers
    bits = 1 if segmentation_type == "BINARY" else 8
    all_bytes = _native_bytes(content, len(numbers) * len(every), bits)
    if empty_frames == "keep" or (
        empty_frames == "auto"
        and (len(numbers) <= _KEEP_UP_TO_SEGMENTS or all_bytes < _KEEP_BELOW_BYTES)
    ):
        return [(number, k) for number in numbers for k in every]
    occupied = content.occupied()
    frames = [(number, k) for number in numbers for k in occupied.get(number, ())]
    # An object without frames is not allowed; an empty result has those of the first segment.
    return frames or [(numbers[0], k) for k in every]


def _native_bytes(content: SegContent, num_frames: int, bits: int) -> int:
    return (num_frames * content.voxels_per_frame * bits + 7) // 8


def _native(
    content: SegContent, frames: Sequence[FrameKey], segmentation_type: str
) -> Iterator[bytes]:
    if segmentation_type == "BINARY":
        yield from bit_frames(content.masks(frames), num_voxels=content.voxels_per_frame)
        return
    for key in frames:
        plane = content.plane(*key)
        yield plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes()


def _check_words(segmentation_type: str, empty_frames: str, compression: str) -> None:
    for name, value, allowed in (
        ("segmentation_type", segmentation_type, get_args(SegmentationType)),
        ("empty_frames", empty_frames, get_args(EmptyFrames)),
        ("compression", compression, get_args(Compression)),
    ):
        if value not in allowed:
            raise ConfigError(name, f"is '{value}'", f"use one of {', '.join(allowed)}")
