"""A conditional random field on a network's logits: voxels that lie close and look alike should
have the same class. DeepLab v1 and v2 were published with one; networks with finer outputs seldom
gain from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError


@dataclass(frozen=True)
class RandomField:
    """Mean-field inference with Gaussian kernels that end at a radius.

    With the energy of Kraehenbuehl and Koltun 2011 (Potts model, an appearance and a smoothness
    kernel), each iteration adds to the logits of a class the weighted mean of its probability in
    the neighbourhood, once weighted by closeness and likeness, once by closeness alone. Neighbours
    beyond the radius are left out, so that no filtering in feature space is needed.

    Args:
        iterations: of the mean field.
        radius: voxels of network space; kernels cover (2 radius + 1) voxels along each axis.
        sigma_voxels: width of both kernels in space.
        sigma_intensity: width of the appearance kernel in standard deviations of the image.
        appearance: weight of neighbours that look alike.
        smoothness: weight of all neighbours.

    Raises:
        ConfigError: a number is out of range.

    Source: Kraehenbuehl and Koltun 2011, NeurIPS; the limited radius after Teichmann and Cipolla
    2018, arXiv:1805.04777. The numbers are chosen, untested.
    """

    iterations: int = 5
    radius: int = 3
    sigma_voxels: float = 3.0
    sigma_intensity: float = 0.5
    appearance: float = 6.0
    smoothness: float = 1.0

    def __post_init__(self) -> None:
        for name in ("iterations", "radius"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"postprocess.random_field.{name}", f"is {value}", "use 1 or more"
                )
        for name in ("sigma_voxels", "sigma_intensity"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"postprocess.random_field.{name}",
                    f"is {getattr(self, name)}",
                    "use a number above 0",
                )
        for name in ("appearance", "smoothness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"postprocess.random_field.{name}",
                    f"is {getattr(self, name)}",
                    "use 0 or a positive number",
                )

    def refine(self, logits: Tensor, image: Tensor, *, is_multilabel: bool = False) -> Tensor:
        """Logits after the mean field, float32, shape (N, C, *S).

        Args:
            logits: (N, C, *S).
            image: (N, channels, *S), normalised.
            is_multilabel: each channel is a region of its own, inside where positive.
        """
        unary, image = logits.float(), image.float()
        refined = unary
        for _ in range(self.iterations):
            shares = refined.sigmoid() if is_multilabel else refined.softmax(1)
            alike, near = self._neighbourhood_means(shares, image)
            message = self.appearance * alike + self.smoothness * near
            if is_multilabel:  # inside against outside, whose share is the rest
                message = 2 * message - (self.appearance + self.smoothness)
            refined = unary + message
        return refined

    def _neighbourhood_means(self, shares: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the shares over the neighbours, by likeness and closeness, and by closeness."""
        alike, near = torch.zeros_like(shares), torch.zeros_like(shares)
        alike_sum, near_sum = torch.zeros_like(shares[:, :1]), torch.zeros_like(shares[:, :1])
        for offset in self._half_neighbourhood(shares.dim() - 2):
            here, there = _overlap(offset, tuple(shares.shape[2:]))
            closeness = math.exp(-sum(n * n for n in offset) / (2 * self.sigma_voxels**2))
            difference = (image[here] - image[there]).square().mean(1, keepdim=True)
            likeness = closeness * torch.exp(-difference / (2 * self.sigma_intensity**2))
            for a, b in ((here, there), (there, here)):
                alike[a] += likeness * shares[b]
                alike_sum[a] += likeness
                near[a] += closeness * shares[b]
                near_sum[a] += closeness
        tiny = torch.finfo(shares.dtype).tiny
        return alike / alike_sum.clamp_min(tiny), near / near_sum.clamp_min(tiny)

    def _half_neighbourhood(self, dims: int) -> list[tuple[int, ...]]:
        """One of each pair of opposite offsets."""
        steps = range(-self.radius, self.radius + 1)
        return [offset for offset in product(steps, repeat=dims) if offset > (0,) * dims]


class RefinedNetwork(nn.Module):
    """A network whose logits a random field refines, with the network's own input.

    Args:
        network: image (N, C, *S) to logits (N, out_channels, *S).
        random_field: what refines them.
        is_multilabel: each channel is a region of its own.
    """

    def __init__(
        self, network: nn.Module, random_field: RandomField, *, is_multilabel: bool
    ) -> None:
        super().__init__()
        self.network = network
        self.random_field = random_field
        self.is_multilabel = is_multilabel
        self.stride = getattr(network, "stride", None)
        self.full_size = getattr(network, "full_size", None)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image)
        return self.random_field.refine(logits, image, is_multilabel=self.is_multilabel)


def _overlap(
    offset: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Indices of all voxels that have a neighbour at the offset, and of these neighbours."""
    here, there = [slice(None)] * 2, [slice(None)] * 2
    for step, extent in zip(offset, shape, strict=True):
        reach = max(0, extent - abs(step))
        first = (slice(0, reach), slice(extent - reach, extent))
        here.append(first[0] if step >= 0 else first[1])
        there.append(first[1] if step >= 0 else first[0])
    return tuple(here), tuple(there)
