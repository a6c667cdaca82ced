"""Levels as clusters of the intensities of all channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from medseg.baselines.intensities import Picture
from medseg.baselines.thresholding import check_levels

_SAMPLE = 50_000
_STARTS = 4


@dataclass(frozen=True)
class KMeans:
    """Clusters of the channels' intensities, numbered by the mean of their centre.

    Each channel counts in units of its own standard deviation. On a single channel the sum that is
    made small is that of multi-Otsu; several channels (colours, T1 with FLAIR) are where the two
    differ.

    Args:
        levels: clusters, 2 to 16.
        seed: of the sample that the centres are found on and of their start.

    Source: Lloyd 1982, IEEE Trans. Inf. Theory 28(2):129; start by Arthur and Vassilvitskii 2007.
    """

    levels: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_levels(self.levels)

    def find_levels(self, picture: Picture) -> NDArray[np.uint8]:
        voxels = picture.channels.reshape(len(picture.channels), -1)
        generator = np.random.default_rng(self.seed)
        chosen = generator.integers(0, voxels.shape[1], min(_SAMPLE, voxels.shape[1]))
        sample = voxels[:, np.sort(chosen)].astype(np.float64)
        scales = sample.std(axis=1, keepdims=True)
        scales[scales == 0] = 1.0
        points = (sample / scales).T
        wanted = min(self.levels, len(np.unique(points, axis=0)))
        if wanted < 2:
            return np.zeros(picture.grey.shape, np.uint8)
        best, centres = np.inf, points[:wanted]
        for _ in range(_STARTS):
            found, nearest = kmeans2(points, wanted, minit="++", rng=generator, missing="warn")
            spread = float(((points - found[nearest]) ** 2).sum())
            if spread < best:
                best, centres = spread, found
        centres = centres[np.argsort(centres.mean(axis=1), kind="stable")]
        levels = np.zeros(voxels.shape[1], np.uint8)
        nearest_yet = np.full(voxels.shape[1], np.inf, np.float32)
        for number, centre in enumerate(centres.astype(np.float32)):
            distance = np.zeros(voxels.shape[1], np.float32)
            for channel, scale, middle in zip(voxels, scales[:, 0], centre, strict=True):
                distance += (channel / np.float32(scale) - middle) ** 2
            closer = distance < nearest_yet
            levels[closer] = number
            nearest_yet[closer] = distance[closer]
        return levels.reshape(picture.grey.shape)
