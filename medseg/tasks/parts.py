"""Which parts of an image are drawn apart: classes, or single objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Parts:
    """Numbered parts of an image, each with a class.

    Args:
        numbers: of each voxel, (I, J, K), non-negative.
        classes: class of each number, (numbers,); those of class 0 and below are not drawn.
    """

    numbers: NDArray[np.integer[Any]]
    classes: NDArray[np.integer[Any]]

    @classmethod
    def of_classes(cls, class_map: NDArray[np.integer[Any]]) -> Parts:
        """All voxels of a class as one part, from class numbers (I, J, K); negative ones are not
        drawn.
        """
        numbers = np.maximum(class_map, 0)
        return cls(numbers, np.arange(int(numbers.max(initial=0)) + 1))
