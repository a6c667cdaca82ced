"""Cases in which almost nothing is foreground: one small ball among shapes that resemble it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.geometry import Shape3

SHAPE: Shape3 = (160, 160, 120)
RADIUS = 3.7
"""In voxels of 1 mm; 215 of the voxels of SHAPE, which are 0.007 %."""


def rare_target(
    number: int, *, shape: Shape3 = SHAPE, radius: float = RADIUS, num_distractors: int = 12
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """An image of cloudy noise, and the mask of the one solid ball in it.

    The distractors are as bright as the ball and about as large: hollow balls, and rods. A network
    that looks at brightness or at size alone takes them for the ball.
    """
    rng = np.random.default_rng([number, 7])
    noise = rng.normal(size=shape)
    clouds = ndimage.gaussian_filter(rng.normal(size=shape), 3.0)
    image = 40.0 * noise + 60.0 * clouds / clouds.std()
    margin = int(3 * radius) + 1
    centres: list[NDArray[np.int64]] = []
    while len(centres) < num_distractors + 1:
        centre = np.array([rng.integers(margin, n - margin) for n in shape])
        if all(np.abs(centre - other).max() > 2 * margin - 2 for other in centres):
            centres.append(centre)
    offsets = np.mgrid[tuple(slice(-margin + 1, margin) for _ in shape)]
    distance = np.sqrt((offsets**2).sum(axis=0))
    mask = np.zeros(shape, np.uint8)
    for n, centre in enumerate(centres):
        box = tuple(slice(c - margin + 1, c + margin) for c in centre)
        if n == 0:
            shown = distance <= radius
            mask[box] = shown
        elif n % 2:
            shown = (distance <= 1.1 * radius) & (distance > 0.6 * radius)
        else:
            along = offsets[n // 2 % 3]
            across = np.sqrt(np.maximum(distance**2 - along**2, 0))
            shown = (across <= 0.45 * radius) & (np.abs(along) <= 2.5 * radius)
        image[box] += 250.0 * shown
    return image.astype(np.int16), mask


def write_rare_targets(folder: Path, count: int, **options: Any) -> float:
    """`count` cases as images/case_000.nii.gz and labels/case_000.nii.gz; returns the share of
    foreground.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    shares = []
    for n in range(count):
        image, mask = rare_target(n, **options)
        shares.append(float(mask.mean()))
        for part, array in (("images", image), ("labels", mask)):
            nibabel.save(
                nibabel.Nifti1Image(array, np.eye(4)), folder / part / f"case_{n:03d}.nii.gz"
            )
    return float(np.mean(shares))
