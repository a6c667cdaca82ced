"""An image: one channel-first array with its geometry and modality."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry


@dataclass(frozen=True, eq=False)
class Volume:
    """Intensities on a voxel grid.

    Args:
        array: shape (C, I, J, K); any real dtype; CT in Hounsfield units.
        geometry: grid of the last three axes.
        modality: DICOM modality such as "CT" or "MR"; "OT" if unknown.
        notes: what the reader did that a person should know (a correction, a dropped file).

    Raises:
        GeometryError: array and geometry have different shapes.
    """

    array: NDArray[Any]
    geometry: Geometry
    modality: str = "OT"
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            raise GeometryError(
                "volume",
                f"an array of shape {self.array.shape} does not fit the grid {self.geometry.shape}",
                "give it as (C, I, J, K) with the grid's I, J, K",
            )

    @property
    def num_channels(self) -> int:
        return int(self.array.shape[0])

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        return self.geometry.shape

    def reoriented(self, orientation: str) -> Volume:
        """The same voxels with axes permuted and flipped; a view where possible."""
        order, flips = self.geometry.reorientation(orientation)
        array = permute_array(self.array, order, flips)
        return replace(self, array=array, geometry=self.geometry.permuted(order, flips))


def permute_array(
    array: NDArray[Any], order: tuple[int, ...], flips: tuple[int, ...]
) -> NDArray[Any]:
    """A view of a (C, I, J, K) array with spatial axes reordered, then flipped."""
    moved = array.transpose(0, *(axis + 1 for axis in order))
    return np.flip(moved, tuple(axis + 1 for axis in flips)) if flips else moved
