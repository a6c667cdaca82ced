"""A classical method as a Predictor: image in, classes or objects on its grid out, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.baselines.intensities import Picture
from medseg.baselines.objects import split_touching
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import InstanceSet, LabelMap, ProbabilityMap
from medseg.core.volume import Volume


class LevelMethod(Protocol):
    """Sorts voxels into levels, numbered from the darkest (or least salient) upwards from 0."""

    @property
    def levels(self) -> int:
        """How many there are at most."""
        ...

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        """The level of each voxel, shape (I, J, K)."""
        ...


@runtime_checkable
class RegionMethod(Protocol):
    """A method whose regions, most of its work, are the same for any number of levels."""

    def find_regions(self, picture: Picture) -> NDArray[np.integer]:
        """Number of each voxel's region, on the method's own grid."""
        ...

    def levels_in(self, regions: NDArray[np.integer], picture: Picture) -> NDArray[np.uint8]:
        """The level of each voxel of the picture."""
        ...


@dataclass(frozen=True)
class Baseline:
    """Segments cases by levels of intensity or salience, each of which is a class.

    Args:
        method: what parts the levels.
        labels: meaning of the classes, as in a data option; None calls them class_1, class_2, ...
        classes: class of each level, the darkest first. None makes one level background (see
            `background`) and numbers the others upwards.
        background: the level that is background where `classes` is None: the one that most of the
            image's border belongs to, or the first or last.
        smooth_mm: standard deviation of a Gaussian before.
        fill_holes: fill what is enclosed, slice by slice in 2D images.
        smallest_mm3: smaller connected parts are removed.
        task: "semantic" gives classes; "instance" gives objects: the connected parts of each class,
            cut where they are narrow, as for nuclei that touch.
        apart_mm: least distance between the middles of objects that touch.

    Raises:
        ConfigError: classes and levels do not fit.
    """

    method: LevelMethod
    labels: Mapping[str, Any] | None = None
    classes: Sequence[int] | None = None
    background: Literal["border", "darkest", "brightest"] = "border"
    smooth_mm: float = 0.0
    fill_holes: bool = False
    smallest_mm3: float = 0.0
    task: Literal["semantic", "instance"] = "semantic"
    apart_mm: float = 8.0

    def __post_init__(self) -> None:
        levels = self.method.levels
        if self.classes is not None and len(self.classes) != levels:
            raise ConfigError(
                "baseline.classes",
                f"is {list(self.classes)}, but the method has {levels} levels",
                f"give {levels} class numbers, the darkest level first",
            )
        if self.classes is not None and not 0 <= min(self.classes) <= max(self.classes) <= 255:
            raise ConfigError(
                "baseline.classes",
                f"is {list(self.classes)}",
                "use 0 for background, then 1, 2, ... up to 255",
            )
        highest = max(self.classes or range(levels))
        if self.labels is not None and highest >= len(self.label_set):
            raise ConfigError(
                "baseline.labels",
                f"names {len(self.label_set)} classes with background, but class {highest} is used",
                "name all classes, or set baseline.classes",
            )
        for name in ("smooth_mm", "smallest_mm3"):
            if getattr(self, name) < 0:
                raise ConfigError(f"baseline.{name}", f"is {getattr(self, name)}", "use 0 or more")
        if not self.apart_mm > 0:
            raise ConfigError("baseline.apart_mm", f"is {self.apart_mm}", "use more than 0")

    @property
    def name(self) -> str:
        """What stands in the place of a model's name."""
        return f"baseline {type(self.method).__name__}"

    @property
    def label_set(self) -> LabelSet:
        if self.labels is not None:
            return LabelSet.from_mapping(self.labels, where="baseline.labels")
        highest = max(1, *(self.classes or range(self.method.levels)))
        return LabelSet.from_names(["background", *(f"class_{n + 1}" for n in range(highest))])

    def predict(self, case: Case) -> LabelMap | InstanceSet:
        """Classes or objects on the grid of the case's image."""
        return self.told_apart(self.predict_volume(case.read_image()))

    def predict_volume(self, volume: Volume) -> LabelMap:
        """The class of every voxel, whatever the task."""
        levels = self.find_levels(volume)
        table = self.classes or self.numbered(levels)
        classes = np.array([*table, *[0] * (256 - len(table))], np.uint8)[levels]
        return LabelMap(self._tidied(classes, volume), volume.geometry, self.label_set)

    def told_apart(self, label_map: LabelMap) -> LabelMap | InstanceSet:
        """The objects of a label map where the task asks for them, else the label map."""
        if self.task == "semantic":
            return label_map
        return split_touching(label_map, apart_mm=self.apart_mm, smallest_mm3=self.smallest_mm3)

    def predict_with_probabilities(
        self, case: Case
    ) -> tuple[LabelMap | InstanceSet, ProbabilityMap]:
        """Label map, and its classes as probabilities of 0 and 1: a baseline knows no doubt.

        Raises:
            MedsegError: the task is to find objects, which have no probabilities.
        """
        result = self.predict(case)
        if isinstance(result, InstanceSet):
            raise MedsegError(
                case.key,
                "probabilities were asked for, but the baseline finds objects",
                "leave out probabilities, or set baseline.task=semantic",
                code="E_PREDICTION",
            )
        shares = np.zeros((len(self.label_set), *result.array.shape), np.float32)
        for class_id in range(len(shares)):
            shares[class_id] = result.array == class_id
        return result, ProbabilityMap(shares, result.geometry, self.label_set)

    def find_levels(self, volume: Volume) -> NDArray[np.uint8]:
        """The method's levels of a volume, shape (I, J, K)."""
        return self.method.find_levels(Picture.of(volume, smooth_mm=self.smooth_mm))

    def numbered(self, levels: NDArray[np.uint8]) -> list[int]:
        """Class of each level of an image where `classes` is None."""
        count = max(self.method.levels, int(levels.max(initial=0)) + 1)
        if self.background == "border":
            number = int(np.bincount(_border(levels), minlength=count).argmax())
        else:
            number = 0 if self.background == "darkest" else int(levels.max(initial=0))
        others = [level for level in range(count) if level != number]
        return [0 if level == number else others.index(level) + 1 for level in range(count)]

    def _tidied(self, classes: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
        if not self.fill_holes and not self.smallest_mm3:
            return classes
        fewest = self.smallest_mm3 / volume.geometry.voxel_volume_mm3
        around = np.ones((3, 3, 3), np.bool_)
        result = np.zeros_like(classes)
        for class_id in range(1, len(self.label_set)):
            mask = classes == class_id
            parts, count = ndimage.label(mask, structure=around)
            if count and fewest > 1:
                sizes = np.bincount(parts.ravel())
                sizes[0] = 0
                mask = sizes[parts] >= fewest
            if self.fill_holes:
                mask = _filled(mask) & ((classes == 0) | mask)
            result[mask] = class_id
        return result


def _border(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels of the voxels on the faces of the image; axes of one voxel have none."""
    faces = [
        levels.take(index, axis).ravel()
        for axis, extent in enumerate(levels.shape)
        if extent > 1
        for index in (0, -1)
    ]
    return np.concatenate(faces) if faces else levels.ravel()


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if mask.shape[2] == 1:
        return np.asarray(ndimage.binary_fill_holes(mask[..., 0]))[..., None]
    return np.asarray(ndimage.binary_fill_holes(mask))
