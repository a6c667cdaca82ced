"""What train and prepare share: data set, split, fingerprint, plan and cache."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from medseg.bundle import ModelBundle
from medseg.cli.console import console, counting
from medseg.cli.memory_plan import plan_for_memory
from medseg.cli.network_plan import plan_for_network
from medseg.cli.resuming import require_same_training
from medseg.cli.starting import adopted_plan, reasons_of, start_bundle
from medseg.config.build import allowed_packages, build, resolve_target
from medseg.core.atomic import write_text
from medseg.core.errors import ConfigError, LabelError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.references import ReferenceRule, with_references
from medseg.data.cache import CaseCache
from medseg.data.case_facts import FactsFolder
from medseg.data.fingerprint import Fingerprint, Measurement, measure
from medseg.data.oddities import find_oddities, refuse_leaks
from medseg.data.plan import Plan
from medseg.data.planning import make_plan
from medseg.data.readings import Readings
from medseg.data.spec import DatasetSpec
from medseg.data.split import Split, split_cases
from medseg.inference.precision import device_of
from medseg.training.checkpoint_files import CHECKPOINT_NAME, COARSE_FOLDER, has_checkpoint


@dataclass(frozen=True)
class Preparation:
    """Everything a training needs before its first step.

    Args:
        spec: the data set.
        labels: its classes.
        notice: what must be said about the data; "" if nothing.
        channel_names: as the configuration or the source says; empty if neither does.
        cases: labelled cases by key.
        split: who trains and who validates.
        fingerprint, plan: of all cases that are not held out, the same in every fold.
        cache: with all training and validation cases prepared.
        device: "cpu" or "cuda".
        start: the bundle whose weights to begin with; None for a random start.
    """

    spec: DatasetSpec
    labels: LabelSet
    notice: str
    channel_names: tuple[str, ...]
    cases: dict[str, Case]
    split: Split
    fingerprint: Fingerprint
    plan: Plan
    cache: CaseCache
    device: str
    start: ModelBundle | None

    @property
    def mirror_axes(self) -> str:
        """Patient axes along which training mirrors images: letters of "RAS"."""
        return self.spec.chosen_mirror_axes(self.labels)[0]


def run_folder(cfg: DictConfig) -> Path:
    """Where a run keeps what it makes."""
    return Path(cfg.paths.runs) / str(cfg.name) / f"fold_{cfg.fold}"


def prepare_data(cfg: DictConfig) -> Preparation:
    """Reads, checks and measures the data set, plans, and fills the cache; fingerprint, plan and
    split go to the run folder.

    The finished plan also replaces `cfg.plan`, so that options which refer to it have their values.
    """
    folder, cache_folder = run_folder(cfg), Path(cfg.paths.cache)
    device = device_of(str(cfg.trainer.accelerator))
    given: Plan = build(cfg.plan)
    spec: DatasetSpec = build(cfg.data)
    description = spec.source.describe()
    if description.notice:
        console.print(description.notice, style="bold yellow", markup=False)
    labels = spec.label_set()
    cases = with_references(spec.labelled_cases(), reference_rule(cfg, labels))
    without = [*description.orphan_labels, *description.absent_cases]
    if without:
        _warn(
            f"labels without an image, or listed without a file: {', '.join(without[:10])}"
            f"{' ...' if len(without) > 10 else ''}"
        )
    split = split_cases(cases, fold=cfg.fold, num_folds=spec.num_folds, seed=spec.split_seed)
    by_key = {case.key: case for case in cases}
    console.print(
        f"{spec.name}: {len(split.train)} cases to train on, {len(split.validation)} to validate, "
        f"{len(split.test)} held out; labels {', '.join(labels.names)}",
        markup=False,
    )
    threads = min(4, os.cpu_count() or 1)
    readings = Readings()
    with counting("reading cases", len(cases)) as step:
        # Cases that a fold validates count as well, so that all folds have one plan and can be
        # averaged (as nnU-Net does); held-out cases are only compared with the others.
        measured = measure(
            cases,
            labels,
            counted={case.key for case in cases if not case.is_held_out},
            num_threads=threads,
            on_progress=step,
            known=FactsFolder(cache_folder / "facts", labels),
            readings=readings,
        )
    fingerprint = measured.fingerprint
    _check_contents(spec, labels, measured, split)
    channel_names = tuple(spec.channel_names) or description.channel_names
    wanted, start = given, start_bundle(cfg)
    if start is not None:
        wanted = adopted_plan(
            given, start, num_channels=fingerprint.num_channels, channel_names=channel_names
        )
    plan = finished_plan(cfg, fingerprint, spec, labels, given=given, wanted=wanted, device=device)
    if any(has_checkpoint(place / CHECKPOINT_NAME) for place in (folder, folder / COARSE_FOLDER)):
        settings = OmegaConf.to_container(cfg, resolve=True)
        require_same_training(settings, split, folder=folder)  # type: ignore[arg-type]
    fingerprint.save(folder / "fingerprint.json", labels=labels)
    write_text(folder / "split.yaml", yaml.safe_dump(_plain(split.to_dict()), sort_keys=False))
    write_text(folder / "plan.yaml", plan.to_yaml())
    cache = CaseCache(cache_folder / "cases", plan=plan, num_classes=len(labels))
    used = [case for case in cases if not case.is_held_out]
    with counting("preparing cases", len(used)) as step:
        cache.prepare(used, num_threads=threads, on_progress=step, readings=readings)
    return Preparation(
        spec,
        labels,
        description.notice,
        channel_names,
        by_key,
        split,
        fingerprint,
        plan,
        cache,
        device,
        start,
    )


def finished_plan(
    cfg: DictConfig,
    fingerprint: Fingerprint,
    spec: DatasetSpec,
    labels: LabelSet,
    *,
    given: Plan,
    wanted: Plan,
    device: str,
) -> Plan:
    """A finished plan that fits the data, the network and the memory; it also replaces `cfg.plan`.

    Args:
        given: what was set by hand.
        wanted: that, and what a bundle to start from adds.
    """

    def planned(patch_voxels: float | None = None) -> Plan:
        open_patch = wanted if patch_voxels is None else replace(wanted, patch_size=None)
        plan = make_plan(
            fingerprint,
            modality=spec.modality,
            given=open_patch,
            device=device,
            patch_voxels=patch_voxels,
        )
        plan = replace(plan, reasons={**plan.reasons, **reasons_of(given, open_patch)})
        return plan_for_network(cfg, plan, given=given, labels=labels, device=device)

    return plan_for_memory(
        cfg,
        planned(),
        given=given,
        labels=labels,
        device=device,
        folder=Path(cfg.paths.cache) / "trials",
        replan=planned,
    )


def reference_rule(cfg: DictConfig, labels: LabelSet) -> ReferenceRule:
    """What the references of a training become; label maps where no task is configured."""
    if not cfg.get("task"):
        return ReferenceRule("label_map", labels)
    task: Any = resolve_target(cfg.task._target_, where="task", packages=allowed_packages())
    return ReferenceRule(
        getattr(task, "reference_kind", "label_map"),
        labels,
        cfg.task.get("instances_from", "reference"),
    )


def _check_contents(
    spec: DatasetSpec, labels: LabelSet, measured: Measurement, split: Split
) -> None:
    """Compares what the cases hold with what the data set is said to hold, and names odd ones.

    Raises:
        ConfigError: the names of the channels are too many or too few.
        InputError: an image is trained on and held out for testing.
        LabelError: there is nothing to learn.
    """
    refuse_leaks(measured.cases, split)
    for oddity in find_oddities(measured.cases, labels, split, modality=spec.modality):
        _warn(f"odd: {oddity}")
    names, fingerprint = spec.channel_names, measured.fingerprint
    if names and len(names) != fingerprint.num_channels:
        raise ConfigError(
            "data.channel_names",
            f"names {len(names)} channels, but the images have {fingerprint.num_channels}",
            "give one name per channel, or 'data.channel_names=[]'",
            code="E_CHANNELS",
        )
    absent = [
        label.name
        for label in labels.foreground
        if not any(
            case.class_voxels[label.class_id]
            for case in fingerprint.cases
            if case.key in split.train
        )
    ]
    if len(absent) == len(labels.foreground):
        raise LabelError(
            "data.source",
            f"no training case has a voxel of {', '.join(absent)}",
            "check the references and data.labels",
            code="E_EMPTY_LABEL",
        )
    if absent:
        _warn(f"no training case has a voxel of {', '.join(absent)}, so it cannot be learnt")


def _warn(text: str) -> None:
    console.print(text, style="yellow", markup=False)


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in content.items()
    }
