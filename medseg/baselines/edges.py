"""Levels of the basins between edges: a watershed on the length of the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that its documentation uses
from numpy.typing import NDArray
from scipy import ndimage

from medseg.baselines.intensities import Picture
from medseg.baselines.regions import levels_of_regions
from medseg.baselines.thresholding import check_levels
from medseg.core.errors import ConfigError


@dataclass(frozen=True)
class Edges:
    """Multi-Otsu levels of the mean intensities of watershed basins.

    The image is flooded along the length of its gradient (Sobel, per millimetre), so that basins
    meet at edges. Basins that are shallower than `depth` join their neighbours.

    Args:
        levels: 2 to 16.
        depth: as a share of the 99th percentile of the gradient's length.
        max_voxels: larger images are flooded on a coarser grid.

    Source: Beucher and Meyer 1993, in Mathematical Morphology in Image Processing, chapter 12.
    """

    levels: int = 2
    depth: float = 0.05
    max_voxels: int = 16_000_000

    def __post_init__(self) -> None:
        check_levels(self.levels)
        if not 0 <= self.depth < 1:
            raise ConfigError("baseline.method.depth", f"is {self.depth}", "use 0 to 1")

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        return self.levels_in(self.find_regions(picture), picture)

    def find_regions(self, picture: Picture) -> NDArray[np.integer]:
        coarse, _ = picture.coarser(self.max_voxels)
        gradient = gradient_length(coarse)
        return watershed(gradient, level=self.depth * float(np.percentile(gradient, 99)))

    def levels_in(self, regions: NDArray[np.integer], picture: Picture) -> NDArray[np.uint8]:
        coarse, blocks = picture.coarser(self.max_voxels)
        return picture.finer(levels_of_regions(regions, coarse.grey, levels=self.levels), blocks)


def gradient_length(picture: Picture) -> NDArray[np.float32]:
    """Length of the gradient of the grey image, per millimetre."""
    squares = np.zeros(picture.grey.shape, np.float32)
    for axis, (extent, step) in enumerate(zip(picture.grey.shape, picture.spacing_mm, strict=True)):
        if extent > 1:
            weight = 2.0 * 4.0 ** (sum(n > 1 for n in picture.grey.shape) - 1) * step
            squares += (ndimage.sobel(picture.grey, axis) / weight) ** 2
    return np.sqrt(squares)


def watershed(relief: NDArray[np.float32], *, level: float) -> NDArray[np.integer]:
    """Number of each voxel's basin, from 0 without gaps; basins shallower than `level` join."""
    is_flat = relief.shape[2] == 1
    image = sitk.GetImageFromArray(relief[..., 0] if is_flat else relief)
    basins = sitk.MorphologicalWatershed(
        image, level=level, markWatershedLine=False, fullyConnected=True
    )
    found = sitk.GetArrayFromImage(basins).reshape(relief.shape)
    return np.asarray(np.unique(found, return_inverse=True)[1].reshape(relief.shape))
