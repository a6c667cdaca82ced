"""`medseg evaluate`: folders of predictions to scores.csv, scores.json, a table and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig, OmegaConf

from medseg.cli.console import console, counting, print_shortcomings
from medseg.cli.evaluate_objects import run_objects
from medseg.cli.fused import fuse_folders
from medseg.cli.references import taken_references
from medseg.cli.scored_predictors import Predicted, predict_to_score, predicts
from medseg.core.errors import ConfigError
from medseg.core.labels import LabelSet
from medseg.reports.evaluation import Evaluation, ScoreSettings, evaluate_folders
from medseg.reports.label_files import refuse_objects
from medseg.reports.object_files import has_objects, reference_keys
from medseg.reports.score_tables import bundle_facts, scores_table, write_scores

if TYPE_CHECKING:
    from medseg.bundle import ModelBundle
    from medseg.inference.ensemble import BundleGroup


def run(cfg: DictConfig) -> int:
    """Scores, writes and prints.

    Returns:
        0; 3 if a case could not be scored or a prediction is missing.
    """
    bundle = _bundle(cfg)
    folders = _folders(cfg)
    with taken_references(cfg) as taken:
        if taken.folder is not None:
            cfg.references = str(taken.folder)
        predicted = _predict(cfg)
        for name, folder in predicted.folders.items():
            if name in folders:
                raise ConfigError("predictions", f"has a folder called {name}", "rename it")
            folders[name] = folder
        code = _score_folders(cfg, folders, _labels(cfg, bundle) or taken.labels, bundle)
    return code if predicted.is_complete and taken.is_complete else 3


def _predict(cfg: DictConfig) -> Predicted:
    """The predictions that are made here; settles where references and images are."""
    if not predicts(cfg):
        if cfg.predictions is None:
            raise ConfigError(
                "predictions",
                "has no value",
                "set predictions=<folder>, or baseline=otsu or bundle=<folder> to predict the "
                "images of source.folder",
            )
        if cfg.references is None:
            raise ConfigError("references", "has no value", "set it with references=<folder>")
        return Predicted({})
    images = cfg.source.get("folder")
    if cfg.references is None and images is None:
        raise ConfigError("source.folder", "has no value", "set source.folder=<folder of images>")
    cfg.references = cfg.references or str(images)
    cfg.images = cfg.images or images
    return predict_to_score(cfg, reference_keys(cfg.references))


def _score_folders(
    cfg: DictConfig,
    folders: dict[str, Path],
    labels: LabelSet | None,
    bundle: ModelBundle | BundleGroup | None,
) -> int:
    of_objects = [name for name, folder in folders.items() if has_objects(folder)]
    if cfg.instances_from == "components" or len(of_objects) == len(folders):
        return run_objects(cfg, folders, labels, bundle, _settings(cfg))
    if of_objects:
        others = ", ".join(name for name in folders if name not in of_objects)
        raise ConfigError(
            "predictions",
            f"number their objects in {', '.join(of_objects)}, but not in {others}",
            "set instances_from=components to compare with the connected parts of label maps, or "
            "baseline.task=instance where a baseline is to find objects",
        )
    refuse_objects(cfg.references)
    folders |= fuse_folders(
        folders, list(cfg.ensembles), Path(cfg.paths.output), weights=cfg.weights
    )
    evaluations = {name: _score(cfg, folder, labels) for name, folder in folders.items()}
    model = bundle_facts(bundle)
    output = Path(cfg.paths.output)
    files: list[Path] = []
    for name, evaluation in evaluations.items():
        place = output if len(evaluations) == 1 else output / name
        summary = evaluation.summarise()
        files += write_scores(evaluation, summary, place, model=model)
        if summary.num_cases:
            title = "Scores" if len(evaluations) == 1 else f"Scores of {name}"
            console.print(scores_table(summary, title=title))
        print_shortcomings(evaluation)
    if cfg.report or len(evaluations) > 1:
        files += _report(cfg, evaluations, folders, labels, bundle, files)
    for path in files:
        title = "report" if path.suffix == ".html" else path.stem
        console.print(f"{title}: {path}", soft_wrap=True, markup=False)
    return 0 if all(evaluation.is_complete for evaluation in evaluations.values()) else 3


def _score(cfg: DictConfig, predictions: Path, labels: LabelSet | None) -> Evaluation:
    with counting(f"scoring {predictions.name}") as count:
        return evaluate_folders(
            predictions,
            Path(cfg.references),
            labels=labels,
            settings=_settings(cfg),
            allow_missing=bool(cfg.get("allow_missing", False)),
            on_start=count.start,
            on_progress=count,
        )


def _report(
    cfg: DictConfig,
    evaluations: Mapping[str, Evaluation],
    folders: Mapping[str, Path],
    labels: LabelSet | None,
    bundle: ModelBundle | BundleGroup | None,
    files: Sequence[Path],
) -> list[Path]:
    """The files of the report, the page last; of several models without one, their tables."""
    from medseg.config.build import build
    from medseg.reports.evaluation_page import EvaluationPage
    from medseg.reports.groups import read_groups
    from medseg.reports.study import gather

    if not any(evaluation.scores for evaluation in evaluations.values()):
        return []  # nothing to show; what went wrong was printed
    with counting("looking at cases") as count:
        study = gather(
            evaluations,
            predictions=folders,
            references=Path(cfg.references),
            labels=labels,
            images=None if cfg.images is None else Path(cfg.images),
            groups=() if cfg.groups is None else read_groups(cfg.groups),
            bundle=bundle,
            on_start=count.start,
            on_progress=count,
        )
    written = study.tables.write(cfg.paths.output)
    report: EvaluationPage | None = build(cfg.report)
    if report is not None:
        written.append(report.write(study, cfg.paths.output, files=[*files, *written]))
    return written


def _folders(cfg: DictConfig) -> dict[str, Path]:
    """The folders of predictions by the name that they are shown with."""
    given = cfg.predictions
    if given is None:
        return {}
    folders = [Path(str(path)) for path in (given if isinstance(given, ListConfig) else [given])]
    if not folders:
        raise ConfigError("predictions", "is empty", "set predictions=<folder>, or [A,B]")
    if len(folders) == 1:
        return {folders[0].name or str(folders[0]): folders[0]}
    from medseg.reports.study import model_names

    return dict(zip(model_names(folders), folders, strict=True))


def _settings(cfg: DictConfig) -> ScoreSettings:
    return ScoreSettings(**OmegaConf.to_container(cfg.metrics, resolve=True))  # type: ignore[arg-type]


def _bundle(cfg: DictConfig) -> ModelBundle | BundleGroup | None:
    if cfg.bundle is None:
        return None
    from medseg.inference.ensemble import load_bundles  # imports torch

    return load_bundles(cfg.bundle)


def _labels(cfg: DictConfig, bundle: ModelBundle | BundleGroup | None) -> LabelSet | None:
    """Classes as configured, else the bundle's."""
    if cfg.labels is not None:
        mapping = OmegaConf.to_container(cfg.labels, resolve=True)
        return LabelSet.from_mapping(mapping)  # type: ignore[arg-type]
    return None if bundle is None else bundle.labels
