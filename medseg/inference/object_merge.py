"""Objects of overlapping windows as objects of the whole image, and one object per voxel.

An object that a window's border cuts is seen in parts by several windows. Where two windows look at
the same voxels, parts of one object agree there; that is what tells them from neighbours.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.models.detection.masks import THRESHOLD

MIN_IOU = 0.5
"""Of two parts of an object, over the voxels that both windows see."""
MIN_CONTAINED = 0.7
"""Share of the smaller part that lies in the larger, for parts cut by a border, whose masks end
early there (both chosen, untested beyond the tests).
"""
MIN_IN_COMMON = 0.5
"""Share of the smaller part that lies in the larger, for whole objects of two views: different
networks outline lesions of a few voxels differently (chosen).
"""
MARGIN = 1
"""A part that comes this near to a border within the image counts as cut."""

_FAR = 10**9
"""Voxels to a border that does not lie within the image."""

Region = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class FoundObject:
    """An object, or what a window shows of it.

    Args:
        start: first voxel of its box in the image.
        mask: bool, the box.
        class_id: of the object.
        score: in [0, 1].
        probabilities: of the mask, for the box and one voxel around it, 0 where the object cannot
            be, such as beyond the image; None where they are not known. The mask is what the object
            has on this grid, they say where its outline runs between voxels.
    """

    start: tuple[int, ...]
    mask: NDArray[np.bool_]
    class_id: int
    score: float
    probabilities: NDArray[np.float32] | None = None

    @property
    def stop(self) -> tuple[int, ...]:
        return tuple(a + n for a, n in zip(self.start, self.mask.shape, strict=True))

    @property
    def region(self) -> Region:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True, eq=False)
class WindowObjects:
    """The objects of one window.

    Args:
        start, stop: of the window in the image.
        objects: in coordinates of the image.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    objects: tuple[FoundObject, ...]


def merge_windows(windows: Sequence[WindowObjects], shape: tuple[int, ...]) -> list[FoundObject]:
    """The objects of an image from those of its windows, best first.

    Parts belong to one object if they have its class and agree on the voxels that both windows see:
    by IoU, or, where a border cuts one, by what the smaller has in the larger; in two windows an
    object has one part each. Of an object that some window shows whole, that one counts which shows
    it furthest from its border, and its score is the mean of all windows that would show it whole,
    0 of those that do not find it; of others the parts are joined, with the mean of their scores
    weighted by voxels. Probabilities are the mean of those windows that show an object whole, the
    highest where parts are joined.

    Args:
        windows: covering the image.
        shape: of the image.
    """
    return _merged(windows, shape, min_in_common=math.inf)


def merge_views(
    views: Sequence[Sequence[FoundObject]], shape: tuple[int, ...]
) -> list[FoundObject]:
    """The objects of an image of which several views show all, best first: scores are their mean, 0
    from views that do not find an object, and probabilities the mean of those that do.

    Objects of two views are one if they have the same class and half of the smaller lies in the
    larger; in each view an object has one part at most. A view that has half of an object within
    another one of its class, as one that joins two neighbours, has no say in its score.

    Args:
        views: as different networks see the image, or as one sees it mirrored.
        shape: of the image.
    """
    start = (0,) * len(shape)
    windows = [WindowObjects(start, shape, tuple(view)) for view in views]
    return _merged(windows, shape, min_in_common=MIN_IN_COMMON, covers=_covering(views))


Covers = Callable[[int, FoundObject], bool]


def _merged(
    windows: Sequence[WindowObjects],
    shape: tuple[int, ...],
    *,
    min_in_common: float,
    covers: Covers = lambda _window, _found: False,
) -> list[FoundObject]:
    """See `merge_windows` and `merge_views`.

    Args:
        min_in_common: share of the smaller of two whole parts of an object that the larger has.
        covers: whether a window that does not show an object has no say in its score.
    """
    parts = [part for window in windows for part in window.objects]
    first = np.cumsum([0, *(len(window.objects) for window in windows)])
    window_of = np.repeat(np.arange(len(windows)), np.diff(first))
    starts = np.array([window.start for window in windows])
    stops = np.array([window.stop for window in windows])
    clearance = np.array(
        [
            _clearances(part, starts[[w]], stops[[w]], shape)[0]
            for w, part in zip(window_of, parts, strict=True)
        ]
    )
    groups = _Groups(len(parts))
    for a, b in _neighbours(windows):
        for n, m in _same_objects(
            windows[a], windows[b], clearance[first[a] :], clearance[first[b] :], min_in_common
        ):
            groups.join(int(first[a]) + n, int(first[b]) + m)
    merged = []
    for members in groups.lists():
        objects = _one_object(members, parts, clearance)
        if (clearance[members] > MARGIN).any():
            views = [(int(window_of[n]), parts[n]) for n in members]
            objects = [_mean_view(found, views, starts, stops, shape, covers) for found in objects]
        merged += objects
    return sorted(merged, key=lambda found: -found.score)


def flipped(found: FoundObject, axes: Sequence[int], shape: tuple[int, ...]) -> FoundObject:
    """The object in an image of that shape that is mirrored along some axes."""
    if not axes:
        return found
    start = [
        extent - stop if axis in axes else first
        for axis, (first, stop, extent) in enumerate(
            zip(found.start, found.stop, shape, strict=True)
        )
    ]
    probabilities = (
        None if found.probabilities is None else np.flip(found.probabilities, tuple(axes))
    )
    return replace(
        found,
        start=tuple(start),
        mask=np.flip(found.mask, tuple(axes)),
        probabilities=probabilities,
    )


def without_overlaps(
    objects: Iterable[FoundObject], shape: tuple[int, ...], *, min_left: float = 0.5
) -> list[FoundObject]:
    """Each voxel goes to the object of the highest score; one that keeps less than `min_left` of
    its voxels is left out (Kirillov et al. 2019).

    Args:
        objects: best first.
        shape: of the image.
        min_left: share.
    """
    taken = np.zeros([extent + 2 for extent in shape], np.bool_)  # with one voxel around
    kept = []
    for found in objects:
        region = tuple(slice(part.start + 1, part.stop + 1) for part in found.region)
        free = found.mask & ~taken[region]
        left = int(free.sum())
        if left == 0 or left < min_left * int(found.mask.sum()):
            continue
        probabilities = found.probabilities
        if probabilities is not None:
            around = tuple(slice(part.start, part.stop + 2) for part in found.region)
            probabilities = np.where(taken[around], 0, probabilities)
        taken[region] |= free
        kept.append(cropped(replace(found, mask=free, probabilities=probabilities)))
    return kept


def cropped(found: FoundObject) -> FoundObject:
    """The same object in the least box; its mask must not be empty."""
    start, box, around = [], [], []
    for axis in range(found.mask.ndim):
        others = tuple(n for n in range(found.mask.ndim) if n != axis)
        filled = np.flatnonzero(found.mask.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
        around.append(slice(int(filled[0]), int(filled[-1]) + 3))
        start.append(found.start[axis] + int(filled[0]))
    probabilities = None if found.probabilities is None else found.probabilities[tuple(around)]
    return replace(
        found, start=tuple(start), mask=found.mask[tuple(box)], probabilities=probabilities
    )


def probabilities_of(found: FoundObject) -> NDArray[np.float32]:
    """Of an object's box and one voxel around it; a mask's are 0 and 1."""
    return (
        np.pad(found.mask, 1).astype(np.float32)
        if found.probabilities is None
        else found.probabilities
    )


def join_slices(
    slices: Sequence[Sequence[FoundObject]], *, min_contained: float = 0.6
) -> list[FoundObject]:
    """3D objects from the 2D objects of each slice along K: those of neighbouring slices are one if
    `min_contained` of the smaller lies in the larger, each with its best partner.

    Args:
        slices: objects of each slice, without overlaps.
        min_contained: share; IoU would part an object from its tapering ends (chosen, untested).
    """
    parts = [_as_slice(found, k) for k, objects in enumerate(slices) for found in objects]
    first = np.cumsum([0, *(len(objects) for objects in slices)])
    groups = _Groups(len(parts))
    for k in range(len(slices) - 1):
        pairs = _pairs(
            slices[k], slices[k + 1], None, lambda _iou, inside, _n, _m: inside >= min_contained
        )
        for n, m in pairs:
            groups.join(int(first[k]) + n, int(first[k + 1]) + m)
    return [_union([parts[n] for n in members]) for members in groups.lists()]


def _as_slice(found: FoundObject, k: int) -> FoundObject:
    """A 2D object in three axes, in slice k."""
    probabilities = found.probabilities
    if probabilities is not None:
        probabilities = np.pad(probabilities[..., None], [(0, 0)] * probabilities.ndim + [(1, 1)])
    return replace(
        found, start=(*found.start, k), mask=found.mask[..., None], probabilities=probabilities
    )


class _Groups:
    """Disjoint groups of numbers."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, n: int) -> int:
        while self._parent[n] != n:
            self._parent[n] = self._parent[self._parent[n]]
            n = self._parent[n]
        return n

    def join(self, n: int, m: int) -> None:
        self._parent[self.root(m)] = self.root(n)

    def lists(self) -> list[list[int]]:
        members: dict[int, list[int]] = defaultdict(list)
        for n in range(len(self._parent)):
            members[self.root(n)].append(n)
        return list(members.values())


def _clearances(
    part: FoundObject, starts: NDArray[Any], stops: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Voxels between a part and the nearest border of each window that lies within the image,
    negative where the part reaches beyond it.

    Args:
        part: in coordinates of the image.
        starts, stops: of the windows, (windows, axes).
        shape: of the image.
    """
    before = np.where(starts > 0, np.array(part.start) - starts, _FAR)
    behind = np.where(stops < shape, stops - np.array(part.stop), _FAR)
    gaps: NDArray[Any] = np.minimum(before, behind).min(axis=1)
    return gaps


def _neighbours(windows: Sequence[WindowObjects]) -> Iterable[tuple[int, int]]:
    """Pairs of windows that share voxels and have objects."""
    filled = [n for n, window in enumerate(windows) if window.objects]
    starts = np.array([windows[n].start for n in filled])
    stops = np.array([windows[n].stop for n in filled])
    for a in range(len(filled)):
        shared = (
            np.minimum(stops[a], stops[a + 1 :]) > np.maximum(starts[a], starts[a + 1 :])
        ).all(1)
        for b in np.flatnonzero(shared):
            yield filled[a], filled[a + 1 + int(b)]


def _same_objects(
    first: WindowObjects,
    second: WindowObjects,
    first_clearance: NDArray[Any],
    second_clearance: NDArray[Any],
    min_in_common: float,
) -> list[tuple[int, int]]:
    region = tuple(
        slice(max(a, b), min(c, d))
        for a, b, c, d in zip(first.start, second.start, first.stop, second.stop, strict=True)
    )

    def agrees(iou: float, inside: float, n: int, m: int) -> bool:
        is_cut = min(first_clearance[n], second_clearance[m]) <= MARGIN
        return iou >= MIN_IOU or inside >= (MIN_CONTAINED if is_cut else min_in_common)

    return _pairs(first.objects, second.objects, region, agrees)


def _pairs(
    first: Sequence[FoundObject], second: Sequence[FoundObject], region: Region | None, agrees: Any
) -> list[tuple[int, int]]:
    """Partners by falling IoU over a region, each object with one at most."""
    if not first or not second:
        return []
    found = []
    for n, m, bottom, top in _meeting(first, second, region):
        one, other = first[n], second[m]
        if one.class_id != other.class_id:
            continue
        common = int((_part(one, bottom, top) & _part(other, bottom, top)).sum())
        if not common:
            continue
        sizes = [_size_within(one, region), _size_within(other, region)]
        iou = common / (sum(sizes) - common)
        if agrees(iou, common / min(sizes), n, m):
            found.append((iou, common / min(sizes), n, m))
    partners, used, used_other = [], set[int](), set[int]()
    for _, _, n, m in sorted(found, key=lambda row: (-row[0], -row[1], row[2], row[3])):
        if n not in used and m not in used_other:
            partners.append((n, m))
            used.add(n)
            used_other.add(m)
    return partners


def _meeting(
    first: Sequence[FoundObject], second: Sequence[FoundObject], region: Region | None
) -> Iterable[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]]:
    """Numbers of objects whose boxes meet, and the first voxel and end of what they share.

    Some boxes are compared at once, sorted along the first axis: memory does not grow with the
    square of the objects of an image, nor does time where they lie apart.
    """
    low, high = _boxes(first)
    other_low, other_high = _boxes(second)
    if region is not None:
        low = np.maximum(low, [part.start for part in region])
        high = np.minimum(high, [part.stop for part in region])
    order = np.argsort(low[:, 0], kind="stable")
    for start in range(0, len(order), _BOXES_AT_ONCE):
        rows = order[start : start + _BOXES_AT_ONCE]
        near = (other_low[:, 0] < high[rows, 0].max()) & (other_high[:, 0] > low[rows, 0].min())
        columns = np.flatnonzero(near)
        bottom = np.maximum(low[rows, None], other_low[columns])
        top = np.minimum(high[rows, None], other_high[columns])
        for n, m in np.argwhere((top > bottom).all(axis=2)).tolist():
            yield int(rows[n]), int(columns[m]), bottom[n, m], top[n, m]


_BOXES_AT_ONCE = 64


def _boxes(objects: Sequence[FoundObject]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (
        np.array([found.start for found in objects]),
        np.array([found.stop for found in objects]),
    )


def _part(found: FoundObject, low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
    """The mask between two corners that lie within the object's box."""
    box = tuple(
        slice(int(a) - s, int(b) - s) for a, b, s in zip(low, high, found.start, strict=True)
    )
    return found.mask[box]


def _size_within(found: FoundObject, region: Region | None) -> int:
    if region is None:
        return int(found.mask.sum())
    low = np.maximum(found.start, [part.start for part in region])
    high = np.minimum(found.stop, [part.stop for part in region])
    return int(_part(found, low, np.maximum(low, high)).sum())


def _one_object(
    members: list[int], parts: Sequence[FoundObject], clearance: NDArray[Any]
) -> list[FoundObject]:
    """The object that parts belong to; several where whole ones turn out not to be the same."""
    whole = [n for n in members if clearance[n] > MARGIN]
    if not whole:
        return [_union([parts[n] for n in members])]
    kept: list[FoundObject] = []
    for n in sorted(whole, key=lambda n: (-clearance[n], -parts[n].score, n)):
        if not any(_contained(parts[n], other) >= MIN_IOU for other in kept):
            kept.append(parts[n])
    return kept


def _mean_view(
    found: FoundObject,
    views: Sequence[tuple[int, FoundObject]],
    starts: NDArray[Any],
    stops: NDArray[Any],
    shape: tuple[int, ...],
    covers: Covers,
) -> FoundObject:
    """An object with the mean of its scores over the windows that would show it whole, and of its
    probabilities over those that do.

    Args:
        found: as one of them shows it.
        views: windows, and what they show of it.
        starts, stops: of all windows, (windows, axes).
        shape: of the image.
        covers: see `_merged`.
    """
    shows_whole = _clearances(found, starts, stops, shape) > MARGIN
    best: dict[int, FoundObject] = {}
    for window, part in views:
        if shows_whole[window] and _contained(part, found) >= MIN_IOU:
            known = best.get(window)
            if known is None or part.score > known.score:
                best[window] = part
    silent = [w for w in np.flatnonzero(shows_whole).tolist() if w not in best]
    num_votes = len(best) + sum(not covers(w, found) for w in silent)
    score = sum(part.score for part in best.values()) / num_votes
    alike = [part for part in best.values() if part.probabilities is not None]
    if len(alike) < 2:
        return replace(found, score=score)
    start, probabilities = _together(alike, np.add)
    probabilities = probabilities / np.float32(len(alike))
    mask = _mask_within(probabilities)
    if not mask.any():
        return replace(found, score=score)
    return cropped(FoundObject(start, mask, found.class_id, score, probabilities))


def _covering(views: Sequence[Sequence[FoundObject]]) -> Covers:
    """Whether half of an object lies within one object of a view that is of its class."""
    boxes = [_boxes(view) if view else None for view in views]

    def covers(number: int, found: FoundObject) -> bool:
        edges = boxes[number]
        if edges is None:
            return False
        bottom, top = np.maximum(edges[0], found.start), np.minimum(edges[1], found.stop)
        size = int(found.mask.sum())
        for n in np.flatnonzero((top > bottom).all(axis=1)):
            other = views[number][int(n)]
            common = _part(found, bottom[n], top[n]) & _part(other, bottom[n], top[n])
            if other.class_id == found.class_id and common.sum() >= MIN_IN_COMMON * size:
                return True
        return False

    return covers


def _contained(one: FoundObject, other: FoundObject) -> float:
    """Share of the smaller of two objects that lies in the other."""
    low = np.maximum(one.start, other.start)
    high = np.minimum(one.stop, other.stop)
    if (high <= low).any():
        return 0.0
    common = int((_part(one, low, high) & _part(other, low, high)).sum())
    return common / max(1, min(int(one.mask.sum()), int(other.mask.sum())))


def _union(parts: Sequence[FoundObject]) -> FoundObject:
    """All parts together; the score is their mean weighted by voxels, the class that of the
    largest.
    """
    if len(parts) == 1:
        return parts[0]
    start, probabilities = _together(parts, np.maximum)
    mask = _mask_within(probabilities)
    sizes = np.array([part.mask.sum() for part in parts], float)
    score = float(np.average([part.score for part in parts], weights=sizes))
    is_soft = any(part.probabilities is not None for part in parts)
    class_id = parts[int(sizes.argmax())].class_id
    return FoundObject(start, mask, class_id, score, probabilities if is_soft else None)


def _mask_within(probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The mask of a box, of whose voxels and one voxel around it probabilities are given."""
    inside = (slice(1, -1),) * probabilities.ndim
    mask: NDArray[np.bool_] = probabilities[inside] >= THRESHOLD
    return mask


def _together(
    parts: Sequence[FoundObject], combine: np.ufunc
) -> tuple[tuple[int, ...], NDArray[np.float32]]:
    """First voxel of the least box around parts, and their probabilities there and a voxel around,
    combined where they meet; masks count as probabilities of 0 and 1.
    """
    low = np.min([part.start for part in parts], axis=0)
    high = np.max([part.stop for part in parts], axis=0)
    probabilities = np.zeros(tuple(high - low + 2), np.float32)
    for part in parts:
        around = tuple(
            slice(int(a - s), int(b - s) + 2)
            for a, b, s in zip(part.start, part.stop, low, strict=True)
        )
        own = probabilities_of(part)
        combine(probabilities[around], own, out=probabilities[around])
    return tuple(int(n) for n in low), probabilities
