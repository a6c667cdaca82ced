"""Several label maps of one image to one, whoever made them: by votes or by reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray

from medseg.core.errors import ConfigError, GeometryError
from medseg.core.segmentation import LabelMap
from medseg.inference.postprocess import bounding_box

FusionMethod = Literal["majority", "weighted", "staple"]
MARGIN_VOXELS = 5
"""STAPLE sees the box around all foreground with this margin: with a whole image of background
every map would look reliable.
"""


def fuse(
    maps: Sequence[LabelMap], method: FusionMethod, *, weights: Sequence[float] | None = None
) -> LabelMap:
    """The label map that several agree on, on their grid.

    Args:
        maps: two or more on one grid, the most trusted first: it wins where votes are equal.
        method: "majority" gives each map one vote, "weighted" as many as `weights` says, "staple"
            estimates how reliable each map is for each class.
        weights: of the maps, for "weighted".

    Raises:
        GeometryError: the grids differ.
        ConfigError: there are not as many weights as maps.

    Source: Warfield et al. 2004, IEEE TMI 23(7):903 (STAPLE; for many classes as in SimpleITK).
    """
    first = maps[0]
    for other in maps[1:]:
        difference = first.geometry.difference(other.geometry)
        if difference is not None:
            raise GeometryError(
                "ensembles",
                f"the label maps' grids differ: {difference}",
                "combine predictions of the same images",
            )
    votes = check_weights(weights, len(maps)) if method == "weighted" else [1.0] * len(maps)
    highest = max(int(found.array.max(initial=0)) for found in maps)
    dtype = np.uint8 if highest <= 255 else np.int32
    arrays = [found.array.astype(dtype) for found in maps]
    filled: NDArray[np.bool_] = np.max(np.stack(arrays), axis=0) > 0
    result = np.zeros(first.array.shape, dtype)
    if filled.any():
        box = tuple(
            slice(max(0, part.start - MARGIN_VOXELS), part.stop + MARGIN_VOXELS)
            for part in bounding_box(filled)
        )
        inside = [np.ascontiguousarray(array[box]) for array in arrays]
        result[box] = _staple(inside) if method == "staple" else _voted(inside, votes)
    return replace(first, array=result)


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights, if there is a positive one for each map.

    Raises:
        ConfigError: there is not.
    """
    if weights is None or len(weights) != count or min(weights) <= 0:
        raise ConfigError(
            "weights",
            f"is {None if weights is None else list(weights)}, for {count} predictions",
            f"give {count} positive numbers, such as their Dice on validation cases",
        )
    return [float(weight) for weight in weights]


def _voted(arrays: Sequence[NDArray[np.integer]], weights: Sequence[float]) -> NDArray[np.integer]:
    """The class with most votes; of classes with as many, that of the earliest map."""
    best = arrays[0].copy()
    most = np.zeros(best.shape)
    for candidate in arrays:
        votes = np.zeros(best.shape)
        for array, weight in zip(arrays, weights, strict=True):
            votes += weight * (array == candidate)
        # Sums of the same weights in another order may differ in the last bit.
        wins = votes > most * (1 + 1e-9)
        best[wins] = candidate[wins]
        np.maximum(most, votes, out=most)
    return best


def _staple(arrays: Sequence[NDArray[np.integer]]) -> NDArray[np.integer]:
    """Simultaneous truth and performance level estimation; what stays undecided is voted on."""
    undecided = max(int(array.max()) for array in arrays) + 1
    dtype = np.uint8 if undecided <= 255 else np.uint16
    algorithm = sitk.MultiLabelSTAPLEImageFilter()
    algorithm.SetLabelForUndecidedPixels(undecided)
    algorithm.SetMaximumNumberOfIterations(100)
    images = [sitk.GetImageFromArray(array.astype(dtype)) for array in arrays]
    found = np.asarray(sitk.GetArrayFromImage(algorithm.Execute(images)))
    voted = _voted(arrays, [1.0] * len(arrays))
    return np.where(found == undecided, voted, found).astype(voted.dtype)
