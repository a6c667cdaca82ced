"""Things and stuff together: a class for every voxel, and the objects of the things."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.core.object_codes import UNKNOWN
from medseg.core.references import InstancesFrom, ReferenceKind
from medseg.core.segmentation import LabelMap, PanopticMap
from medseg.metrics.panoptic import PanopticQuality, panoptic_pairs
from medseg.tasks.detectors import refuse_regions, require_detector, summed_terms
from medseg.tasks.hits import USUAL_SCORE, counts_of, hits_of
from medseg.tasks.instance import block_batch, check_shares, reference_instances, reference_parts
from medseg.tasks.parts import Parts
from medseg.tasks.targets import MIN_VISIBLE, patch_targets


class PanopticTask:
    """Objects of the classes marked as things, and the voxels of all others.

    Args:
        labels: classes; at least one must be a thing.
        instances_from: see `medseg.tasks.instance.InstanceTask`.
        min_visible: see there.

    Raises:
        ConfigError: no class is a thing.
    """

    reference_kind: ClassVar[ReferenceKind] = "panoptic"
    score_name: ClassVar[str] = "pq"

    def __init__(
        self,
        *,
        labels: LabelSet,
        instances_from: InstancesFrom = "reference",
        min_visible: float = MIN_VISIBLE,
    ) -> None:
        check_shares(min_visible=min_visible)
        refuse_regions(labels)
        if not any(label.is_thing for label in labels.foreground):
            raise ConfigError(
                "data.labels",
                "marks no class as a thing, so there is nothing to count",
                "write thing: true at the classes whose objects are counted, or set task=semantic",
            )
        self.labels = labels
        self._instances_from = instances_from
        self.min_visible = min_visible

    @property
    def instances_from(self) -> InstancesFrom:
        return self._instances_from

    @property
    def out_channels(self) -> int:
        return len(self.labels)

    @property
    def outside_label(self) -> int:
        return 0

    @property
    def centre_classes(self) -> tuple[int, ...]:
        """All but background."""
        return tuple(label.class_id for label in self.labels.foreground)

    def check(self, model: nn.Module) -> None:
        """Raises ConfigError unless the network finds objects and stuff."""
        require_detector(model, task="panoptic")

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Sum of the network's terms."""
        objects, semantic = patch_targets(
            batch["target"], batch["codes"], min_visible=self.min_visible
        )
        return summed_terms(model, batch["image"], objects, semantic)

    def trial_batch(self, image: Tensor) -> dict[str, Any]:
        """Blocks as objects; see `block_batch`."""
        return block_batch(image, self.labels)

    def counts(self, prediction: PanopticMap, batch: dict[str, Any]) -> Tensor:
        """Hits, false positives, misses and summed IoU of each foreground class."""
        instances = replace(reference_instances(batch), labels=self.labels)
        classes = batch["codes"].classes[batch["target"].cpu().numpy()]
        ignored = classes == UNKNOWN
        reference = PanopticMap(
            LabelMap(classes.clip(min=0), instances.geometry),
            replace(instances, ignored=ignored if ignored.any() else None),
        )
        return counts_of(
            panoptic_pairs(reference, prediction, labels=replace(self.labels, ignore_id=None)),
            strict=True,
        )

    def scores(self, counts: Tensor) -> dict[str, float]:
        """Panoptic quality of each foreground class; nan for one that was nowhere."""
        return {
            label.name: PanopticQuality.of(hits_of(row)).pq
            for label, row in zip(self.labels.foreground, counts, strict=True)
        }

    def best_score(self, counts: Tensor) -> float:
        """A half: which voxels are left for stuff depends on the score, so counts at one say
        nothing of another.
        """
        return USUAL_SCORE

    def shown(self, prediction: PanopticMap, batch: dict[str, Any]) -> tuple[Parts, Parts]:
        """Objects one by one, and each class of stuff as a whole."""
        objects = prediction.instances.array.astype(np.int64)
        stuff = prediction.label_map.array.astype(np.int64)
        count = len(self.labels)
        numbers = np.where(objects > 0, objects + count - 1, stuff)
        classes = np.append(np.arange(count), prediction.instances.class_ids)
        return reference_parts(batch), Parts(numbers, classes)
