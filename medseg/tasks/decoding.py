"""What the channels of logits mean for a label set: class numbers, and probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.core.labels import LabelSet


def decode(logits: Tensor, labels: LabelSet, *, axis: int = 0) -> Tensor:
    """Class numbers from logits, without the axis of the channels.

    Without regions the class of the largest logit, the lowest on ties; with regions each with a
    positive logit is painted over the ones before it.

    Args:
        logits: (C, *S), or channels at `axis`.
        labels: one region, or one class with background, per channel.
        axis: of the channels.
    """
    if not labels.regions:
        return logits.argmax(axis)
    painted = torch.zeros_like(logits.select(axis, 0), dtype=torch.long)
    for n, region in enumerate(labels.regions):
        painted[logits.select(axis, n) > 0] = region.paints
    return painted


def probabilities(
    logits: Tensor, labels: LabelSet, *, axis: int = 0, temperature: float = 1.0
) -> Tensor:
    """Softmax over the classes, or sigmoid of each region, of the logits divided by a temperature.

    Source: Guo et al. 2017, ICML.
    """
    scaled = logits.float() / temperature
    return scaled.sigmoid() if labels.regions else scaled.softmax(axis)
