"""A classical method whose results are post-processed as those of a network are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.core.segmentation import InstanceSet, LabelMap, ProbabilityMap
from medseg.core.volume import Volume
from medseg.inference.postprocess import Postprocess


class Method(Protocol):
    """Gives classes, and objects of them where its task asks for these."""

    def predict_volume(self, volume: Volume) -> LabelMap:
        """The class of every voxel."""
        ...

    def told_apart(self, label_map: LabelMap) -> LabelMap | InstanceSet:
        """The objects of a label map, or the label map."""
        ...

    def predict_with_probabilities(
        self, case: Case
    ) -> tuple[LabelMap | InstanceSet, ProbabilityMap]:
        """The result and its classes as probabilities."""
        ...


@dataclass(frozen=True)
class Corrected:
    """Label maps are corrected before they are told apart.

    Args:
        method: makes them.
        rules: correct them.

    Raises:
        ConfigError: a rule is for probabilities, of which a classical method has none.
    """

    method: Method
    rules: Postprocess

    def __post_init__(self) -> None:
        for name in ("threshold", "random_field"):
            if getattr(self.rules, name):
                raise ConfigError(
                    f"postprocess.{name}",
                    "works on probabilities, which a classical method does not have",
                    "leave it out; holes, components and smallest volumes can be corrected",
                )

    def predict(self, case: Case) -> LabelMap | InstanceSet:
        classes = self.method.predict_volume(case.read_image())
        return self.method.told_apart(self.rules.apply(classes))

    def predict_with_probabilities(
        self, case: Case
    ) -> tuple[LabelMap | InstanceSet, ProbabilityMap]:
        result, shares = self.method.predict_with_probabilities(case)
        return (self.rules.apply(result) if isinstance(result, LabelMap) else result), shares
