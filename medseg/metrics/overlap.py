"""How much two masks share, counted in voxels: Dice, IoU, volumes. Distances are in surface.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.core.errors import GeometryError

_NAN = float("nan")


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a reference, a prediction and what they share.

    Args:
        num_reference, num_prediction: voxels of each mask.
        num_common: voxels in both.
        voxel_volume_mm3: volume of one voxel.
    """

    num_reference: int
    num_prediction: int
    num_common: int
    voxel_volume_mm3: float = 1.0

    @property
    def dice(self) -> float:
        """2 |R and P| / (|R| + |P|); nan if both masks are empty, 0.0 if exactly one is.

        Source: Dice 1945, Ecology 26(3):297.
        """
        total = self.num_reference + self.num_prediction
        return 2 * self.num_common / total if total else _NAN

    @property
    def iou(self) -> float:
        """|R and P| / |R or P|; nan if both masks are empty, 0.0 if exactly one is.

        Source: Jaccard 1912, New Phytologist 11(2):37.
        """
        union = self.num_reference + self.num_prediction - self.num_common
        return self.num_common / union if union else _NAN

    @property
    def reference_ml(self) -> float:
        return self.num_reference * self.voxel_volume_mm3 / 1000

    @property
    def prediction_ml(self) -> float:
        return self.num_prediction * self.voxel_volume_mm3 / 1000

    @property
    def volume_difference_ml(self) -> float:
        """Prediction minus reference; positive where too much was predicted."""
        return self.prediction_ml - self.reference_ml

    @property
    def relative_volume_difference(self) -> float:
        """(P - R) / R; nan if the reference is empty, -1.0 if only the prediction is."""
        if not self.num_reference:
            return _NAN
        return (self.num_prediction - self.num_reference) / self.num_reference


def count_overlap(
    reference: NDArray[Any], prediction: NDArray[Any], *, voxel_volume_mm3: float = 1.0
) -> Overlap:
    """Voxel counts of two masks.

    Args:
        reference: bool, any shape.
        prediction: bool, same shape and grid.
        voxel_volume_mm3: volume of one voxel.

    Raises:
        GeometryError: the shapes differ.
    """
    if reference.shape != prediction.shape:
        raise GeometryError(
            "prediction",
            f"has shape {prediction.shape}, the reference {reference.shape}",
            "bring both to one grid before counting",
        )
    return Overlap(
        int(np.count_nonzero(reference)),
        int(np.count_nonzero(prediction)),
        int(np.count_nonzero(reference & prediction)),
        voxel_volume_mm3,
    )
