"""The second stage of Mask R-CNN: class, shift and mask of a box from the features in its cells."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from medseg.models.blocks import Activation, ConvNormAct, Norm, activation_layer, conv, up_conv
from medseg.models.detection.pyramid import Sizes

MASK_CELLS = (4, 10)
"""Least and most cells along an axis that the mask head reads in 3D."""


class BoxHead(nn.Module):
    """Two fully connected layers, then class logits and shifts of the box.

    Shapes:
        (n, channels, *cells) to logits (n, out_channels) and shifts (n, 2 * dims).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        cells: tuple[int, ...],
        hidden: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        features = channels
        for extent in cells:
            features *= extent
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features, hidden),
            activation_layer(activation),
            nn.Linear(hidden, hidden),
            activation_layer(activation),
        )
        self.scores = nn.Linear(hidden, out_channels)
        self.shifts = nn.Linear(hidden, 2 * len(cells))

    def reset_outputs(self) -> None:
        """Small weights, so that training begins with even classes and unmoved boxes."""
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.normal_(self.shifts.weight, std=0.001)
        nn.init.zeros_(self.scores.bias)
        nn.init.zeros_(self.shifts.bias)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.layers(cells)
        return self.scores(hidden).float(), self.shifts(hidden).float()


class MaskHead(nn.Module):
    """Some 3x3 convolutions, an enlargement to twice the cells, and a mask per class.

    Shapes:
        (n, channels, *m) to logits (n, out_channels - 1, *2m).
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        out_channels: int,
        *,
        num_layers: int,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                ConvNormAct(
                    spatial_dims,
                    channels,
                    channels,
                    kernel_size=(3,) * spatial_dims,
                    norm=norm,
                    activation=activation,
                )
                for _ in range(num_layers)
            ),
            up_conv(spatial_dims, channels, channels, stride=(2,) * spatial_dims),
            activation_layer(activation),
        )
        self.logits = conv(
            spatial_dims, channels, out_channels - 1, kernel_size=(1,) * spatial_dims
        )

    def forward(self, cells: Tensor) -> Tensor:
        return self.logits(self.layers(cells))


def mask_cells_in_3d(object_sizes: Sizes | None) -> tuple[int, int, int]:
    """Cells along each axis that the mask head reads; a mask has twice as many.

    As many mask cells as large objects (at three quarters of the sizes) have voxels: the mask head
    is half of a training step with the 10x10x10 cells that unknown sizes get.
    """
    least, most = MASK_CELLS
    if not object_sizes:
        return (most, most, most)
    large = np.quantile(np.array(object_sizes, dtype=float), 0.75, axis=0)
    i, j, k = (int(np.clip(round(extent / 2), least, most)) for extent in large)
    return i, j, k
