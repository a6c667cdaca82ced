"""Changes of how bright a training patch is, as drawn, on the device that the patch lies on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class IntensityChange:
    """What was drawn for one patch; None leaves a change out.

    Args:
        noise: standard deviation in units of the image, and the seed of the noise. Each kind of
            device has its own random numbers for a seed.
        blur: standard deviation of a Gaussian, in voxels.
        brightness: factor on all values.
        contrast: factor about the mean.
        low_resolution: factor by which the patch is coarsened and interpolated back.
        gamma: 1 or -1 for the negative image, and the exponent.
    """

    noise: tuple[float, int] | None = None
    blur: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    low_resolution: float | None = None
    gamma: tuple[float, float] | None = None

    def apply(self, image: Tensor) -> Tensor:
        """The patch (C, *P) changed, in the order of the fields; the given one stays as it is."""
        if self.noise is not None:
            sigma, seed = self.noise
            # Torch draws normal numbers several times faster than NumPy.
            generator = torch.Generator(device=image.device).manual_seed(seed)
            image = torch.empty_like(image).normal_(0, sigma, generator=generator).add_(image)
        if self.blur is not None:
            image = _blur(image, self.blur)
        if self.brightness is not None:
            image = image * self.brightness
        if self.contrast is not None:
            image = _contrast(image, self.contrast)
        if self.low_resolution is not None:
            image = _low_resolution(image, self.low_resolution)
        if self.gamma is not None:
            sign, exponent = self.gamma
            image = sign * _gamma(sign * image, exponent)
        return image


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
    for axis, on_cpu in enumerate(matrices):
        matrix = on_cpu.to(image.device)
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
    # On a CPU these take half the time of torch.pow and a tenth of torch.aminmax.
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    span = (high - low).clamp_min(1e-7)
    changed = ((image - low) / span).log_().mul_(exponent).exp_().mul_(span)
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
