"""One class per voxel: what the network is trained on, how its logits are read, and how they are
scored.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medseg.core.labels import LabelSet
from medseg.core.object_codes import UNKNOWN
from medseg.core.references import InstancesFrom, ReferenceKind
from medseg.losses.deep_supervision import DeepSupervision
from medseg.models.detection.objects import Detector, Objects
from medseg.tasks.decoding import decode
from medseg.tasks.detectors import refuse_regions, require_detector, summed_terms
from medseg.tasks.hits import USUAL_SCORE
from medseg.tasks.parts import Parts


class SemanticTask:
    """Label maps.

    Args:
        labels: classes; the network has one output channel for each, background included, or one
            for each region where there are regions.
        loss: logits (N, C, *S) and target (N, *S) to a scalar; applied at every resolution of the
            network. One that finds segments, such as Mask2Former, brings its own loss instead.
    """

    reference_kind: ClassVar[ReferenceKind] = "label_map"
    score_name: ClassVar[str] = "dice"

    def __init__(self, *, labels: LabelSet, loss: nn.Module) -> None:
        self.labels = labels
        self.loss_function = DeepSupervision(loss)

    @property
    def instances_from(self) -> InstancesFrom:
        """Of no concern to label maps."""
        return "reference"

    @property
    def out_channels(self) -> int:
        return self.labels.num_outputs

    @property
    def outside_label(self) -> int:
        """Target of voxels beyond the image."""
        return 0 if self.labels.ignore_id is None else self.labels.ignore_id

    @property
    def centre_classes(self) -> tuple[int, ...]:
        """All but background."""
        return tuple(label.class_id for label in self.labels.foreground)

    def check(self, model: nn.Module) -> None:
        """Raises ConfigError for a network that finds objects alone, and for one of segments where
        labels declare regions.
        """
        if not isinstance(model, Detector):
            return
        require_detector(model, task="semantic")
        refuse_regions(self.labels)

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Scalar loss of a batch with "image" (N, C, *S) and "target" (N, *S)."""
        if isinstance(model, Detector):
            target = batch["target"]
            nothing = Objects.none(tuple(target.shape[1:]), device=target.device)
            classes = target
            if self.labels.ignore_id is not None:
                classes = torch.where(target == self.labels.ignore_id, UNKNOWN, target)
            return summed_terms(model, batch["image"], [nothing] * len(target), classes)
        loss: Tensor = self.loss_function(model(batch["image"]), batch["target"])
        return loss

    def decode(self, logits: Tensor) -> Tensor:
        """Class numbers (*S) from logits (C, *S)."""
        return decode(logits, self.labels)

    def trial_batch(self, image: Tensor) -> dict[str, Any]:
        """Classes drawn for each voxel."""
        shape = (image.shape[0], *image.shape[2:])
        target = torch.randint(0, len(self.labels), shape, device=image.device)
        return {"image": image, "target": target}

    def counts(self, prediction: Tensor, batch: dict[str, Any]) -> Tensor:
        """See `dice_counts`."""
        return self.dice_counts(prediction, batch["target"])

    def scores(self, counts: Tensor) -> dict[str, float]:
        """Dice of each structure."""
        dice = counts[:, 0] / counts[:, 1].clamp_min(1)
        names = [structure.name for structure in self.labels.structures]
        return {name: float(value) for name, value in zip(names, dice, strict=True)}

    def best_score(self, counts: Tensor) -> float:
        """A half; there are no objects."""
        return USUAL_SCORE

    def shown(self, prediction: Tensor, batch: dict[str, Any]) -> tuple[Parts, Parts]:
        """Classes."""
        return (
            Parts.of_classes(batch["target"].cpu().numpy()),
            Parts.of_classes(prediction.cpu().numpy()),
        )

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
