"""Predictions of all cases of a cross-validation by the fold that kept each back, as files that
rules are tried on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from medseg.cli.console import counting
from medseg.cli.folds import Fold
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, class_map
from medseg.inference.calibration import LogitSample
from medseg.inference.cases import CaseOutcome, predict_cases
from medseg.inference.out_of_fold import Traces, TracingPredictor
from medseg.inference.postprocess import Postprocess
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.selection import ComponentCounts, count_components
from medseg.inference.sliding_window import SlidingWindow
from medseg.reports.evaluation import Evaluation, score_cases
from medseg.sources.label_maps import read_label_map
from medseg.writers.nifti import NiftiWriter

_NUM_THREADS = 4


class Collection:
    """Predictions of all cases by the fold that kept them back, as files.

    Args:
        folds, cases: of the cross-validation.
        predictions: folder of the label maps; what an earlier run left there is removed.
        inference: how images are covered with windows.
    """

    def __init__(
        self,
        folds: Sequence[Fold],
        cases: dict[str, Case],
        *,
        predictions: Path,
        inference: SlidingWindow,
    ) -> None:
        self.folds = folds
        self.cases = cases
        self.predictions = predictions
        self.uncorrected = predictions.with_name("predictions_uncorrected")
        self.inference = inference
        self.traces: dict[str, Traces] = {}
        self.failed: list[CaseOutcome] = []
        for folder in (self.predictions, self.uncorrected):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def labels(self) -> LabelSet:
        return self.folds[0].bundle.labels

    @property
    def keys(self) -> list[str]:
        return [key for fold in self.folds for key in fold.validated if key in self.traces]

    def predict(self, rules: Postprocess) -> None:
        """Predicts every case with the fold that kept it back; the first time leaves traces."""
        is_first = not self.traces
        wanted = [key for fold in self.folds for key in fold.validated]
        with counting("predicting", len(wanted)) as step:
            for fold in self.folds:
                predictor = NetworkPredictor(
                    fold.bundle, inference=self.inference, postprocess=rules
                )
                tracing = TracingPredictor(predictor)
                outcomes = predict_cases(
                    tracing if is_first else predictor,
                    [self.cases[key] for key in fold.validated],
                    writers=[NiftiWriter()],
                    folder=self.predictions,
                    on_done=lambda _: step(),
                )
                if is_first:
                    failed = [outcome for outcome in outcomes if outcome.error is not None]
                    self.failed += failed
                    without = {outcome.key for outcome in failed}
                    self.traces |= {k: v for k, v in tracing.traces.items() if k not in without}

    def samples(self, fold: Fold) -> list[LogitSample]:
        return [self.traces[key].sample for key in fold.validated if key in self.traces]

    def score(self) -> Evaluation:
        pairs = [
            (key, self.cases[key].read_reference, partial(self.read, key)) for key in self.keys
        ]
        with counting("scoring", len(pairs)) as step:
            return score_cases(
                ((key, reference, found) for key, reference, found in pairs if reference),
                self.labels,
                on_progress=step,
            )

    def read(self, key: str) -> LabelMap:
        return read_label_map(self.predictions / f"{key}.nii.gz", self.labels)

    def count(self, rules: Postprocess) -> list[ComponentCounts]:
        """Counts of every case after the rules."""

        def one(key: str) -> ComponentCounts:
            reference = self.cases[key].read_reference
            assert reference is not None
            return count_components(
                class_map(reference()), rules.apply(self.read(key)), self.labels
            )

        with (
            counting("trying rules", len(self.keys)) as step,
            ThreadPoolExecutor(_NUM_THREADS) as pool,
        ):
            counts = []
            for result in pool.map(one, self.keys):
                counts.append(result)
                step()
        return counts

    def set_aside(self) -> None:
        """Keeps the predictions as they are; others may take their place."""
        if not self.uncorrected.exists():
            self.predictions.rename(self.uncorrected)

    def correct(self, rules: Postprocess) -> None:
        """Replaces the predictions by those after the rules."""
        if not rules.to_dict():
            return
        self.set_aside()
        if rules.threshold and not self.predictions.exists():
            self.predict(Postprocess(threshold=rules.threshold))
        source = self.predictions if self.predictions.exists() else self.uncorrected
        writer = NiftiWriter()
        for key in self.keys:
            found = read_label_map(source / f"{key}.nii.gz", self.labels)
            writer.write(rules.apply(found), self.cases[key], folder=self.predictions)

    def take_back(self) -> None:
        """The predictions as they were before all corrections."""
        if self.uncorrected.exists():
            shutil.rmtree(self.predictions, ignore_errors=True)
            self.uncorrected.rename(self.predictions)
