"""Segments that may overlap, and the rules by which they become one label map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import Label, LabelSet
from medseg.core.segmentation import LabelMap

OnOverlap = Literal["refuse", "last", "smallest"]


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment's voxels.

    Args:
        label: name, number, codes and colour.
        start: first voxel (i, j, k) of `mask` in the grid.
        mask: bool, the box around the segment; of shape (0, 0, 0) if it is empty.
        tracking_uid: DICOM tracking UID; "" if there is none.
    """

    label: Label
    start: tuple[int, int, int]
    mask: NDArray[np.bool_]
    tracking_uid: str = ""

    @property
    def num_voxels(self) -> int:
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where `mask` lies in the grid."""
        i, j, k = (
            slice(a, a + extent) for a, extent in zip(self.start, self.mask.shape, strict=True)
        )
        return i, j, k


@dataclass(frozen=True, eq=False)
class SegmentSet:
    """Segments on one grid: voxels may belong to several, as organs and their lesions do.

    Args:
        where: what messages call it, such as the file.
        geometry: the grid.
        segments: in the order of their numbers.
        notes: what a person should know.
    """

    where: str
    geometry: Geometry
    segments: tuple[Segment, ...]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> LabelSet:
        """Labels by the numbers of the file; numbers that it skips are named "unused_<n>"."""
        by_number = {segment.label.class_id: segment.label for segment in self.segments}
        highest = max(by_number, default=1)
        labels = [by_number.get(n, Label(f"unused_{n}", n)) for n in range(1, highest + 1)]
        return LabelSet((Label("background", 0), *labels))

    def layers(self) -> tuple[NDArray[np.uint16], dict[int, int]]:
        """Class numbers in as few label arrays as hold all segments apart.

        Returns:
            Array of shape (L, I, J, K), and the layer that each number is in.
        """
        found: list[NDArray[np.uint16]] = []
        layer_of = {}
        for segment in self.segments:
            free = [
                number
                for number, layer in enumerate(found)
                if not (layer[segment.box] > 0)[segment.mask].any()
            ]
            if not free:
                free = [len(found)]
                found.append(np.zeros(self.geometry.shape, np.uint16))
            found[free[0]][segment.box][segment.mask] = segment.label.class_id
            layer_of[segment.label.class_id] = free[0]
        empty = np.zeros((1, *self.geometry.shape), np.uint16)
        return np.stack(found) if found else empty, layer_of

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Voxels of the segment of that name, shape (I, J, K).

        Raises:
            LabelError: there is none.
        """
        number = self.labels[name].class_id
        result = np.zeros(self.geometry.shape, np.bool_)
        for segment in self.segments:
            if segment.label.class_id == number:
                result[segment.box] |= segment.mask
        return result

    def overlaps(self) -> list[tuple[str, str, int]]:
        """Names of each two segments that share voxels, and how many."""
        found = []
        for n, first in enumerate(self.segments):
            for second in self.segments[n + 1 :]:
                shared = _shared_voxels(first, second)
                if shared:
                    found.append((first.label.name, second.label.name, shared))
        return found

    def label_map(self, *, on_overlap: OnOverlap = "refuse") -> LabelMap:
        """One number per voxel.

        Args:
            on_overlap: "refuse" voxels of two segments; "last" gives them to the segment of the
                higher number; "smallest" to the one with fewer voxels, as a tumour in its organ.

        Raises:
            LabelError: segments overlap and `on_overlap` is "refuse", or it is no accepted word.
        """
        if on_overlap not in ("refuse", "last", "smallest"):
            raise LabelError("on_overlap", f"is '{on_overlap}'", "use refuse, last or smallest")
        if on_overlap == "refuse":
            self._refuse_overlaps()
        ordered = list(self.segments)
        if on_overlap == "smallest":
            ordered.sort(key=lambda segment: -segment.num_voxels)
        labels = self.labels
        array = np.zeros(self.geometry.shape, np.uint8 if len(labels) <= 256 else np.uint16)
        for segment in ordered:
            array[segment.box][segment.mask] = segment.label.class_id
        return LabelMap(array, self.geometry, labels)

    def _refuse_overlaps(self) -> None:
        taken = np.zeros(self.geometry.shape, np.bool_)
        for segment in self.segments:
            if (taken[segment.box] & segment.mask).any():
                first, second, shared = self.overlaps()[0]
                raise LabelError(
                    self.where,
                    f"{shared} voxels belong to both '{first}' and '{second}', but a label map has "
                    "one class per voxel",
                    "set on_overlap to 'smallest' or 'last', or use read_segments",
                    code="E_OVERLAP",
                )
            taken[segment.box] |= segment.mask


def segment_of(label: Label, mask: NDArray[np.bool_], *, tracking_uid: str = "") -> Segment:
    """A segment from a mask of the whole grid, cut to its box."""
    if not mask.any():
        return Segment(label, (0, 0, 0), np.zeros((0, 0, 0), np.bool_), tracking_uid)
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        occupied = np.flatnonzero(mask.any(axis=others))
        ranges.append((int(occupied[0]), int(occupied[-1]) + 1))
    (i0, i1), (j0, j1), (k0, k1) = ranges
    return Segment(label, (i0, j0, k0), mask[i0:i1, j0:j1, k0:k1].copy(), tracking_uid)


def joined(label: Label, pieces: Sequence[Segment], *, tracking_uid: str = "") -> Segment:
    """One segment from the boxes of its parts."""
    parts = [piece for piece in pieces if piece.mask.size]
    if not parts:
        return Segment(label, (0, 0, 0), np.zeros((0, 0, 0), np.bool_), tracking_uid)
    low = np.min([piece.start for piece in parts], axis=0)
    high = np.max([np.add(piece.start, piece.mask.shape) for piece in parts], axis=0)
    mask = np.zeros(high - low, np.bool_)
    for piece in parts:
        i, j, k = np.subtract(piece.start, low)
        di, dj, dk = piece.mask.shape
        mask[i : i + di, j : j + dj, k : k + dk] |= piece.mask
    return Segment(label, (int(low[0]), int(low[1]), int(low[2])), mask, tracking_uid)


def unique_names(names: list[str]) -> list[str]:
    """The names, with a number behind those that repeat or are empty."""
    result: list[str] = []
    for n, name in enumerate(names, start=1):
        candidate = name or f"segment_{n}"
        result.append(candidate if candidate not in result else f"{candidate}_{n}")
    return result


def _shared_voxels(first: Segment, second: Segment) -> int:
    low = np.maximum(first.start, second.start)
    high = np.minimum(
        np.add(first.start, first.mask.shape), np.add(second.start, second.mask.shape)
    )
    if (low >= high).any():
        return 0
    views = []
    for segment in (first, second):
        a, b = low - segment.start, high - segment.start
        views.append(segment.mask[a[0] : b[0], a[1] : b[1], a[2] : b[2]])
    return int((views[0] & views[1]).sum())
