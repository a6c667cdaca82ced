"""Levels of regions instead of voxels: superpixels, and those that stand out from the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import slic

from medseg.baselines.intensities import (
    Picture,
    histogram,
    number_levels,
    otsu_bounds,
    value_range,
)
from medseg.baselines.thresholding import check_levels
from medseg.core.errors import ConfigError


@dataclass(frozen=True)
class Superpixels:
    """Multi-Otsu levels of the mean intensities of superpixels (supervoxels in 3D).

    Args:
        levels: 2 to 16.
        num_regions: how many superpixels an image is cut into, at most 5000.
        compactness: how much nearness counts against likeness; higher gives more even shapes.
        max_voxels: larger images are cut on a coarser grid.

    Source: Achanta et al. 2012, IEEE TPAMI 34(11):2274.
    """

    levels: int = 2
    num_regions: int = 1000
    compactness: float = 0.05
    max_voxels: int = 4_000_000

    def __post_init__(self) -> None:
        check_levels(self.levels)
        check_regions(self.num_regions)

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        return self.levels_in(self.find_regions(picture), picture)

    def find_regions(self, picture: Picture) -> NDArray[np.integer]:
        coarse, _ = picture.coarser(self.max_voxels)
        return superpixels(coarse, num_regions=self.num_regions, compactness=self.compactness)

    def levels_in(self, regions: NDArray[np.integer], picture: Picture) -> NDArray[np.uint8]:
        coarse, blocks = picture.coarser(self.max_voxels)
        return picture.finer(levels_of_regions(regions, coarse.grey, levels=self.levels), blocks)


@dataclass(frozen=True)
class Saliency:
    """Two levels of superpixels: those that differ from the rest of the image, and the rest.

    The saliency of a region is the sum over all others of their size times the difference in mean
    intensity, less with distance; Otsu's threshold parts it.

    Args:
        num_regions, compactness, max_voxels: see `Superpixels`.
        reach: distance after which another region counts a third, as a share of the image's
            diagonal.

    Source: Cheng et al. 2015, IEEE TPAMI 37(3):569 (region contrast).
    """

    num_regions: int = 400
    compactness: float = 0.05
    max_voxels: int = 4_000_000
    reach: float = 0.4

    def __post_init__(self) -> None:
        check_regions(self.num_regions)
        if not self.reach > 0:
            raise ConfigError("baseline.method.reach", f"is {self.reach}", "use more than 0")

    @property
    def levels(self) -> int:
        return 2

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        coarse, blocks = picture.coarser(self.max_voxels)
        regions = superpixels(coarse, num_regions=self.num_regions, compactness=self.compactness)
        sizes = np.bincount(regions.ravel()).astype(np.float64)
        low, high = value_range(coarse.grey)
        means = np.bincount(regions.ravel(), np.clip(coarse.grey, low, high).ravel()) / sizes
        middles = np.stack(
            [
                np.bincount(regions.ravel(), place.ravel()) / sizes * step
                for place, step in zip(
                    np.broadcast_arrays(*np.ogrid[tuple(slice(n) for n in regions.shape)]),
                    coarse.spacing_mm,
                    strict=True,
                )
            ],
            axis=1,
        )
        diagonal = float(np.linalg.norm(np.multiply(regions.shape, coarse.spacing_mm)))
        apart = np.linalg.norm(middles[:, None] - middles[None], axis=2) / (self.reach * diagonal)
        contrast = np.abs(means[:, None] - means[None]) * np.exp(-(apart**2))
        saliency = contrast @ (sizes / sizes.sum())
        bounds = otsu_bounds(*histogram(saliency, sizes), levels=2)
        return picture.finer(number_levels(saliency, bounds)[regions], blocks)


def superpixels(picture: Picture, *, num_regions: int, compactness: float) -> NDArray[np.integer]:
    """Number of each voxel's superpixel, from 0 without gaps."""
    low, high = value_range(picture.grey)
    scaled = np.clip((picture.grey - low) / max(high - low, 1e-6), 0, 1)
    is_flat = scaled.shape[2] == 1
    found = slic(
        scaled[..., 0] if is_flat else scaled,
        n_segments=num_regions,
        compactness=compactness,
        spacing=picture.spacing_mm[: 2 if is_flat else 3],
        channel_axis=None,
        start_label=0,
    )
    numbers = np.unique(found, return_inverse=True)[1].reshape(scaled.shape)
    return np.asarray(numbers)


def levels_of_regions(
    regions: NDArray[np.integer], image: NDArray[np.float32], *, levels: int
) -> NDArray[np.uint8]:
    """Multi-Otsu level of each region's mean, at each of its voxels; large regions count more."""
    low, high = value_range(image)
    sizes = np.bincount(regions.ravel()).astype(np.float64)
    means = np.bincount(regions.ravel(), np.clip(image, low, high).ravel()) / sizes
    bounds = otsu_bounds(*histogram(means, sizes), levels=levels)
    return number_levels(means, bounds)[regions]


def check_regions(num_regions: int) -> None:
    if not 2 <= num_regions <= 5000:
        raise ConfigError("baseline.method.num_regions", f"is {num_regions}", "use 2 to 5000")
