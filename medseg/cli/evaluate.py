"""`medseg evaluate`: two folders of label maps to scores.csv, scores.json and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medseg.cli.console import console, counting
from medseg.core.labels import LabelSet
from medseg.reports.evaluation import Evaluation, ScoreSettings, evaluate_folders
from medseg.reports.score_tables import scores_table, write_scores

_MOST_LISTED = 20


def run(cfg: DictConfig) -> int:
    """Scores, writes and prints.

    Returns:
        0; 3 if a case could not be scored or a prediction is missing.
    """
    labels, model = _labels(cfg)
    with counting("scoring") as count:
        evaluation = evaluate_folders(
            Path(cfg.predictions),
            Path(cfg.references),
            labels=labels,
            settings=_settings(cfg),
            allow_missing=bool(cfg.get("allow_missing", False)),
            on_start=count.start,
            on_progress=count,
        )
    summary = evaluation.summarise()
    files = write_scores(evaluation, summary, cfg.paths.output, model=model)
    if summary.num_cases:
        console.print(scores_table(summary))
    _print_shortcomings(evaluation)
    for path in files:
        console.print(f"scores: {path}", soft_wrap=True, markup=False)
    return 0 if evaluation.is_complete else 3


def _settings(cfg: DictConfig) -> ScoreSettings:
    return ScoreSettings(**OmegaConf.to_container(cfg.metrics, resolve=True))  # type: ignore[arg-type]


def _labels(cfg: DictConfig) -> tuple[LabelSet | None, Mapping[str, Any] | None]:
    """Classes as configured, else the bundle's; facts about the bundle for scores.json."""
    labels, model = None, None
    if cfg.bundle is not None:
        from medseg.bundle import ModelBundle  # imports torch

        bundle = ModelBundle.load(cfg.bundle)
        labels = bundle.labels
        model = {"name": bundle.name, "notice": bundle.notice, "sha256": bundle.sha256}
    if cfg.labels is not None:
        mapping = OmegaConf.to_container(cfg.labels, resolve=True)
        labels = LabelSet.from_mapping(mapping)  # type: ignore[arg-type]
    return labels, model


def _print_shortcomings(evaluation: Evaluation) -> None:
    problems = [problem.message for problem in evaluation.problems]
    for heading, items in (
        ("not scored", problems),
        ("without a prediction (allow_missing=true accepts this)", evaluation.missing),
        ("predicted, but without a reference", evaluation.unmatched),
    ):
        _print_list(heading, items)


def _print_list(heading: str, items: Sequence[str]) -> None:
    if not items:
        return
    console.print(f"{len(items)} {heading}:", style="yellow", soft_wrap=True)
    for item in items[:_MOST_LISTED]:
        console.print(f"  {item}", soft_wrap=True, markup=False)
    if len(items) > _MOST_LISTED:
        console.print(f"  and {len(items) - _MOST_LISTED} more, all listed in scores.json")
