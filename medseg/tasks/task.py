"""What training and validation ask of a task, whatever it is."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from medseg.core.labels import LabelSet
from medseg.core.references import InstancesFrom, ReferenceKind
from medseg.tasks.parts import Parts


class Task(Protocol):
    """Targets, loss and validation scores.

    Attributes:
        labels: classes of the data set.
        reference_kind: what cases must be annotated with.
        score_name: of the validation scores, such as "dice".
    """

    labels: LabelSet
    reference_kind: ClassVar[ReferenceKind]
    score_name: ClassVar[str]

    @property
    def instances_from(self) -> InstancesFrom: ...

    @property
    def out_channels(self) -> int:
        """Channels of the network's logits, or classes with background."""
        ...

    @property
    def outside_label(self) -> int:
        """Target of voxels beyond the image."""
        ...

    @property
    def centre_classes(self) -> tuple[int, ...]:
        """Classes whose voxels patches are centred on."""
        ...

    def check(self, model: nn.Module) -> None:
        """Raises ConfigError unless the network can do the task."""
        ...

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Scalar loss of a batch from the training loader."""
        ...

    def trial_batch(self, image: Tensor) -> dict[str, Any]:
        """A batch with any target for an image (N, C, *S), to try a training step with."""
        ...

    def counts(self, prediction: Any, batch: dict[str, Any]) -> Tensor:
        """Numbers of one validation case; those of several cases are added up.

        Args:
            prediction: as `medseg.inference.network_space.predict_image` gives it.
            batch: one case from the validation loader.
        """
        ...

    def scores(self, counts: Tensor) -> dict[str, float]:
        """A score in [0, 1] for each structure, from the summed counts."""
        ...

    def best_score(self, counts: Tensor) -> float:
        """Score from which on objects are best kept, from the summed counts; 0.5 if it is not
        known.
        """
        ...

    def shown(self, prediction: Any, batch: dict[str, Any]) -> tuple[Parts, Parts]:
        """Reference and prediction of a case as pictures have them."""
        ...
