"""Results and references on a voxel grid: label maps, probabilities, objects, and both together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from medseg.core.errors import GeometryError, LabelError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.volume import permute_array

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """One class number per voxel.

    Args:
        array: integers, shape (I, J, K); 0 is background.
        geometry: grid of the array.
        labels: meaning of the numbers; None if unknown.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: LabelSet | None = None

    def __post_init__(self) -> None:
        _require(self.array, self.array.shape, self.geometry, "label map")

    def reoriented(self, orientation: str) -> LabelMap:
        """The same voxels with axes permuted and flipped; a view."""
        array, geometry = _turned(self.array[None], self.geometry, orientation)
        return replace(self, array=array[0], geometry=geometry)


@dataclass(frozen=True, eq=False)
class ProbabilityMap:
    """Probability of each class per voxel.

    Args:
        array: float, shape (C, I, J, K), in [0, 1]; C counts background.
        geometry: grid of the last three axes.
        labels: one label per channel.
    """

    array: NDArray[Any]
    geometry: Geometry
    labels: LabelSet


@dataclass(frozen=True, eq=False)
class UncertaintyMap:
    """How far a label map is to be trusted.

    Args:
        entropy: float, shape (I, J, K): 0 where one class is certain, 1 where all are equally
            likely.
        disagreement: float, the same: 0 where the predictions that were averaged agree; None if
            there was one.
        geometry: grid of the arrays.
        expected_dice: of each structure, as the probabilities tell; None for one that is not found.
    """

    entropy: NDArray[Any]
    disagreement: NDArray[Any] | None
    geometry: Geometry
    expected_dice: Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class InstanceSet:
    """Objects, each with a class and a score, numbered from 1 without gaps.

    Each object lies in one layer; objects that overlap lie in different ones.

    Args:
        layers: instance_id per voxel, shape (layers, I, J, K) with at least one layer; 0 is none.
        geometry: grid of the last three axes.
        class_ids: class of each object, shape (n,).
        scores: in [0, 1], shape (n,); 1 for references.
        labels: meaning of the class numbers; None if unknown.
        ignored: voxels without annotation, shape (I, J, K); None if there are none.

    Raises:
        GeometryError: an array does not fit the grid, or holds no integers.
        LabelError: a voxel holds the number of no object, or classes and scores differ in length.
    """

    layers: NDArray[Any]
    geometry: Geometry
    class_ids: NDArray[np.integer]
    scores: NDArray[np.floating]
    labels: LabelSet | None = None
    ignored: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        _require(self.layers, self.layers.shape[1:], self.geometry, "instances")
        highest = int(self.layers.max(initial=0))
        if len(self.scores) != len(self.class_ids) or highest > len(self.class_ids):
            raise LabelError(
                "instances",
                f"{len(self.class_ids)} classes and {len(self.scores)} scores are given, "
                f"the highest number of a voxel is {highest}",
                "give one class and one score for each object, numbered 1, 2, ... without gaps",
            )

    @classmethod
    def from_map(
        cls,
        array: NDArray[Any],
        geometry: Geometry,
        *,
        class_of: Callable[[NDArray[Any]], ArrayLike] | None = None,
        labels: LabelSet | None = None,
        ignored: NDArray[np.bool_] | None = None,
    ) -> InstanceSet:
        """Objects of a map of any positive numbers, renumbered in their order.

        Args:
            array: shape (I, J, K); numbers may have gaps.
            geometry: grid of the array.
            class_of: class of each of the numbers found, sorted; None makes all of them class 1.
            labels, ignored: see the class.
        """
        numbers, renumbered = compact(array)
        classes = np.ones(len(numbers), int) if class_of is None else class_of(numbers)
        return cls(
            renumbered[None],
            geometry,
            np.asarray(classes, np.int32),
            np.ones(len(numbers), np.float32),
            labels,
            ignored,
        )

    @classmethod
    def from_masks(
        cls,
        masks: Iterable[tuple[Sequence[int], NDArray[np.bool_]]],
        geometry: Geometry,
        *,
        class_ids: ArrayLike,
        scores: ArrayLike | None = None,
        labels: LabelSet | None = None,
        ignored: NDArray[np.bool_] | None = None,
    ) -> InstanceSet:
        """Objects from their masks, each put into the first layer that has room for it.

        Args:
            masks: first voxel in the grid, and the box of the object, true where it is.
            geometry, labels, ignored: see the class.
            class_ids, scores: one per mask; scores of None are 1.
        """
        classes = np.asarray(class_ids, np.int32)
        dtype = id_dtype(len(classes))
        layers: list[NDArray[Any]] = [np.zeros(geometry.shape, dtype)]
        for number, (start, mask) in enumerate(masks, start=1):
            box = tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))
            free = next((layer for layer in layers if not layer[box][mask].any()), None)
            if free is None:
                free = np.zeros(geometry.shape, dtype)
                layers.append(free)
            free[box][mask] = number
        marks = np.ones(len(classes)) if scores is None else scores
        return cls(
            np.stack(layers), geometry, classes, np.asarray(marks, np.float32), labels, ignored
        )

    def __len__(self) -> int:
        return len(self.class_ids)

    @property
    def array(self) -> NDArray[Any]:
        """One instance_id per voxel, shape (I, J, K); the last layer lies on top."""
        if len(self.layers) == 1:
            return np.asarray(self.layers[0])
        top = self.layers[0].copy()
        for layer in self.layers[1:]:
            np.copyto(top, layer, where=layer > 0)
        return top

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """Edges of each object in voxels, shape (n, 6): i, j, k of its first voxel, and of the
        first one after its last; zeros for an object without voxels.
        """
        boxes = np.zeros((len(self), 6), np.int64)
        for layer in self.layers:
            for n, box in enumerate(ndimage.find_objects(layer)):
                if box is not None:
                    boxes[n] = [*(part.start for part in box), *(part.stop for part in box)]
        return boxes

    @cached_property
    def num_voxels(self) -> NDArray[np.int64]:
        """Voxels of each object, shape (n,)."""
        counts = np.zeros(len(self) + 1, np.int64)
        for layer in self.layers:
            counts += np.bincount(layer[layer > 0], minlength=len(counts))
        return counts[1:]

    @property
    def volumes_mm3(self) -> NDArray[np.float64]:
        return np.asarray(self.num_voxels * self.geometry.voxel_volume_mm3, np.float64)

    @cached_property
    def centroids_mm(self) -> NDArray[np.float64]:
        """Mean RAS position of the voxels of each object, shape (n, 3); nan without voxels."""
        sums = np.zeros((len(self) + 1, 3))
        for layer in self.layers:
            places = np.nonzero(layer)
            numbers = layer[places]
            for axis, place in enumerate(places):
                sums[:, axis] += np.bincount(numbers, weights=place, minlength=len(sums))
        with np.errstate(invalid="ignore"):
            middles = sums[1:] / self.num_voxels[:, None]
        return self.geometry.to_world_mm(middles)

    @property
    def boxes_mm(self) -> NDArray[np.float64]:
        """Least and largest R, A, S position of the corners of each box, shape (n, 6)."""
        edges = self.boxes.reshape(-1, 2, 3) - 0.5
        corners = np.stack(
            [edges[:, pick, (0, 1, 2)] for pick in product((0, 1), repeat=3)], axis=1
        )
        world = self.geometry.to_world_mm(corners)
        return np.asarray(np.concatenate([world.min(axis=1), world.max(axis=1)], axis=1))

    def mask(self, instance_id: int) -> tuple[Box, NDArray[np.bool_]]:
        """Where an object's box lies in the grid, and its voxels there."""
        i, j, k, *ends = (int(edge) for edge in self.boxes[instance_id - 1])
        box = (slice(i, ends[0]), slice(j, ends[1]), slice(k, ends[2]))
        found = self.layers[0][box] == instance_id
        for layer in self.layers[1:]:
            found |= layer[box] == instance_id
        return box, found

    def class_map(self) -> LabelMap:
        """The class of each voxel's object; the ignore value of the labels where nobody looked."""
        classes = np.concatenate([[0], self.class_ids])
        highest = int(classes.max())
        ignore_id = None if self.labels is None else self.labels.ignore_id
        dtype = np.uint8 if max(highest, ignore_id or 0) <= 255 else np.int32
        array = classes.astype(dtype)[self.array]
        if self.ignored is not None and ignore_id is not None:
            array[self.ignored & (array == 0)] = ignore_id
        return LabelMap(array, self.geometry, self.labels)

    def reoriented(self, orientation: str) -> InstanceSet:
        """The same voxels with axes permuted and flipped; a view."""
        layers, geometry = _turned(self.layers, self.geometry, orientation)
        ignored = self.ignored
        if ignored is not None:
            ignored = _turned(ignored[None], self.geometry, orientation)[0][0]
        return replace(self, layers=layers, geometry=geometry, ignored=ignored)


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """A class for every voxel, and the objects of the classes that can be counted.

    Args:
        label_map: class of each voxel, of things and of stuff.
        instances: the things, on the same grid.
    """

    label_map: LabelMap
    instances: InstanceSet

    def __post_init__(self) -> None:
        difference = self.label_map.geometry.difference(self.instances.geometry)
        if difference is not None:
            raise GeometryError("panoptic map", f"classes and instances differ: {difference}")

    @property
    def geometry(self) -> Geometry:
        return self.label_map.geometry

    @property
    def labels(self) -> LabelSet | None:
        return self.label_map.labels

    def class_map(self) -> LabelMap:
        return self.label_map

    def reoriented(self, orientation: str) -> PanopticMap:
        """The same voxels with axes permuted and flipped; a view."""
        return PanopticMap(
            self.label_map.reoriented(orientation), self.instances.reoriented(orientation)
        )


Reference = LabelMap | InstanceSet | PanopticMap
"""What a case may be annotated with."""

Result = LabelMap | ProbabilityMap | InstanceSet | PanopticMap | UncertaintyMap
"""What a prediction may be."""


def class_map(reference: Reference) -> LabelMap:
    """The class of each voxel of any reference."""
    return reference if isinstance(reference, LabelMap) else reference.class_map()


def instances_of(result: InstanceSet | PanopticMap) -> InstanceSet:
    return result.instances if isinstance(result, PanopticMap) else result


def compact(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The positive numbers of an array, sorted, and the array with them renumbered 1, 2, ..."""
    highest = int(array.max(initial=0))
    if highest <= 4 * array.size + 65_536:
        present = np.zeros(highest + 1, np.bool_)
        present[array.ravel()] = True
        present[0] = False
        numbers = np.flatnonzero(present)
        table = np.zeros(highest + 1, id_dtype(len(numbers)))
        table[numbers] = np.arange(1, len(numbers) + 1)
        return numbers, table[array]
    values, inverse = np.unique(array, return_inverse=True)
    has_none = len(values) > 0 and values[0] == 0
    inverse = inverse.reshape(array.shape) + (0 if has_none else 1)
    numbers = values[1:] if has_none else values
    return numbers, inverse.astype(id_dtype(len(numbers)))


def id_dtype(count: int) -> type[np.uint16] | type[np.uint32]:
    """The type that instance_ids up to `count` are kept in."""
    return np.uint16 if count <= np.iinfo(np.uint16).max else np.uint32


def _require(array: NDArray[Any], shape: tuple[int, ...], geometry: Geometry, name: str) -> None:
    if shape != geometry.shape:
        raise GeometryError(
            name, f"an array of shape {array.shape} does not fit the grid {geometry.shape}"
        )
    if array.dtype.kind not in "iu":
        raise GeometryError(name, f"holds {array.dtype}, must hold integers")


def _turned(
    array: NDArray[Any], geometry: Geometry, orientation: str
) -> tuple[NDArray[Any], Geometry]:
    order, flips = geometry.reorientation(orientation)
    return permute_array(array, order, flips), geometry.permuted(order, flips)
