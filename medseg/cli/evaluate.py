"""`medseg evaluate`: two folders of label maps to scores.csv, scores.json and a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from medseg.cli.console import make_console
from medseg.core.labels import LabelSet
from medseg.reports.evaluation import Evaluation, ScoreSettings, evaluate_folders
from medseg.reports.score_tables import scores_table, write_scores

# Narrower tables break their numbers; a file or pipe has no width of its own.
_WIDTH_WITHOUT_TERMINAL = 140
_MOST_LISTED = 20


def run(cfg: DictConfig) -> int:
    """Scores, writes and prints.

    Returns:
        0; 3 if a case could not be scored or a prediction is missing.
    """
    console = make_console()
    labels, model = _labels(cfg)
    with Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bar:
        step, start = _steps(bar)
        evaluation = evaluate_folders(
            Path(cfg.predictions),
            Path(cfg.references),
            labels=labels,
            settings=_settings(cfg),
            allow_missing=bool(cfg.get("allow_missing", False)),
            on_start=start,
            on_progress=step,
        )
    summary = evaluation.summarise()
    files = write_scores(evaluation, summary, cfg.paths.output, model=model)
    if summary.num_cases:
        console.print(scores_table(summary))
    _print_shortcomings(console, evaluation)
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


def _steps(bar: Progress) -> tuple[Callable[[], None], Callable[[int], None]]:
    """One function that moves the bar by a case, and one that says how many there are."""
    task = bar.add_task("", total=None)
    return lambda: bar.advance(task), lambda total: bar.update(task, total=total)


def _print_shortcomings(console: Console, evaluation: Evaluation) -> None:
    problems = [problem.message for problem in evaluation.problems]
    for heading, items in (
        ("not scored", problems),
        ("without a prediction (allow_missing=true accepts this)", evaluation.missing),
        ("predicted, but without a reference", evaluation.unmatched),
    ):
        _print_list(console, heading, items)


def _print_list(console: Console, heading: str, items: Sequence[str]) -> None:
    if not items:
        return
    console.print(f"{len(items)} {heading}:", style="yellow", soft_wrap=True)
    for item in items[:_MOST_LISTED]:
        console.print(f"  {item}", soft_wrap=True, markup=False)
    if len(items) > _MOST_LISTED:
        console.print(f"  and {len(items) - _MOST_LISTED} more, all listed in scores.json")
