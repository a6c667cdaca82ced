"""The predictions that `evaluate` makes itself, with a bundle or a classical method."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from medseg.cli.console import console
from medseg.config.build import build
from medseg.config.check import check
from medseg.config.compose import compose
from medseg.core.errors import ConfigError

FOLDER = "predictions"
_EVERY_SCORE = 0.05
"""Average precision goes over all scores; hits are counted from `objects.min_score` on."""


@dataclass(frozen=True)
class Predicted:
    """Folders of predictions by the name that they are shown with.

    Args:
        folders: below <output>/predictions.
        is_complete: False if a case failed.
    """

    folders: dict[str, Path]
    is_complete: bool = True


def predict_to_score(cfg: DictConfig, keys: Collection[str]) -> Predicted:
    """Predicts the cases that have a reference with the bundle, unless predictions are given, and
    with the baseline.

    Args:
        cfg: of evaluate.
        keys: of the references.

    Raises:
        ConfigError: there are no images, or `fit_on` is given without a baseline.
    """
    from medseg.cli.predict import predict_folder, tell

    chosen = _chosen(cfg)
    if cfg.fit_on is not None and not cfg.baseline:
        raise ConfigError("fit_on", "is given without a baseline", "set baseline=otsu")
    images = cfg.source.get("folder")
    if cfg.fit_on and images and Path(cfg.fit_on).resolve() == Path(images).resolve():
        console.print(
            "fit_on names the cases that are scored: expect less on others", style="yellow"
        )
    folders = {}
    is_complete = True
    for name, bundle in chosen.items():
        place = Path(cfg.paths.output) / FOLDER
        folders[name] = place if len(chosen) == 1 else place / name
        options = _options(cfg, bundle, folders[name])
        is_complete = tell(predict_folder(options, keys=keys), folders[name]) and is_complete
    return Predicted(folders, is_complete)


def predicts(cfg: DictConfig) -> bool:
    """True if the options ask for predictions to be made."""
    return bool(_chosen(cfg))


def _chosen(cfg: DictConfig) -> dict[str, Any]:
    """The bundle or bundles of each model that predicts, None for the baseline, by its name."""
    from medseg.inference.ensemble import load_bundles  # imports torch

    chosen: dict[str, Any] = {}
    if cfg.predictions is None and cfg.bundle is not None:
        chosen[_plain(load_bundles(cfg.bundle).name)] = cfg.bundle
    if cfg.baseline:
        chosen[_plain(build(cfg.baseline).name)] = None
    return chosen


def _plain(name: str) -> str:
    """A name that can be a folder's."""
    return re.sub(r"[^\w.-]+", "_", name.lower()).strip("_.") or "model"


def _options(cfg: DictConfig, bundle: Any, folder: Path) -> DictConfig:
    """What predict would work with."""
    composition = compose("predict", [f"objects.min_score={_EVERY_SCORE}"])
    options = composition.config
    with open_dict(options):
        for name in ("source", "inference", "postprocess"):
            options[name] = cfg[name]
        options.bundle = bundle
        options.baseline = None if bundle else cfg.baseline
        options.fit_on = None if bundle else cfg.fit_on
        options.output.nifti.probabilities = bool(bundle and cfg.report and _has_classes(bundle))
        options.paths.output = str(folder)
    check(composition, command="predict")
    return options


def _has_classes(bundle: Any) -> bool:
    from medseg.inference.bundle_predictor import finds_objects
    from medseg.inference.ensemble import load_bundles

    return not finds_objects(load_bundles(bundle))
