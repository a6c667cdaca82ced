"""Corrections of results: thresholds before a label map is decoded, components and holes after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import log
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet, Region
from medseg.core.segmentation import LabelMap
from medseg.inference.random_field import RandomField, RefinedNetwork
from medseg.metrics.case_scores import mask_of

Names = Sequence[str] | Literal["all"]


@dataclass(frozen=True)
class Postprocess:
    """A random field, thresholds, components and holes.

    Labels are foreground classes, or regions where the label set has some. Removed voxels become
    background, or what is around the region. Components are connected through faces, edges and
    corners.

    Args:
        threshold: per label the probability above which a voxel belongs to it: exactly that for a
            region; for a class, its share against each other class. What is left out has 0.5.
        largest_foreground: keep only the largest component of all labels together.
        fill_holes: labels whose enclosed holes are filled, or "all"; other labels are not
            overwritten.
        largest_component: labels of which only the largest component is kept, or "all".
        minimum_volume_mm3: per label, the volume below which a component is removed.
        random_field: options of a `RandomField` on the logits, such as {iterations: 5}; it comes
            before everything else, in network space. Empty for none.
    """

    threshold: Mapping[str, float] = field(default_factory=dict)
    largest_foreground: bool = False
    fill_holes: Names = ()
    largest_component: Names = ()
    minimum_volume_mm3: Mapping[str, float] = field(default_factory=dict)
    random_field: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(volume < 0 for volume in self.minimum_volume_mm3.values()):
            raise ConfigError(
                "postprocess.minimum_volume_mm3", "holds a negative volume", "use 0 or more"
            )
        if any(not 0 < value < 1 for value in self.threshold.values()):
            raise ConfigError(
                "postprocess.threshold", "holds a value outside 0 to 1", "use 0.05 to 0.95"
            )
        self._random_field()

    def apply(self, result: LabelMap) -> LabelMap:
        """The label map without what is to go, its holes filled.

        Raises:
            LabelError: a name is none of the result's labels.
        """
        if result.labels is None or not self._changes_label_maps:
            return result
        labels = result.labels
        array = result.array.copy()
        voxel_mm3 = result.geometry.voxel_volume_mm3
        if self.largest_foreground:
            mask = mask_of(array, [label.class_id for label in labels.foreground])
            _remove(array, mask, becomes=0, minimum_voxels=0.0, only_largest=True)
        for structure in _named(labels, self.fill_holes):
            array[holes(array, structure, labels)] = structure.paints
        single = [structure.name for structure in _named(labels, self.largest_component)]
        for structure in _named(labels, [*single, *self.minimum_volume_mm3]):
            minimum = self.minimum_volume_mm3.get(structure.name, 0.0) / voxel_mm3
            _remove(
                array,
                mask_of(array, structure.class_ids),
                becomes=surrounding_class(structure, labels),
                minimum_voxels=minimum,
                only_largest=structure.name in single,
            )
        return replace(result, array=array)

    def logit_offsets(self, labels: LabelSet) -> list[float] | None:
        """What to add to each channel of the logits for the thresholds; None if there are none.

        A class then wins over another at the given probability instead of one half.
        """
        if not self.threshold:
            return None
        first = 0 if labels.regions else 1
        channels = {s.name: n for n, s in enumerate(labels.structures, start=first)}
        offsets = [0.0] * labels.num_outputs
        for name, value in self.threshold.items():
            offsets[channels[labels.structure(name).name]] = log((1 - value) / value)
        return offsets

    def refined(self, network: nn.Module, labels: LabelSet) -> nn.Module:
        """The network, with its random field if there is one."""
        random_field = self._random_field()
        if random_field is None:
            return network
        return RefinedNetwork(network, random_field, is_multilabel=bool(labels.regions))

    def _random_field(self) -> RandomField | None:
        known = [option.name for option in fields(RandomField)]
        for name in self.random_field:
            if name not in known:
                raise ConfigError(
                    f"postprocess.random_field.{name}",
                    "is no option of a random field",
                    f"there are {', '.join(known)}",
                )
        return RandomField(**self.random_field) if self.random_field else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data of what is set; empty if nothing is."""
        facts = {
            "threshold": dict(self.threshold),
            "largest_foreground": self.largest_foreground,
            "fill_holes": _plain(self.fill_holes),
            "largest_component": _plain(self.largest_component),
            "minimum_volume_mm3": dict(self.minimum_volume_mm3),
            "random_field": dict(self.random_field),
        }
        return {key: value for key, value in facts.items() if value}

    @property
    def _changes_label_maps(self) -> bool:
        return bool(
            self.largest_foreground
            or self.fill_holes
            or self.largest_component
            or self.minimum_volume_mm3
        )


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Numbered components, connected through faces, edges and corners, and how many there are."""
    numbered, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return numbered, int(count)


def holes(array: NDArray[Any], structure: Region, labels: LabelSet) -> NDArray[np.bool_]:
    """Voxels enclosed by a structure that are background or belong to what is around it.

    In an image of one slice, enclosed within the slice.
    """
    mask = mask_of(array, structure.class_ids)
    filled = np.zeros_like(mask)
    if not mask.any():
        return filled
    box = bounding_box(mask)
    flat = tuple(axis for axis, extent in enumerate(mask.shape) if extent == 1)
    inner = np.squeeze(mask[box], axis=flat)
    filled[box] = np.expand_dims(ndimage.binary_fill_holes(inner), flat)
    around = [0, *(s.paints for s in enclosing(structure, labels))]
    return filled & mask_of(array, around)


def enclosing(structure: Region, labels: LabelSet) -> list[Region]:
    """Regions that hold all of a structure and more, the tightest first."""
    own = set(structure.class_ids)
    found = [other for other in labels.structures if own < set(other.class_ids)]
    return sorted(found, key=lambda other: len(other.class_ids))


def surrounding_class(structure: Region, labels: LabelSet) -> int:
    """What a voxel becomes that is taken from a structure."""
    return next((other.paints for other in enclosing(structure, labels)), 0)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds all of a mask, which must not be empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(n for n in range(mask.ndim) if n != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _remove(
    array: NDArray[Any],
    mask: NDArray[np.bool_],
    *,
    becomes: int,
    minimum_voxels: float,
    only_largest: bool,
) -> None:
    numbered, count = components(mask)
    if not count:
        return
    voxels = np.bincount(numbered.ravel())
    voxels[0] = 0
    # A volume that was divided by the voxel's must not miss by a rounding error.
    keeps = voxels >= minimum_voxels * (1 - 1e-9)
    if only_largest:
        keeps &= np.arange(count + 1) == voxels.argmax()
    array[mask & ~keeps[numbered]] = becomes


def _named(labels: LabelSet, names: Names) -> list[Region]:
    """The structures of the names, in the order of the label set: outer regions first."""
    if isinstance(names, str):
        return list(labels.structures)
    wanted = {labels.structure(name).name for name in names}
    return [structure for structure in labels.structures if structure.name in wanted]


def _plain(names: Names) -> str | list[str]:
    return names if isinstance(names, str) else list(names)
