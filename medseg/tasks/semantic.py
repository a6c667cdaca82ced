"""One class per voxel: what the network is trained on, how its logits are read, and how they are
scored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medseg.core.labels import LabelSet
from medseg.losses.deep_supervision import DeepSupervision
from medseg.tasks.decoding import decode


class SemanticTask:
    """Label maps.

    Args:
        labels: classes; the network has one output channel for each, background included, or one
            for each region where there are regions.
        loss: logits (N, C, *S) and target (N, *S) to a scalar; applied at every resolution of the
            network.
    """

    def __init__(self, *, labels: LabelSet, loss: nn.Module) -> None:
        self.labels = labels
        self.loss_function = DeepSupervision(loss)

    @property
    def out_channels(self) -> int:
        return self.labels.num_outputs

    @property
    def outside_label(self) -> int:
        """Target of voxels beyond the image."""
        return 0 if self.labels.ignore_id is None else self.labels.ignore_id

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Scalar loss of a batch with "image" (N, C, *S) and "target" (N, *S)."""
        loss: Tensor = self.loss_function(model(batch["image"]), batch["target"])
        return loss

    def decode(self, logits: Tensor) -> Tensor:
        """Class numbers (*S) from logits (C, *S)."""
        return decode(logits, self.labels)

    def dice_counts(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Per structure (foreground class or region) twice the overlap and the sum of both volumes,
        shape (structures, 2).
        """
        known = torch.ones_like(target, dtype=torch.bool)
        if self.labels.ignore_id is not None:
            known = target != self.labels.ignore_id
        rows = []
        for structure in self.labels.structures:
            members = torch.tensor(structure.class_ids, device=target.device)
            predicted = torch.isin(prediction, members) & known
            wanted = torch.isin(target, members) & known
            rows.append(
                torch.stack([2 * (predicted & wanted).sum(), predicted.sum() + wanted.sum()])
            )
        return torch.stack(rows)
