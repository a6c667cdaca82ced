"""What stands at the end of a training: predictions and scores of cases it did not train on, and
what to do next.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from medseg.bundle import ModelBundle
from medseg.cli.console import console, counting
from medseg.cli.preparation import Preparation
from medseg.config.build import build
from medseg.core.identity import Case
from medseg.core.segmentation import Reference, class_map
from medseg.inference.bundle_predictor import predictor_of
from medseg.inference.cases import CaseOutcome, predict_cases
from medseg.reports.evaluation import score_cases
from medseg.reports.object_evaluation import score_objects
from medseg.reports.object_summary import summary_of
from medseg.reports.object_tables import object_table, write_object_scores
from medseg.reports.score_tables import bundle_facts, scores_table, write_scores
from medseg.training.fit import FitResult
from medseg.writers.dicom_seg import DicomSegWriter
from medseg.writers.nifti import NiftiWriter


def show_results(
    cfg: DictConfig, prepared: Preparation, bundle: ModelBundle, result: FitResult, folder: Path
) -> int:
    """Predicts and scores the held-out cases (validation cases if there are none), and prints the
    scores and where everything is.
    """
    kind = "test" if prepared.split.test else "validation"
    cases = _unseen(prepared)
    predictor = predictor_of(
        bundle,
        inference=build(cfg.inference),
        postprocess=build(cfg.postprocess),
        objects=build(cfg.get("objects")),
        device=prepared.device,
    )
    output = folder / "predictions"
    writers: list[Any] = [NiftiWriter()]
    if any(case.series is not None for case in cases):
        writers.append(
            DicomSegWriter(
                algorithm_name=bundle.name,
                algorithm_version=bundle.version,
                bundle_sha256=bundle.sha256,
            )
        )
    with counting(f"predicting {kind} cases", len(cases)) as step:
        outcomes = predict_cases(
            predictor,
            cases,
            writers=writers,
            folder=output,
            keeps_results=True,
            on_done=lambda _: step(),
        )
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        console.print(f"{outcome.key}: {outcome.error}", style="red", markup=False)
    console.print(_scored(outcomes, prepared, bundle, folder, title=f"{kind} cases"))
    console.print(f"trained {result.num_steps} steps in {result.elapsed_s / 60:.1f} min")
    for title, path in (
        ("bundle", bundle.folder),
        ("predictions", output),
        ("scores", folder / "scores.csv"),
        ("TensorBoard", folder / "tensorboard"),
    ):
        console.print(f"{title + ':':<13}{path}", soft_wrap=True, markup=False)
    return 3 if failed else 0


def show_next(prepared: Preparation, bundle: ModelBundle, folder: Path) -> None:
    """Prints the commands that a person is likely to type now."""
    console.print("next:")
    for words in _next_commands(_unseen(prepared), bundle, folder):
        console.print(f"  {shlex.join(words)}", soft_wrap=True, markup=False)


def _unseen(prepared: Preparation) -> list[Case]:
    return [prepared.cases[key] for key in prepared.split.test or prepared.split.validation]


def _scored(
    outcomes: Sequence[CaseOutcome],
    prepared: Preparation,
    bundle: ModelBundle,
    folder: Path,
    *,
    title: str,
) -> Table:
    """Scores the results, writes the scores and gives them as a table."""
    model = bundle_facts(bundle)
    found = [
        (outcome.key, reference, outcome.result)
        for outcome in outcomes
        if (reference := prepared.cases[outcome.key].read_reference) is not None
        and outcome.result is not None
    ]
    with counting("scoring", len(found)) as step:
        if bundle.task_kind != "label_map":
            readers = [
                (key, reference, partial(_given, result)) for key, reference, result in found
            ]
            objects = score_objects(readers, prepared.labels, on_progress=step)
            scores = summary_of(objects)
            write_object_scores(objects, scores, folder, model=model)
            return object_table(scores, title=title)
        pairs = [(key, reference, class_map(result)) for key, reference, result in found]
        evaluation = score_cases(pairs, prepared.labels, on_progress=step)
    summary = evaluation.summarise()
    write_scores(evaluation, summary, folder, model=model)
    return scores_table(summary, title=title)


def _given(result: Reference) -> Reference:
    return result


def _next_commands(cases: list[Case], bundle: ModelBundle, folder: Path) -> list[list[str]]:
    """What to type next: the curves, and the same bundle on a folder of images."""
    series = next((case.series for case in cases if case.series is not None), None)
    files = next((case.paths for case in cases if case.paths), ())
    images = (
        series.paths[0].parent.parent if series else files[0].parent if files else Path("IMAGES")
    )
    predict = [
        "python", "-m", "medseg", "predict", f"bundle={bundle.folder}", f"source.folder={images}",
        "paths.output=output", "output=[nifti,dicom_seg]" if series else "output=[nifti]",
    ]  # fmt: skip
    return [["tensorboard", "--logdir", str(folder / "tensorboard")], predict]
