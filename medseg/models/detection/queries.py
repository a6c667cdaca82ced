"""A transformer's decoder whose queries each look where their last mask was."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.core.errors import ConfigError


class DecoderLayer(nn.Module):
    """Masked attention to the image, attention among queries, two fully connected layers; each
    added to what came in and normalised.

    Shapes:
        queries and places (N, Q, D), memory (N, L, D), memory_places (L, D), blocked (N, Q, L) bool
        to queries (N, Q, D).

    Source: Cheng et al. 2022, CVPR 1280, figure 2.
    """

    def __init__(self, channels: int, *, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.look = Attention(channels, num_heads)
        self.talk = Attention(channels, num_heads)
        self.think = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        queries: Tensor,
        places: Tensor,
        memory: Tensor,
        memory_places: Tensor,
        blocked: Tensor,
    ) -> Tensor:
        seen = self.look(queries + places, memory + memory_places, memory, blocked)
        x = self.norms[0](queries + seen)
        x = self.norms[1](x + self.talk(x + places, x + places, x, None))
        return self.norms[2](x + self.think(x))


class Attention(nn.Module):
    """Attention of several heads (Vaswani et al. 2017, NIPS): values weighted by how well their
    keys fit a query.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ConfigError(
                "model.num_heads",
                f"is {num_heads}, but there are {channels} channels",
                f"set one that divides {channels}",
            )
        self.num_heads = num_heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.join = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
        mask = None if blocked is None else ~blocked[:, None]
        mixed = F.scaled_dot_product_attention(
            self._heads(self.query(query)),
            self._heads(self.key(key)),
            self._heads(self.value(value)),
            attn_mask=mask,
        )  # (N, heads, Q, D / heads)
        return self.join(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def wave_places(x: Tensor) -> Tensor:
    """Where each voxel lies, as sines of several wavelengths per axis: (L, D) for (N, D, *S).

    Source: Vaswani et al. 2017, NIPS, section 3.5, along each axis of the image.
    """
    channels, shape = x.shape[1], tuple(x.shape[2:])
    pairs = channels // (2 * len(shape))
    rates = 10000 ** -(torch.arange(pairs, device=x.device, dtype=torch.float32) / max(1, pairs))
    parts = []
    for axis, extent in enumerate(shape):
        share = (torch.arange(extent, device=x.device, dtype=torch.float32) + 0.5) / extent
        angle = 2 * math.pi * share[:, None] * rates
        waves = torch.cat((angle.sin(), angle.cos()), 1)  # (extent, 2 * pairs)
        view = [extent if n == axis else 1 for n in range(len(shape))]
        parts.append(waves.reshape(*view, -1).expand(*shape, -1))
    together = torch.cat(parts, -1).flatten(0, -2)
    return F.pad(together, (0, channels - together.shape[1]))
