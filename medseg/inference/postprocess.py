"""Corrections of a finished label map: which components of a class are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from medseg.core.errors import ConfigError
from medseg.core.segmentation import LabelMap


@dataclass(frozen=True)
class Postprocess:
    """Removes components; removed voxels become background.

    Components are connected through faces, edges and corners.

    Args:
        largest_component: labels of which only the largest component is kept, or "all".
        minimum_volume_mm3: per label, the volume below which a component is removed.
    """

    largest_component: Sequence[str] | Literal["all"] = ()
    minimum_volume_mm3: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(volume < 0 for volume in self.minimum_volume_mm3.values()):
            raise ConfigError("postprocess.minimum_volume_mm3", "holds a negative volume")

    def apply(self, result: LabelMap) -> LabelMap:
        """The label map without the components that are to go.

        Raises:
            LabelError: a name is none of the result's labels.
        """
        if result.labels is None or not (self.largest_component or self.minimum_volume_mm3):
            return result
        array = result.array.copy()
        voxel_mm3 = result.geometry.voxel_volume_mm3
        single = self.largest_component
        if single == "all":
            single = [label.name for label in result.labels.foreground]
        for name in sorted({*single, *self.minimum_volume_mm3}):
            mask = array == result.labels[name].class_id
            components, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
            if not count:
                continue
            voxels = np.bincount(components.ravel())
            voxels[0] = 0
            keeps = voxels * voxel_mm3 >= self.minimum_volume_mm3.get(name, 0.0)
            if name in single:
                keeps &= np.arange(count + 1) == voxels.argmax()
            array[mask & ~keeps[components]] = 0
        return replace(result, array=array)
