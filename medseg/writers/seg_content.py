"""What a DICOM segmentation holds: results as planes of class numbers or shares, on the slices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import LabelError, OutputError
from medseg.core.labels import Label, LabelSet
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.core.segments import SegmentSet
from medseg.dicom.source_series import SourceSeries, on_slices
from medseg.writers.seg_frames import FrameKey
from medseg.writers.seg_header import segments_of

SegmentationType = Literal["BINARY", "FRACTIONAL", "LABELMAP"]
FULL_SHARE = 255


@dataclass(frozen=True, eq=False)
class SegContent:
    """The frames' values.

    Args:
        layers: shape (layers, slices, rows, columns): class numbers, or shares in 0 to 255 with one
            layer for each segment.
        layer_of: layer of each class number.
        segments: the classes to describe.
        overlap: whether a voxel may belong to two segments, as DICOM says it.
        fractional_type: what shares mean; "" for class numbers.
        tracking_uids: of segments that have one already.
    """

    layers: NDArray[Any]
    layer_of: Mapping[int, int]
    segments: tuple[Label, ...]
    overlap: Literal["NO", "YES", "UNDEFINED"] = "NO"
    fractional_type: str = ""
    tracking_uids: Mapping[int, str] = field(default_factory=dict)

    @property
    def num_slices(self) -> int:
        return int(self.layers.shape[1])

    @property
    def voxels_per_frame(self) -> int:
        return int(self.layers.shape[2] * self.layers.shape[3])

    @property
    def numbers(self) -> list[int]:
        return [label.class_id for label in self.segments]

    def plane(self, number: int, index: int) -> NDArray[Any]:
        """One frame's stored values; all classes together for number 0."""
        return np.asarray(self.layers[self.layer_of.get(number, 0), index])

    def masks(self, frames: Sequence[FrameKey]) -> Iterator[NDArray[np.bool_]]:
        """Voxels of the segment of each frame, of class numbers."""
        for number, index in frames:
            yield self.plane(number, index) == number

    def occupied(self) -> dict[int, range]:
        """From the first to the last slice of each segment; those without voxels are left out.

        Slices in between are part of the range even if empty: viewers that take the frames of a
        segment for consecutive slices would shift it otherwise.
        """
        if self.fractional_type:
            return {
                number: _range(self.layers[layer].any(axis=(1, 2)))
                for number, layer in self.layer_of.items()
                if self.layers[layer].any()
            }
        present = np.zeros((max(self.numbers) + 1, self.num_slices), np.bool_)
        for layer in self.layers:
            for index, plane in enumerate(layer):
                counts = np.bincount(plane.ravel(), minlength=len(present))
                present[:, index] |= counts[: len(present)] > 0
        return {n: _range(present[n]) for n in self.numbers if present[n].any()}

    def digest(self) -> str:
        """Hash of the voxels and of what their numbers mean."""
        meaning = LabelSet((Label("background", 0), *self.segments)).to_mapping()
        facts = (meaning, self.fractional_type, dict(self.tracking_uids), self.layers.shape)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.layers).data)
        return digest.hexdigest()


def content_of(
    result: LabelMap | ProbabilityMap | SegmentSet,
    source: SourceSeries,
    *,
    segmentation_type: SegmentationType,
    where: str,
) -> SegContent:
    """A result's voxels on the slices of its series.

    Raises:
        GeometryError: it does not lie on them.
        LabelError: it holds numbers that its label set does not.
        OutputError: overlapping segments are to become a label map.
    """
    if isinstance(result, SegmentSet):
        return _of_segments(result, source, segmentation_type, where)
    voxels = on_slices(result.array, result.geometry, source, where=where)
    if isinstance(result, ProbabilityMap) and segmentation_type == "FRACTIONAL":
        segments = result.labels.foreground
        shares = [
            np.rint(np.clip(planes_of(voxels[label.class_id]), 0, 1) * FULL_SHARE).astype(np.uint8)
            for label in segments
        ]
        layer_of = {label.class_id: n for n, label in enumerate(segments)}
        return SegContent(np.stack(shares), layer_of, segments, "UNDEFINED", "PROBABILITY")
    if isinstance(result, ProbabilityMap):
        voxels = voxels.argmax(axis=0)
    else:
        voxels = _checked(voxels, result.labels, where)
    highest = int(voxels.max()) if result.labels is None else len(result.labels) - 1
    planes = planes_of(voxels.astype(np.uint8 if highest <= 255 else np.uint16, copy=False))
    segments = segments_of(result.labels, highest=highest)
    if segmentation_type == "FRACTIONAL":
        return _occupancy(planes[None], dict.fromkeys((s.class_id for s in segments), 0), segments)
    return SegContent(planes[None], dict.fromkeys((s.class_id for s in segments), 0), segments)


def planes_of(array: NDArray[Any]) -> NDArray[Any]:
    """Voxels of shape (columns, rows, slices) as contiguous planes (slices, rows, columns)."""
    planes = array.transpose(2, 1, 0)
    if planes.flags.c_contiguous:
        return planes
    result = np.empty(planes.shape, planes.dtype)
    # In strips of 16 columns, three times faster than in one go, which misses the cache.
    for start in range(0, planes.shape[2], 16):
        result[:, :, start : start + 16] = planes[:, :, start : start + 16]
    return result


def _of_segments(
    result: SegmentSet, source: SourceSeries, segmentation_type: str, where: str
) -> SegContent:
    layers, layer_of = result.layers()
    if segmentation_type == "LABELMAP" and len(layers) > 1:
        first, second, shared = result.overlaps()[0]
        raise OutputError(
            where,
            f"{shared} voxels belong to both '{first}' and '{second}', and a label map has one "
            "class per voxel",
            "use segmentation_type=BINARY",
        )
    segments = result.labels.foreground
    if len(segments) <= 255:
        layers = layers.astype(np.uint8)
    voxels = on_slices(layers, result.geometry, source, where=where)
    planes = np.stack([planes_of(layer) for layer in voxels])
    if segmentation_type == "FRACTIONAL":
        return _occupancy(planes, layer_of, segments)
    return SegContent(
        planes,
        layer_of,
        segments,
        "YES" if len(layers) > 1 else "NO",
        tracking_uids={s.label.class_id: s.tracking_uid for s in result.segments if s.tracking_uid},
    )


def _occupancy(
    planes: NDArray[Any], layer_of: Mapping[int, int], segments: tuple[Label, ...]
) -> SegContent:
    """Class numbers as shares of 0 and 1."""
    shares = [
        (planes[layer_of.get(label.class_id, 0)] == label.class_id).astype(np.uint8) * FULL_SHARE
        for label in segments
    ]
    own_layer = {label.class_id: n for n, label in enumerate(segments)}
    overlap: Literal["YES", "NO"] = "YES" if len(planes) > 1 else "NO"
    return SegContent(np.stack(shares), own_layer, segments, overlap, "OCCUPANCY")


def _range(present: NDArray[np.bool_]) -> range:
    slices = np.flatnonzero(present)
    return range(int(slices[0]), int(slices[-1]) + 1)


def _checked(voxels: NDArray[Any], labels: LabelSet | None, where: str) -> NDArray[Any]:
    """Class numbers that have a label; voxels without annotation become background."""
    if labels is not None and labels.ignore_id is not None:
        voxels = np.where(voxels == labels.ignore_id, 0, voxels)
    low, high = int(voxels.min()), int(voxels.max())
    highest = 65535 if labels is None else len(labels) - 1
    if low < 0 or high > highest:
        raise LabelError(
            where,
            f"the result holds numbers from {low} to {high}, but its labels are 0 to {highest}",
            "give the label set that the numbers belong to",
        )
    return voxels
