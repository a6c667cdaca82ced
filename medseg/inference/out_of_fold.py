"""Cases predicted by a network that was not trained on them, and what they leave for choices."""

from __future__ import annotations

from dataclasses import dataclass

from medseg.core.errors import MedsegError
from medseg.core.identity import Case
from medseg.core.segmentation import LabelMap, ProbabilityMap, class_map
from medseg.inference.calibration import LogitSample, sample_logits
from medseg.inference.predictor import NetworkOutput, NetworkPredictor
from medseg.inference.selection import ThresholdCounts, count_thresholds
from medseg.transforms.preprocess import preprocess_labels


@dataclass(frozen=True, eq=False)
class Traces:
    """What a case leaves once its logits are gone.

    Args:
        sample: for the temperature.
        thresholds: for the thresholds.
    """

    sample: LogitSample
    thresholds: ThresholdCounts


class TracingPredictor:
    """A predictor of cases with a reference that keeps the traces of each.

    Args:
        predictor: of one fold.
    """

    def __init__(self, predictor: NetworkPredictor) -> None:
        self.predictor = predictor
        self.traces: dict[str, Traces] = {}

    def predict(self, case: Case) -> LabelMap:
        output = self.predictor.network_output(case.read_image())
        self._trace(case, output)
        return self.predictor.label_map(output)

    def predict_with_probabilities(self, case: Case) -> tuple[LabelMap, ProbabilityMap]:
        output = self.predictor.network_output(case.read_image())
        self._trace(case, output)
        return self.predictor.label_map(output), self.predictor.probability_map(output)

    def _trace(self, case: Case, output: NetworkOutput) -> None:
        if case.read_reference is None:
            raise MedsegError(case.key, "has no reference", "leave it out", code="E_NO_LABEL")
        bundle = self.predictor.bundle
        reference = preprocess_labels(class_map(case.read_reference()), bundle.plan)
        self.traces[case.key] = Traces(
            sample_logits(output.logits, reference, bundle.labels),
            count_thresholds(output.logits, reference, bundle.labels),
        )
