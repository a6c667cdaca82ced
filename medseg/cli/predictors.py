"""What `predict` segments with: a bundle's networks or a classical method, as the options say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from medseg.baselines.fitting import MAX_CASES, FittedBaseline, fit_baseline
from medseg.baselines.predictor import Baseline
from medseg.cli.console import console, counting
from medseg.config.build import accepts, build
from medseg.core.atomic import write_text
from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import Predictor, Source
from medseg.core.segmentation import class_map
from medseg.inference.algorithm import Algorithm, ClassicalAlgorithm
from medseg.inference.bundle_predictor import predictor_of
from medseg.inference.corrected import Corrected
from medseg.inference.ensemble import load_bundles
from medseg.inference.postprocess import Postprocess


@dataclass(frozen=True)
class Chosen:
    """What segments, and what it is called.

    Args:
        make: the predictor; it is made when all else is known to be in order.
        algorithm: name and version for the results.
        notice: a warning to be shown; "" if none.
        num_channels: channels of the images it takes; None if it takes any.
    """

    make: Callable[[], Predictor]
    algorithm: Algorithm
    notice: str = ""
    num_channels: int | None = None


def choose_predictor(cfg: DictConfig) -> Chosen:
    """The predictor of the options `bundle` or `baseline`.

    Raises:
        ConfigError: both or neither are given, or `fit_on` without a baseline.
    """
    if cfg.bundle is None and not cfg.baseline:
        raise ConfigError(
            "bundle", "has no value", "set bundle=<folder of a model>, or baseline=otsu"
        )
    if cfg.bundle is not None and cfg.baseline:
        raise ConfigError(
            "baseline",
            f"is given beside bundle={cfg.bundle}",
            "leave one of them out: either segments by itself",
        )
    if cfg.bundle is None:
        return _chosen_baseline(cfg)
    if cfg.fit_on is not None:
        raise ConfigError("fit_on", "is given without a baseline", "train a bundle with train")
    bundle = load_bundles(cfg.bundle)
    make = partial(
        predictor_of,
        bundle,
        inference=build(cfg.inference),
        postprocess=build(cfg.postprocess),
        objects=build(cfg.get("objects")),
    )
    return Chosen(make, bundle, bundle.notice, bundle.num_channels)


def _chosen_baseline(cfg: DictConfig) -> Chosen:
    baseline: Baseline = build(cfg.baseline)
    if cfg.fit_on is not None:
        fitted = _fitted(cfg, baseline)
        baseline = fitted.baseline
        path = Path(cfg.paths.output) / "baseline.yaml"
        write_text(path, _as_option(cfg, fitted))
        scores = ", ".join(f"{name} {value:.3f}" for name, value in fitted.dice.items())
        console.print(
            f"fitted on {fitted.num_cases} cases: Dice {scores}; parameters in {path}",
            soft_wrap=True,
            markup=False,
        )
    algorithm = ClassicalAlgorithm(baseline.name)
    rules: Postprocess | None = build(cfg.postprocess)
    if rules is None:
        return Chosen(lambda: baseline, algorithm)
    corrected = Corrected(baseline, rules)
    return Chosen(lambda: corrected, algorithm)


def _fitted(cfg: DictConfig, baseline: Baseline) -> FittedBaseline:
    node = cfg.source.copy()
    if not accepts(OmegaConf.merge(node, {"folder": None}), "folder"):
        raise ConfigError(
            "fit_on", f"cannot be read by {node._target_}", "set source=folder, which takes folders"
        )
    with open_dict(node):
        node.folder = str(cfg.fit_on)
    source: Source = build(node)
    cases = [case for case in source.cases() if not case.is_held_out]
    labels = baseline.label_set if baseline.labels else source.describe().labels
    with counting("fitting", min(len(cases), MAX_CASES)) as step:
        return fit_baseline(baseline, cases, labels or _numbered(cases), on_progress=step)


def _numbered(cases: list[Case]) -> LabelSet:
    """Labels for references whose numbers nobody names; the first few cases tell how many."""
    highest = 1
    for case in cases[:5]:
        if case.read_reference is not None:
            highest = max(highest, int(class_map(case.read_reference()).array.max()))
    return LabelSet.from_names(["background", *(f"label_{n}" for n in range(1, highest + 1))])


def _as_option(cfg: DictConfig, fitted: FittedBaseline) -> str:
    """The fitted baseline as a file for ./conf/baseline, so that others can predict with it."""
    node = OmegaConf.to_container(cfg.baseline, resolve=True)
    assert isinstance(node, dict)
    baseline = fitted.baseline
    method = node["method"]
    for key in method:
        if not key.startswith("_"):
            value = getattr(baseline.method, key)
            method[key] = list(value) if isinstance(value, tuple) else value
    node["classes"] = None if baseline.classes is None else list(baseline.classes)
    node["labels"] = dict(baseline.labels or {})
    node |= {"apart_mm": baseline.apart_mm, "smallest_mm3": baseline.smallest_mm3}
    scores = ", ".join(f"{name} {value:.4f}" for name, value in fitted.dice.items())
    head = f"# Fitted on {fitted.num_cases} cases, Dice over their voxels: {scores}.\n"
    return head + yaml.safe_dump(node, sort_keys=False, default_flow_style=None)
