"""`medseg evaluate` of objects: scores, tables and a page of predictions told apart one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from medseg.cli.console import console, counting, print_shortcomings
from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.metrics.object_bootstrap import Bootstrap
from medseg.reports.evaluation import ScoreSettings
from medseg.reports.object_evaluation import ObjectEvaluation, ObjectSettings, evaluate_objects
from medseg.reports.object_files import ObjectFiles, find_object_files
from medseg.reports.object_summary import summary_of
from medseg.reports.object_tables import object_table, write_object_scores
from medseg.reports.score_tables import bundle_facts
from medseg.sources.instance_maps import OBJECT_LABELS

if TYPE_CHECKING:
    from medseg.bundle import ModelBundle
    from medseg.inference.ensemble import BundleGroup
    from medseg.reports.evaluation_page import EvaluationPage


def run_objects(
    cfg: DictConfig,
    folders: Mapping[str, Path],
    labels: LabelSet | None,
    bundle: ModelBundle | BundleGroup | None,
    settings: ScoreSettings,
) -> int:
    """Scores, writes and prints.

    Args:
        cfg: of `evaluate`.
        folders: predictions by name.
        labels: classes; None takes those of the predictions, else of the data set.
        bundle: model that predicted.
        settings: gives the bootstrap.

    Returns:
        0; 3 if a case could not be scored or a prediction is missing.
    """
    if cfg.ensembles:
        raise ConfigError(
            "ensembles",
            f"is {list(cfg.ensembles)}, but label maps alone can be combined, not objects",
            "leave it out",
        )
    output = Path(cfg.paths.output)
    model = bundle_facts(bundle)
    places = _find(cfg, folders, labels)
    found: dict[str, tuple[ObjectFiles, ObjectEvaluation]] = {}
    summaries: dict[str, dict[str, Any]] = {}
    written: list[Path] = []
    for name, files in places.items():
        evaluation = _evaluate(cfg, name, files, settings)
        summary = summary_of(evaluation)
        place = output if len(folders) == 1 else output / name
        written += write_object_scores(evaluation, summary, place, model=model)
        if evaluation.num_cases:
            title = "Scores" if len(folders) == 1 else f"Scores of {name}"
            console.print(object_table(summary, title=title))
        print_shortcomings(evaluation)
        found[name], summaries[name] = (files, evaluation), summary
    if cfg.report or len(folders) > 1:
        written += _report(cfg, found, summaries, bundle, written)
    for path in written:
        title = "report" if path.suffix == ".html" else path.stem
        console.print(f"{title}: {path}", soft_wrap=True, markup=False)
    return 0 if all(evaluation.is_complete for _, evaluation in found.values()) else 3


def _find(
    cfg: DictConfig, folders: Mapping[str, Path], labels: LabelSet | None
) -> dict[str, ObjectFiles]:
    """What each folder holds, with the same classes for all: those given, else the first named."""
    found = {
        name: find_object_files(
            folder, Path(cfg.references), labels=labels, instances_from=str(cfg.instances_from)
        )
        for name, folder in folders.items()
    }
    named = [files.labels for files in found.values() if files.labels != OBJECT_LABELS]
    common = named[0] if named else OBJECT_LABELS
    return {name: replace(files, labels=common) for name, files in found.items()}


def _evaluate(
    cfg: DictConfig, name: str, files: ObjectFiles, settings: ScoreSettings
) -> ObjectEvaluation:
    options: Any = OmegaConf.to_container(cfg.objects, resolve=True)
    with counting(f"scoring {name}", len(files.keys)) as count:
        return evaluate_objects(
            files,
            settings=ObjectSettings(**options),
            bootstrap=Bootstrap(settings.confidence, settings.num_resamples, settings.seed),
            allow_missing=bool(cfg.get("allow_missing", False)),
            on_progress=count,
        )


def _report(
    cfg: DictConfig,
    found: Mapping[str, tuple[ObjectFiles, ObjectEvaluation]],
    summaries: Mapping[str, Mapping[str, Any]],
    bundle: ModelBundle | BundleGroup | None,
    files: Sequence[Path],
) -> list[Path]:
    """The files of the report, the page last; of several models without one, their tables."""
    from medseg.config.build import build
    from medseg.reports.groups import read_groups
    from medseg.reports.object_page import write_object_page
    from medseg.reports.object_study import gather_objects

    if not any(evaluation.num_cases for _, evaluation in found.values()):
        return []  # nothing to show; what went wrong was printed
    with counting("looking at cases") as count:
        study = gather_objects(
            {name: evaluation for name, (_, evaluation) in found.items()},
            summaries,
            {name: one for name, (one, _) in found.items()},
            images=None if cfg.images is None else Path(cfg.images),
            groups=() if cfg.groups is None else read_groups(cfg.groups),
            bundle=bundle,
            on_start=count.start,
            on_progress=count,
        )
    written = study.tables.write(cfg.paths.output)
    report: EvaluationPage | None = build(cfg.report)
    if report is not None:
        page = write_object_page(study, cfg.paths.output, report, files=[*files, *written])
        written.append(page)
    return written
