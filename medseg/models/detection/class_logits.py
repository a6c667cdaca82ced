"""Networks that find segments as ones that give a class for every voxel."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from medseg.models.detection.objects import Detector


class ClassLogits(nn.Module):
    """Class logits alone, for prediction.

    Args:
        network: a Detector with a semantic branch, which gives other outputs as well.

    Shapes:
        image (N, C, *S) to (N, out_channels, *S).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.stride = cast(Detector, network).stride
        self.min_size = cast(Detector, network).min_size

    def forward(self, image: Tensor) -> Tensor:
        network = cast(Detector, self.network)
        outputs = self.network(image)
        logits = network.semantic_logits(outputs, shape=tuple(image.shape[2:]))
        assert logits is not None  # networks that offer the semantic task have a semantic branch
        return logits


def with_class_logits(network: nn.Module) -> nn.Module:
    """A network that gives class logits: the one given, or `ClassLogits` of one that finds
    segments.
    """
    return ClassLogits(network) if isinstance(network, Detector) else network
