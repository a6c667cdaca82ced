"""`medseg train`: from a configuration to a bundle, its predictions and its scores."""

from __future__ import annotations

import hashlib
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from medseg.bundle import COARSE, ModelBundle
from medseg.cli.cascade import coarse_stage, fine_stage
from medseg.cli.console import console
from medseg.cli.exit_codes import TERMINATED
from medseg.cli.folders import require_fresh
from medseg.cli.loggers import build_loggers, log_hyperparameters
from medseg.cli.objective import training_task
from medseg.cli.preparation import Preparation, prepare_data, reference_rule, run_folder
from medseg.cli.results import show_next, show_results
from medseg.cli.resuming import is_first_process, sole_use
from medseg.cli.run_page import SAMPLES, write_page
from medseg.cli.starting import take_file, take_weights
from medseg.config.build import build, build_all
from medseg.config.check import load_config, refuse_dry_run
from medseg.core.atomic import write_text
from medseg.core.errors import ConfigError
from medseg.data.dataset import BatchDataset
from medseg.data.loader import training_loader, validation_loader
from medseg.inference.bundle_networks import mirror_axes_in_network
from medseg.inference.postprocess import Postprocess
from medseg.inference.precision import best_precision
from medseg.models.layout import in_fast_layout
from medseg.training.callbacks import Monitor
from medseg.training.checkpoint_files import COARSE_FOLDER
from medseg.training.fit import FitResult, check_optimizer, check_trainer, fit, seconds
from medseg.training.history import FILE_NAME, RunHistory
from medseg.training.module import TrainingModule
from medseg.training.run_board import RunBoard


def run(cfg: DictConfig) -> int:
    """Trains, writes the bundle, predicts and scores the held-out or validation cases; returns the
    exit code.
    """
    folder = run_folder(cfg)
    _check_settings(cfg)
    with sole_use(folder):
        if is_first_process():
            require_fresh(folder, resume=bool(cfg.resume))
        prepared = prepare_data(cfg)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
        coarse_fit = None
        own = cfg
        if prepared.plan.cascade:
            stage = coarse_stage(cfg, prepared)
            coarse_fit = (*stage, _fit(*stage, folder / COARSE_FOLDER))
            own = fine_stage(cfg)
        result = _fit(own, prepared, folder)
        if not result.is_main_process:
            return 0
        place = folder / "bundle"
        coarse = coarse_fit and _write_bundle(*coarse_fit, place / COARSE)
        bundle = _write_bundle(cfg, prepared, result, place, coarse=coarse)
        code = show_results(cfg, prepared, bundle, result, folder)
        page = write_page(cfg, prepared, result, folder)
        if page is not None:
            console.print(f"run page:    {page}", soft_wrap=True, markup=False)
        show_next(prepared, bundle, folder)
        return code


def _check_settings(cfg: DictConfig) -> None:
    """Raises an error for whatever can be seen to be wrong before any data is read."""
    if "fsdp" in str(cfg.trainer.strategy) and str(cfg.optimizer._target_).endswith(".Muon"):
        raise ConfigError(
            "optimizer",
            "is muon, which needs whole weights, while trainer.strategy=fsdp shares them out",
            "set optimizer=adamw, or trainer=ddp",
        )
    check_trainer(OmegaConf.to_container(cfg.trainer, resolve=True))  # type: ignore[arg-type]
    check_optimizer(build(cfg.optimizer))
    for section in ("loader", "augment", "inference", "objects", "postprocess"):
        build(cfg[section])
    build_all(cfg.callbacks)


def _model(cfg: DictConfig, prepared: Preparation) -> nn.Module:
    # The random start belongs to the seed alone, whatever was drawn while preparing.
    torch.manual_seed(int(cfg.seed))
    model: nn.Module = build(
        cfg.model, in_channels=prepared.plan.num_channels, out_channels=prepared.labels.num_outputs
    )
    if prepared.start is not None:
        take_weights(
            model,
            prepared.start,
            cfg,
            labels=prepared.labels,
            num_channels=prepared.plan.num_channels,
            channel_names=prepared.channel_names,
        )
    elif cfg.start_from is not None:
        take_file(model, Path(str(cfg.start_from)), inflate=bool(cfg.inflate_weights))
    return model


def _fit(cfg: DictConfig, prepared: Preparation, folder: Path) -> FitResult:
    model = _model(cfg, prepared)
    plan, spec = prepared.plan, build(cfg.loader)
    region_margin: tuple[float, ...] | None = None
    if plan.cascade:
        region_margin = tuple((plan.coarse_margin_mm or 0) / mm for mm in plan.spacing_mm or ())
    task = training_task(cfg, prepared.labels)
    trainer_options: dict[str, Any] = OmegaConf.to_container(cfg.trainer, resolve=True)  # type: ignore[assignment]
    max_time_s = seconds(trainer_options.pop("max_time"))
    deterministic = bool(trainer_options["deterministic"])
    precision = trainer_options["precision"] or best_precision(prepared.device)
    shows_progress = bool(trainer_options.pop("enable_progress_bar"))
    total_steps = int(cfg.trainer.max_epochs) * spec.steps_per_epoch
    callbacks = list(build_all(cfg.callbacks).values()) if cfg.callbacks else []
    early_stop = any(isinstance(c, pl.callbacks.EarlyStopping) for c in callbacks)
    loggers = build_loggers(cfg, folder)
    module = TrainingModule(
        in_fast_layout(model, prepared.device),
        task,
        optimizer=build(cfg.optimizer),
        schedule=build(cfg.schedule),
        inference=build(cfg.inference),
        patch_size=tuple(plan.patch_size or ()),
        # What is accumulated at the end of an epoch makes a step, however little it is.
        total_steps=int(cfg.trainer.max_epochs)
        * math.ceil(spec.steps_per_epoch / int(cfg.trainer.accumulate_grad_batches)),
        max_time_s=max_time_s,
        always_validate=early_stop or deterministic,
    )
    log_hyperparameters(loggers, _hyperparameters(cfg))
    batches = BatchDataset(
        [prepared.cases[key] for key in prepared.split.train],
        prepared.cache,
        augment=build(cfg.augment),
        foreground_fraction=spec.foreground_fraction,
        mirror_axes=mirror_axes_in_network(plan, prepared.mirror_axes),
        outside_label=task.outside_label,
        seed=int(cfg.seed),
        rank=_rank(),
        num_steps=total_steps,
        centre_classes=task.centre_classes,
        region_margin=region_margin,
        finishes=not spec.augments_on(prepared.device),
    )
    unseen = [prepared.cases[key] for key in prepared.split.validation]
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    console.print(
        f"{type(model).__name__} {plan.spatial_dims}D, {parameters:.1f} million parameters, patch "
        f"{'x'.join(map(str, plan.patch_size or ()))}, batch {plan.batch_size}, {prepared.device} "
        f"{precision}"
    )
    trainer_options.pop("_target_")
    return fit(
        module,
        trainer_factory=partial(pl.Trainer, **{**trainer_options, "precision": precision}),
        training=training_loader(batches, spec, device=prepared.device),
        validation=validation_loader(
            unseen,
            prepared.cache,
            num_shown=spec.validation_cases,
            region_margin=region_margin,
        ),
        folder=folder,
        resume=bool(cfg.resume),
        seed=int(cfg.seed),
        callbacks=[
            *callbacks,
            Monitor(
                batch_size=plan.batch_size or 1,
                every_n_steps=int(cfg.trainer.log_every_n_steps),
            ),
            RunBoard(
                spacing_mm=tuple(plan.spacing_mm or ()),
                folder=folder / SAMPLES,
                texts={
                    "plan": plan.to_yaml(),
                    "configuration": OmegaConf.to_yaml(cfg, resolve=True),
                },
            ),
            RunHistory(folder / FILE_NAME),
        ],
        loggers=loggers,
        shows_progress=shows_progress,
    )


def _write_bundle(
    cfg: DictConfig,
    prepared: Preparation,
    result: FitResult,
    folder: Path,
    *,
    coarse: ModelBundle | None = None,
) -> ModelBundle:
    options = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(options, dict)
    network = options.pop("_target_")
    options["in_channels"] = prepared.plan.num_channels
    rules: Postprocess = build(cfg.postprocess) or Postprocess()
    fold = "all" if prepared.split.fold is None else prepared.split.fold
    return ModelBundle.write(
        folder,
        weights={f"fold_{fold}": result.weights},
        plan=prepared.plan,
        labels=prepared.labels,
        coarse=coarse,
        config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[arg-type]
        card={
            "name": str(cfg.name),
            "notice": prepared.notice,
            "intended_use": "research; not cleared for clinical decisions",
            "data": {
                "name": prepared.spec.name,
                "modality": prepared.spec.modality,
                "channel_names": list(prepared.channel_names),
                "num_training_cases": len(prepared.split.train),
                "fingerprint": _ranges(prepared),
                "training_cases_sha256": hashlib.sha256(
                    "\n".join(prepared.split.train).encode()
                ).hexdigest(),
            },
            "mirror_axes": prepared.mirror_axes,
            "task": reference_rule(cfg, prepared.labels).kind,
            "network": {"class": network, "options": options},
            "best_score": result.best_score,
            "postprocess": rules.to_dict(),
            "training": {
                "started_from": None
                if prepared.start is None
                else {"name": prepared.start.name, "sha256": prepared.start.sha256},
                "steps": result.num_steps,
                "seconds": round(result.elapsed_s, 1),
                f"validation_{result.score_name}": {
                    k: round(v, 4) for k, v in result.scores.items()
                },
                "validation_cases": f"{result.scored_cases[0]} of {len(prepared.split.validation)}",
            },
        },
    )


def _ranges(prepared: Preparation) -> dict[str, Any]:
    """What images looked like, smallest, median and largest: other images are compared with it."""
    summary = prepared.fingerprint.summary(prepared.labels)
    return {key: summary[key] for key in ("shape", "spacing_mm")}


def _hyperparameters(cfg: DictConfig) -> dict[str, Any]:
    """The choices people compare between runs, flat."""
    chosen: dict[str, Any] = {}
    for group in ("model", "plan", "loss", "optimizer", "schedule", "augment", "loader"):
        values = OmegaConf.to_container(cfg[group], resolve=True)
        assert isinstance(values, dict)
        for key, value in values.items():
            if key not in ("reasons", "normalisation", "_partial_"):
                chosen[f"{group}/{str(key).strip('_')}"] = (
                    value if isinstance(value, int | float | str | bool) else str(value)
                )
    chosen["seed"], chosen["fold"] = int(cfg.seed), str(cfg.fold)
    return chosen


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))


def train(*overrides: str) -> ModelBundle:
    """Trains as `python -m medseg train <overrides>` does and returns the bundle.

    Raises:
        MedsegError: the options do not fit, or the data cannot be used.
        SystemExit: 143, a SIGTERM ended the training.
    """
    cfg = load_config("train", list(overrides))
    refuse_dry_run(cfg, command="train")
    try:
        run(cfg)
    except SIGTERMException as leaving:  # which names no exit code
        raise SystemExit(TERMINATED) from leaving
    return ModelBundle.load(run_folder(cfg) / "bundle")
