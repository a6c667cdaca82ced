"""The predictor that a bundle needs: of classes, or of objects; or that several together need."""

from __future__ import annotations

from medseg.bundle import ModelBundle
from medseg.core.errors import ConfigError
from medseg.core.protocols import Predictor
from medseg.inference.ensemble import BundleGroup, EnsemblePredictor
from medseg.inference.object_predictor import ObjectPredictor
from medseg.inference.object_windows import ObjectWindows
from medseg.inference.postprocess import Postprocess
from medseg.inference.predictor import NetworkPredictor
from medseg.inference.sliding_window import SlidingWindow


def predictor_of(
    bundle: ModelBundle | BundleGroup,
    *,
    inference: SlidingWindow | None = None,
    postprocess: Postprocess | None = None,
    objects: ObjectWindows | None = None,
    device: str | None = None,
) -> Predictor:
    """Made of the options that it has use for.

    Args:
        bundle: loaded bundle, or several.
        inference: how images are covered with windows, and what computes the network; None takes
            the defaults.
        postprocess: how label maps are corrected; None does what the bundle says.
        objects: how objects are found; None takes the defaults.
        device: "cpu" or "cuda"; None takes a GPU where there is one.

    Raises:
        ConfigError: an option that objects cannot be predicted with.
    """
    inference = inference or SlidingWindow()
    require_use_for(bundle, inference)
    if finds_objects(bundle):
        return ObjectPredictor(
            bundle,
            objects=objects,
            tta=inference.tta,
            engine=inference.engine,
            device=device,
            precision=inference.precision,
        )
    if isinstance(bundle, BundleGroup):
        return EnsemblePredictor(
            bundle, inference=inference, postprocess=postprocess, device=device
        )
    return NetworkPredictor(bundle, inference=inference, postprocess=postprocess, device=device)


def finds_objects(bundle: ModelBundle | BundleGroup) -> bool:
    """Whether its results are objects."""
    first = bundle.bundles[0] if isinstance(bundle, BundleGroup) else bundle
    return first.task_kind != "label_map"


def require_use_for(bundle: ModelBundle | BundleGroup, inference: SlidingWindow) -> None:
    """Raises an error for an option that the bundle's networks cannot be run with.

    Raises:
        ConfigError: the first such option.
    """
    if not finds_objects(bundle):
        return
    for name, why in (
        ("weights", "the objects of several bundles count alike"),
        ("memory_budget_gib", "memory of objects follows the window, see objects.window_growth"),
    ):
        if getattr(inference, name) is not None:
            raise ConfigError(
                f"inference.{name}",
                f"is given, but {why}",
                "leave it out for bundles that find objects",
            )
