"""The second stage of Mask R-CNN: class and shift of a box from the features in its cells."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.models.blocks import Activation, activation_layer


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
        self.cells = cells
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
