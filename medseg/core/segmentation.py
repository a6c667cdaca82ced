"""Results and references: a label map or class probabilities on a voxel grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.volume import permute_array


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
        if self.array.shape != self.geometry.shape:
            raise GeometryError(
                "label map",
                f"an array of shape {self.array.shape} does not fit the grid {self.geometry.shape}",
            )
        if self.array.dtype.kind not in "iu":
            raise GeometryError("label map", f"holds {self.array.dtype}, must hold integers")

    def reoriented(self, orientation: str) -> LabelMap:
        """The same voxels with axes permuted and flipped; a view."""
        order, flips = self.geometry.reorientation(orientation)
        array = permute_array(self.array[None], order, flips)[0]
        return replace(self, array=array, geometry=self.geometry.permuted(order, flips))


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
