"""Random changes of training patches: where they are cut (spatial) and how bright they are
(intensity).

Every change is drawn from a passed generator, so the same seed and step give the same patch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


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

    def displacement(
        self,
        patch_size: tuple[int, ...],
        spacing_mm: tuple[float, ...],
        *,
        rng: np.random.Generator,
    ) -> Tensor | None:
        """Smooth random shift in voxels, shape (*patch_size, dims); None if none is drawn."""
        if rng.random() >= self.elastic_probability:
            return None
        dims = len(patch_size)
        coarse = tuple(max(3, size // 12) for size in patch_size)
        knots = rng.normal(0, self.elastic_mm, (1, dims, *coarse)).astype(np.float32)
        mode = "bilinear" if dims == 2 else "trilinear"
        field = F.interpolate(torch.from_numpy(knots), patch_size, mode=mode, align_corners=True)[0]
        return field.movedim(0, -1) / torch.tensor(spacing_mm, dtype=torch.float32)

    def intensity(self, image: Tensor, *, rng: np.random.Generator) -> Tensor:
        """The patch (C, *P) with noise, blur, brightness, contrast, low resolution and gamma as
        drawn.
        """
        if rng.random() < self.noise_probability:
            sigma = rng.uniform(*self.noise_std)
            # Torch draws normal numbers several times faster than NumPy.
            generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
            image = torch.empty_like(image).normal_(0, sigma, generator=generator).add_(image)
        if rng.random() < self.blur_probability:
            image = _blur(image, rng.uniform(*self.blur_sigma))
        if rng.random() < self.brightness_probability:
            image = image * rng.uniform(*self.brightness)
        if rng.random() < self.contrast_probability:
            image = _contrast(image, rng.uniform(*self.contrast))
        if rng.random() < self.low_resolution_probability:
            image = _low_resolution(image, rng.uniform(*self.low_resolution))
        if rng.random() < self.gamma_probability:
            sign = -1.0 if rng.random() < 0.25 else 1.0
            image = sign * _gamma(sign * image, rng.uniform(*self.gamma))
        return image


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


def _blur(image: Tensor, sigma: float) -> Tensor:
    return _along_axes(image, [_blur_matrix(size, sigma) for size in image.shape[1:]])


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Gaussian averaging of a row of voxels; the outermost voxel stands for what lies beyond."""
    radius = max(1, int(np.ceil(3 * sigma)))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    sources = np.clip(np.arange(size)[:, None] + offsets, 0, size - 1)
    matrix = np.zeros((size, size), np.float32)
    np.add.at(matrix, (np.arange(size)[:, None], sources), kernel / kernel.sum())
    return torch.from_numpy(matrix)


def _along_axes(image: Tensor, matrices: list[Tensor]) -> Tensor:
    """A (C, *S) image with one matrix (new, old extent) applied along each spatial axis."""
    for axis, matrix in enumerate(matrices):
        before, extent, after = (
            image.shape[: axis + 1],
            image.shape[axis + 1],
            image.shape[axis + 2 :],
        )
        rows = image.reshape(-1, extent, after.numel())
        product = rows[..., 0] @ matrix.T if after.numel() == 1 else matrix @ rows
        image = product.reshape(*before, matrix.shape[0], *after)
    return image


def _contrast(image: Tensor, factor: float) -> Tensor:
    axes = tuple(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    changed = image * factor + mean * (1 - factor)
    return torch.minimum(torch.maximum(changed, low, out=changed), high, out=changed)


def _low_resolution(image: Tensor, zoom: float) -> Tensor:
    return _along_axes(image, [_low_resolution_matrix(size, zoom) for size in image.shape[1:]])


def _low_resolution_matrix(size: int, zoom: float) -> Tensor:
    """Every voxel of a coarser row is the nearest one of the finer; linear on the way back."""
    coarse = max(1, round(size * zoom))
    nearest = np.floor((np.arange(coarse) + 0.5) * size / coarse).astype(int)
    position = np.clip((np.arange(size) + 0.5) * coarse / size - 0.5, 0, coarse - 1)
    below = np.minimum(position.astype(int), max(0, coarse - 2))
    share = (position - below).astype(np.float32)
    above = np.minimum(below + 1, coarse - 1)
    matrix = np.zeros((size, size), np.float32)
    np.add.at(matrix, (np.arange(size), nearest[below]), 1 - share)
    np.add.at(matrix, (np.arange(size), nearest[above]), share)
    return torch.from_numpy(matrix)


def _gamma(image: Tensor, exponent: float) -> Tensor:
    """Gamma on the range of each channel; mean and deviation are kept."""
    axes = tuple(range(1, image.ndim))
    low, high = torch.aminmax(image.flatten(1), dim=1)
    view = (-1, *(1 for _ in axes))
    low, span = low.view(view), (high - low).view(view).clamp_min(1e-7)
    changed = ((image - low) / span).pow_(exponent).mul_(span)
    (mean, std), (new_mean, new_std) = _mean_and_std(image), _mean_and_std(changed)
    factor = std / new_std.clamp_min(1e-7)
    return changed.mul_(factor).add_(mean - new_mean * factor)


def _mean_and_std(image: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, to be broadcast over the axes; several times faster than torch.std_mean."""
    axes = tuple(range(1, image.ndim))
    mean = image.mean(axes, keepdim=True)
    square = torch.linalg.vector_norm(image, dim=axes, keepdim=True) ** 2
    variance = square / image[0].numel() - mean**2
    return mean, variance.clamp_min(0).sqrt()
