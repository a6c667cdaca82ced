"""Random changes of training patches: where they are cut (spatial) and how bright they are
(intensity).

Every change is drawn from a passed generator, so the same seed and step give the same patch. What
was drawn is plain numbers, which `intensity.py` and `patches.py` apply on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medseg.transforms.intensity import IntensityChange


@dataclass(frozen=True)
class Augment:
    """Ranges and probabilities of augmentation.

    Defaults follow nnU-Net's (Isensee et al. 2021, supplement). A pair is the range of a uniform
    distribution; probabilities are per sample.

    Args:
        rotation_probability, rotation_degrees: about every axis (3D) or in the plane (2D).
        scaling_probability, scaling: factor on the field of view of a patch.
        elastic_probability, elastic_mm: smooth random displacement, standard deviation in mm.
        mirror_probability: per axis of `data.mirror_axes`.
        noise_probability, noise_std: additive Gaussian noise, in units of the normalised image.
        blur_probability, blur_sigma: Gaussian blur, in voxels.
        brightness_probability, brightness: factor on all values.
        contrast_probability, contrast: factor about the mean, clipped to the range before.
        low_resolution_probability, low_resolution: factor by which the patch is coarsened and
            interpolated back.
        gamma_probability, gamma: exponent on the range of the patch; also applied to the negative
            image.
    """

    rotation_probability: float = 0.2
    rotation_degrees: float = 30.0
    scaling_probability: float = 0.2
    scaling: tuple[float, float] = (0.7, 1.4)
    elastic_probability: float = 0.0
    elastic_mm: float = 2.0
    mirror_probability: float = 0.5
    noise_probability: float = 0.1
    noise_std: tuple[float, float] = (0.0, 0.3)
    blur_probability: float = 0.1
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    brightness_probability: float = 0.15
    brightness: tuple[float, float] = (0.75, 1.25)
    contrast_probability: float = 0.15
    contrast: tuple[float, float] = (0.75, 1.25)
    low_resolution_probability: float = 0.1
    low_resolution: tuple[float, float] = (0.5, 1.0)
    gamma_probability: float = 0.3
    gamma: tuple[float, float] = (0.7, 1.5)

    def spatial_matrix(
        self,
        spacing_mm: tuple[float, ...],
        *,
        mirror_axes: tuple[int, ...],
        rng: np.random.Generator,
    ) -> np.ndarray | None:
        """Maps voxel offsets in the patch to voxel offsets in the case, shape (dims, dims).

        Rotations are done in mm, so anisotropic voxels are not sheared. None if nothing but
        mirroring is drawn and no axis is mirrored; a diagonal of +-1 if only mirroring is.

        Args:
            spacing_mm: spacing of the patch's axes.
            mirror_axes: axes that may be mirrored.
        """
        dims = len(spacing_mm)
        matrix = np.eye(dims)
        if rng.random() < self.rotation_probability:
            matrix = _rotation(np.radians(self.rotation_degrees) * rng.uniform(-1, 1, 3), dims)
        if rng.random() < self.scaling_probability:
            matrix = matrix * rng.uniform(*self.scaling)
        scale = np.array(spacing_mm)
        matrix = matrix * scale[None, :] / scale[:, None]
        for axis in mirror_axes:
            if rng.random() < self.mirror_probability:
                matrix[:, axis] *= -1
        return None if np.array_equal(matrix, np.eye(dims)) else matrix

    def displacement_knots(
        self,
        patch_size: tuple[int, ...],
        spacing_mm: tuple[float, ...],
        *,
        rng: np.random.Generator,
    ) -> NDArray[np.float32] | None:
        """Random shifts in voxels of the patch at a coarse grid of points, shape (dims, *coarse);
        None if none is drawn. See `Grid`.
        """
        if rng.random() >= self.elastic_probability:
            return None
        dims = len(patch_size)
        coarse = tuple(max(3, size // 12) for size in patch_size)
        knots = rng.normal(0, self.elastic_mm, (dims, *coarse))
        scale = np.array(spacing_mm).reshape(dims, *(1,) * dims)
        return (knots / scale).astype(np.float32)

    def intensity(self, image: Tensor, *, rng: np.random.Generator) -> Tensor:
        """The patch (C, *P) with noise, blur, brightness, contrast, low resolution and gamma as
        drawn.
        """
        return self.intensity_change(rng).apply(image)

    def intensity_change(self, rng: np.random.Generator) -> IntensityChange:
        """What is drawn for one patch."""
        noise = blur = brightness = contrast = low_resolution = gamma = None
        if rng.random() < self.noise_probability:
            noise = (float(rng.uniform(*self.noise_std)), int(rng.integers(2**63)))
        if rng.random() < self.blur_probability:
            blur = float(rng.uniform(*self.blur_sigma))
        if rng.random() < self.brightness_probability:
            brightness = float(rng.uniform(*self.brightness))
        if rng.random() < self.contrast_probability:
            contrast = float(rng.uniform(*self.contrast))
        if rng.random() < self.low_resolution_probability:
            low_resolution = float(rng.uniform(*self.low_resolution))
        if rng.random() < self.gamma_probability:
            sign = -1.0 if rng.random() < 0.25 else 1.0
            gamma = (sign, float(rng.uniform(*self.gamma)))
        return IntensityChange(noise, blur, brightness, contrast, low_resolution, gamma)


NO_AUGMENT = Augment(
    rotation_probability=0.0,
    scaling_probability=0.0,
    mirror_probability=0.0,
    noise_probability=0.0,
    blur_probability=0.0,
    brightness_probability=0.0,
    contrast_probability=0.0,
    low_resolution_probability=0.0,
    gamma_probability=0.0,
)


def _rotation(angles: np.ndarray, dims: int) -> np.ndarray:
    if dims == 2:
        c, s = np.cos(angles[0]), np.sin(angles[0])
        return np.array([[c, -s], [s, c]])
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix
