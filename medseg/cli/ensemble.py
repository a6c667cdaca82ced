"""`medseg ensemble`: the folds of a cross-validation to one bundle, with scores of every case by
the fold that did not train on it, post-processing chosen on these, and calibrated probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich import box
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from medseg.bundle import COARSE, ModelBundle
from medseg.cli.collection import Collection
from medseg.cli.console import console
from medseg.cli.folds import Fold, find_folds, read_cases
from medseg.config.build import build
from medseg.core.atomic import write_text
from medseg.inference.calibration import Calibration, calibrate
from medseg.inference.postprocess import Postprocess
from medseg.inference.selection import (
    Decision,
    choose_components,
    choose_foreground,
    choose_thresholds,
)
from medseg.metrics.summary import Summary
from medseg.reports.evaluation import Evaluation
from medseg.reports.score_tables import bundle_facts, scores_table, write_scores


def run(cfg: DictConfig) -> int:
    """Returns 0, or 3 if some cases could not be predicted."""
    folds = find_folds(cfg.folds)
    _print_folds(folds)
    output = Path(cfg.paths.output)
    work = Collection(
        folds,
        read_cases(folds, source_folder=cfg.source.folder),
        predictions=output / "predictions",
        inference=build(cfg.inference),
    )
    work.predict(Postprocess())
    rules: Postprocess | None = build(cfg.postprocess)
    raw = work.score()
    if rules is None:
        rules, decisions = _choose(work, min_gain=float(cfg.min_gain))
    else:
        decisions = []
        work.correct(rules)
    evaluation, summary = raw, raw.summarise()
    if rules.to_dict():
        evaluation = work.score()
        rules, summary, evaluation = _keep_if_better(
            work, rules, raw, evaluation, is_chosen=bool(decisions)
        )
    calibration = calibrate([work.samples(fold) for fold in folds])
    bundle = _write_bundle(folds, output / "bundle", rules, calibration, summary)
    write_scores(
        evaluation,
        summary,
        output,
        model=bundle_facts(bundle),
    )
    _write_report(output / "ensemble.json", folds, rules, decisions, calibration, work)
    _show(bundle, summary, raw.summarise(), rules, decisions, calibration, output)
    for failed in work.failed:
        console.print(f"failed: {failed.key}: {failed.error}", style="red", markup=False)
    return 3 if work.failed else 0


def _choose(work: Collection, *, min_gain: float) -> tuple[Postprocess, list[Decision]]:
    """Rules that help, applied to the predictions, and all that were tried."""
    if not work.keys:
        return Postprocess(), []
    labels = work.labels
    rules, decisions = choose_thresholds(
        [work.traces[key].thresholds for key in work.keys], labels, min_gain=min_gain
    )
    if rules.threshold:
        console.print("other thresholds help, so every case is predicted once more with them")
        work.set_aside()
        work.predict(rules)
    counts = work.count(Postprocess())
    is_kept, tried = choose_foreground(counts, labels, min_gain=min_gain)
    decisions += tried
    if is_kept:
        rules = replace(rules, largest_foreground=True)
        counts = work.count(rules)
    rules, tried = choose_components(counts, labels, given=rules, min_gain=min_gain)
    work.correct(rules)
    return rules, decisions + tried


def _keep_if_better(
    work: Collection,
    rules: Postprocess,
    raw: Evaluation,
    corrected: Evaluation,
    *,
    is_chosen: bool,
) -> tuple[Postprocess, Summary, Evaluation]:
    """The rules and scores; without the rules if together they lower a label's measured Dice."""
    before, after = raw.summarise(), corrected.summarise()
    worse = [
        new.label
        for old, new in zip(before.labels, after.labels, strict=True)
        if new.statistics["dice"].mean < old.statistics["dice"].mean - 1e-6
    ]
    if not worse or not is_chosen:
        return rules, after, corrected
    console.print(
        f"the rules together lower the Dice of {', '.join(worse)}, so none is kept",
        style="yellow",
        markup=False,
    )
    work.take_back()
    return Postprocess(), before, raw


def _write_bundle(
    folds: Sequence[Fold],
    folder: Path,
    rules: Postprocess,
    calibration: Calibration,
    summary: Summary,
) -> ModelBundle:
    """All folds' weights with one plan, and what was found on the cases that they kept back."""
    first = folds[0].bundle
    coarse = None
    if first.coarse is not None:
        pairs = [(fold.number, fold.bundle.coarse) for fold in folds if fold.bundle.coarse]
        coarse = ModelBundle.write(
            folder / COARSE,
            weights=_weights(pairs),
            plan=first.coarse.plan,
            labels=first.coarse.labels,
            config=first.coarse.config,
            card=_shared_card(first.coarse),
        )
    card = _shared_card(first)
    card["data"] = {
        **dict(card.get("data") or {}),
        "num_training_cases": len(folds[0].trained | set(folds[0].validated)),
    }
    card["data"].pop("training_cases_sha256", None)
    return ModelBundle.write(
        folder,
        weights=_weights([(fold.number, fold.bundle) for fold in folds]),
        coarse=coarse,
        plan=first.plan,
        labels=first.labels,
        config=first.config,
        card={
            **card,
            "training": {
                f"fold_{fold.number}": {
                    "bundle_sha256": fold.bundle.sha256,
                    **dict(fold.bundle.card.get("training") or {}),
                }
                for fold in folds
            },
            "out_of_fold_dice": {
                label.label: round(label.statistics["dice"].mean, 4) for label in summary.labels
            },
            "postprocess": rules.to_dict(),
            "temperature": round(calibration.temperature, 4),
        },
    )


def _weights(bundles: Sequence[tuple[int, ModelBundle]]) -> dict[str, dict[str, Tensor]]:
    return {
        f"fold_{number}": load_file(bundle.folder / name)
        for number, bundle in bundles
        for name in bundle.weight_files
    }


def _shared_card(bundle: ModelBundle) -> dict[str, Any]:
    dropped = {"format_version", "software", "sha256", "training", "postprocess", "temperature"}
    return {key: value for key, value in bundle.card.items() if key not in dropped}


def _write_report(
    path: Path,
    folds: Sequence[Fold],
    rules: Postprocess,
    decisions: Sequence[Decision],
    calibration: Calibration,
    work: Collection,
) -> None:
    content = {
        "folds": {
            fold.folder.name: {
                "bundle_sha256": fold.bundle.sha256,
                "cases": list(fold.validated),
            }
            for fold in folds
        },
        "failed": {outcome.key: str(outcome.error) for outcome in work.failed},
        "postprocess": rules.to_dict(),
        "rules_tried": [asdict(decision) for decision in decisions],
        "calibration": asdict(calibration),
    }
    write_text(path, json.dumps(_without_nan(content), indent=2) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _print_folds(folds: Sequence[Fold]) -> None:
    numbers = {fold.number for fold in folds}
    missing = [n for n in range(folds[0].num_folds) if n not in numbers]
    console.print(
        f"{len(folds)} folds: {', '.join(fold.folder.name for fold in folds)}", markup=False
    )
    if missing:
        console.print(
            f"without fold {', '.join(map(str, missing))}: the cases kept back there are not "
            "scored",
            style="yellow",
            markup=False,
        )


def _show(
    bundle: ModelBundle,
    summary: Summary,
    before: Summary,
    rules: Postprocess,
    decisions: Sequence[Decision],
    calibration: Calibration,
    output: Path,
) -> None:
    console.print(scores_table(summary, title="each case by the fold that kept it back"))
    if decisions:
        console.print(_rules_table(decisions))
    if rules.to_dict():
        console.print(
            f"mean Dice {before.overall.statistics['dice'].mean:.4f} before post-processing, "
            f"{summary.overall.statistics['dice'].mean:.4f} after",
            markup=False,
        )
    elif decisions:
        console.print("no rule helps, so results are not post-processed")
    console.print(
        f"temperature {calibration.temperature:.3f}: calibration error "
        f"{calibration.before['ece']:.4f} before, {calibration.after['ece']:.4f} after; "
        f"Brier score {calibration.before['brier']:.4f} and {calibration.after['brier']:.4f} "
        f"({calibration.num_samples} voxels)",
        markup=False,
    )
    for title, path in (
        ("bundle", bundle.folder),
        ("predictions", output / "predictions"),
        ("scores", output / "scores.csv"),
        ("choices", output / "ensemble.json"),
    ):
        console.print(f"{title + ':':<13}{path}", soft_wrap=True, markup=False)
    console.print("next:")
    console.print(
        f"  python -m medseg predict bundle={bundle.folder} source.folder=IMAGES "
        "paths.output=output",
        soft_wrap=True,
        markup=False,
    )


def _rules_table(decisions: Sequence[Decision]) -> Table:
    table = Table(
        title="rules tried: mean Dice", title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False,
    )  # fmt: skip
    table.add_column("rule", overflow="fold")
    for heading in ("without", "with", ""):
        table.add_column(heading, justify="right")
    for decision in decisions:
        table.add_row(
            decision.rule,
            f"{decision.before:.4f}",
            f"{decision.after:.4f}",
            "kept" if decision.is_kept else "",
        )
    return table
