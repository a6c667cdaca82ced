"""Objects with a class, a box and a mask: what a detector learns from, and how it is scored."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.components import thing_ids
from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.labels import LabelSet
from medseg.core.object_codes import counted, encode
from medseg.core.references import InstancesFrom, ReferenceKind
from medseg.core.segmentation import InstanceSet
from medseg.metrics.object_pairs import compare_objects
from medseg.tasks.detectors import refuse_regions, require_detector, summed_terms
from medseg.tasks.hits import SCORES, best_score, counts_by_score, hits_of
from medseg.tasks.parts import Parts
from medseg.tasks.targets import MIN_VISIBLE, patch_targets

_BLOCKS = 8


class InstanceTask:
    """Objects of the classes that are things (of all, where none is marked as a thing).

    Args:
        labels: classes; the network counts background among them.
        instances_from: "reference" takes the objects that references tell apart, "components" the
            connected parts of each thing class.
        min_visible: an object cut by a patch's border is learnt from if at least this share of its
            voxels lies in the patch.
    """

    reference_kind: ClassVar[ReferenceKind] = "instances"
    score_name: ClassVar[str] = "ap50"

    def __init__(
        self,
        *,
        labels: LabelSet,
        instances_from: InstancesFrom = "reference",
        min_visible: float = MIN_VISIBLE,
    ) -> None:
        check_shares(min_visible=min_visible)
        refuse_regions(labels)
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
        """Things: patches centred on stuff would show few objects."""
        return thing_ids(self.labels)

    def check(self, model: nn.Module) -> None:
        """Raises ConfigError unless the network finds objects."""
        require_detector(model, task="instance")

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Sum of the network's terms."""
        objects, classes = patch_targets(
            batch["target"], batch["codes"], min_visible=self.min_visible
        )
        is_read = getattr(model, "reads_stuff", False)
        return summed_terms(model, batch["image"], objects, classes if is_read else None)

    def trial_batch(self, image: Tensor) -> dict[str, Any]:
        """Blocks as objects; see `block_batch`."""
        return block_batch(image, self.labels)

    def counts(self, prediction: InstanceSet, batch: dict[str, Any]) -> Tensor:
        """Hits, false positives, misses and summed IoU of each thing class, from several scores on;
        see `counts_by_score`.
        """
        pairs = compare_objects(
            reference_instances(batch), prediction, class_ids=thing_ids(self.labels)
        )
        return counts_by_score(pairs)

    def scores(self, counts: Tensor) -> dict[str, float]:
        """TP / (TP + FP + FN) of each thing class at an IoU of 0.5, of the objects from the best
        score on; nan for one that was nowhere.
        """
        names = [self.labels.names[class_id] for class_id in thing_ids(self.labels)]
        rows = counts[0, SCORES.index(best_score(counts))]
        return {name: hits_of(row).accuracy for name, row in zip(names, rows, strict=True)}

    def best_score(self, counts: Tensor) -> float:
        """See `medseg.tasks.hits.best_score`."""
        return best_score(counts)

    def shown(self, prediction: InstanceSet, batch: dict[str, Any]) -> tuple[Parts, Parts]:
        """The objects one by one, found ones from the score on that is best for this case."""
        least = best_score(self.counts(prediction, batch))
        classes = np.where(prediction.scores >= least, prediction.class_ids, 0)
        return reference_parts(batch), Parts(prediction.array, np.append(0, classes))


def reference_instances(batch: dict[str, Any]) -> InstanceSet:
    """The objects of a validation case in network space, voxels of 1 mm."""
    codes = batch["target"].cpu().numpy()
    instances: InstanceSet = batch["codes"].instances(codes, unit_grid(codes.shape))
    return instances


def reference_parts(batch: dict[str, Any]) -> Parts:
    """Objects and stuff of a validation case."""
    return Parts(batch["target"].cpu().numpy(), batch["codes"].classes)


def unit_grid(shape: tuple[int, ...]) -> Geometry:
    """The grid of an image in network space, in voxels."""
    return Geometry.from_spacing((shape[0], shape[1], shape[2]), spacing_mm=(1.0, 1.0, 1.0))


def block_batch(image: Tensor, labels: LabelSet) -> dict[str, Any]:
    """A batch whose images are cut into blocks, every second of which is an object.

    Args:
        image: (N, C, *S).
        labels: gives the class of the objects.
    """
    shape = tuple(image.shape[2:])
    size = max(2, min(shape) // _BLOCKS)
    blocks = np.indices(shape) // size
    numbers = np.zeros(shape, np.int64)
    for axis in blocks:
        numbers = numbers * (int(axis.max()) + 1) + axis
    is_object = blocks.sum(axis=0) % 2 == 1
    grid = unit_grid((*shape, 1)[:3])
    found = InstanceSet.from_map(
        np.where(is_object, numbers + 1, 0).reshape(grid.shape),
        grid,
        class_of=lambda found: np.full(len(found), thing_ids(labels)[0]),
        labels=labels,
    )
    codes, table = encode(found, labels, where="trial")
    target = torch.from_numpy(codes.reshape(shape).astype(np.int64)).to(image.device)
    table = counted(codes, table)
    repeats = (len(image), *(1 for _ in shape))
    return {
        "image": image,
        "target": target[None].repeat(repeats),
        "codes": [table] * len(image),
        "keys": [],
    }


def check_shares(**shares: float) -> None:
    """Raises ConfigError for a share outside 0 to 1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"task.{name}", f"is {share:g}", "use 0 to 1")
