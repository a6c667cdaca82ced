"""The predictor that a bundle needs: of classes, or of objects; or that several together need."""

from __future__ import annotations

from omegaconf import DictConfig

from medseg.bundle import ModelBundle
from medseg.config.build import build
from medseg.core.errors import ConfigError
from medseg.core.protocols import Predictor
from medseg.inference.ensemble import BundleGroup, EnsemblePredictor
from medseg.inference.object_predictor import ObjectPredictor
from medseg.inference.predictor import NetworkPredictor


def predictor_of(
    bundle: ModelBundle | BundleGroup, cfg: DictConfig, *, device: str | None = None
) -> Predictor:
    """Built from the sections of a configuration that it has use for.

    Args:
        bundle: loaded bundle, or several.
        cfg: with inference, objects and postprocess.
        device: "cpu" or "cuda"; None takes a GPU where there is one.

    Raises:
        ConfigError: an option that objects cannot be predicted with.
    """
    if isinstance(bundle, BundleGroup):
        return EnsemblePredictor(
            bundle,
            inference=build(cfg.inference),
            postprocess=build(cfg.postprocess),
            device=device,
        )
    if bundle.task_kind == "label_map":
        return NetworkPredictor(
            bundle,
            inference=build(cfg.inference),
            postprocess=build(cfg.postprocess),
            device=device,
        )
    if cfg.inference.tta != "none":
        raise ConfigError(
            "inference.tta",
            f"is {cfg.inference.tta}, but objects of mirrored images are not averaged",
            "leave it out for bundles that find objects",
        )
    if cfg.inference.engine not in ("torch", "auto"):
        raise ConfigError(
            "inference.engine",
            f"is {cfg.inference.engine}, but networks that find objects run in torch alone",
            "leave it out for bundles that find objects",
        )
    return ObjectPredictor(bundle, objects=build(cfg.objects), device=device)
