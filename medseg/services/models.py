"""Models that a service offers: a bundle, the rule of its series, and how its results are written.

Each is loaded once, when its first series comes. One that does not fit into the memory for a case
is tried again with less, before the case is given up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medseg import __version__
from medseg.baselines.predictor import Baseline
from medseg.config.build import build
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.identity import Case
from medseg.core.protocols import Predictor, Writer
from medseg.dicom.deidentify import BasicProfile
from medseg.inference.algorithm import Algorithm, ClassicalAlgorithm, build_writers
from medseg.inference.bundle_predictor import finds_objects, predictor_of, require_use_for
from medseg.inference.cases import Segmented, segment, unexpected_error
from medseg.inference.corrected import Corrected
from medseg.inference.ensemble import load_bundles
from medseg.inference.postprocess import Postprocess
from medseg.services.jobs import job_key
from medseg.services.rules import SeriesRule

_log = logging.getLogger(__name__)

BuildPredictor = Callable[["ModelRecipe", Mapping[str, Any]], Predictor]


@dataclass(frozen=True)
class ModelRecipe:
    """Everything another process needs to build the same model.

    Args:
        name: of the model among those of the service; part of the file names if there are several.
        bundle: folder, or folders of bundles that segment together; "" for a baseline.
        sha256: of the bundle or bundles, as checked when the service started; of a baseline, of its
            options.
        rule: which series it is for.
        inference, postprocess: nodes of the configuration; empty for what the bundle says.
        objects: node of how objects are found; empty for bundles that find none.
        output: nodes of the writers by name.
        deidentify: node of the profile that results go out under; empty for none.
        device: "cpu" or "cuda"; None takes a GPU where there is one.
        baseline: node of a classical method that segments instead of a bundle.
    """

    name: str
    bundle: str | Sequence[str]
    sha256: str
    rule: SeriesRule = field(default_factory=SeriesRule)
    inference: Mapping[str, Any] = field(default_factory=dict)
    postprocess: Mapping[str, Any] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    deidentify: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    baseline: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config_hash(self) -> str:
        """Of the options that decide what a result looks like."""
        further = [node for node in (self.objects, self.deidentify) if node]
        return job_key(self.inference, self.postprocess, self.output, *further)


def build_network_predictor(recipe: ModelRecipe, options: Mapping[str, Any]) -> Predictor:
    """The bundle's networks, some options of inference or the device replaced; or the baseline.

    Raises:
        BundleError: the bundle was changed since the service started, or is damaged.
    """
    if recipe.baseline:
        baseline: Baseline = build(recipe.baseline)
        rules: Postprocess | None = build(recipe.postprocess)
        return baseline if rules is None else Corrected(baseline, rules)
    bundle = load_bundles(recipe.bundle)
    if bundle.sha256 != recipe.sha256:
        raise ConfigError(
            f"bundle {recipe.bundle}",
            "is not the bundle any more that the service was started with",
            "start the service again to use the new one",
            code="E_BUNDLE",
        )
    device = options.get("device", recipe.device)
    inference = build({**recipe.inference, **options.get("inference", {})})
    return predictor_of(
        bundle,
        inference=inference,
        postprocess=build(recipe.postprocess),
        objects=build(recipe.objects) if recipe.objects else None,
        device=device,
    )


class LoadedModel:
    """A recipe's predictor and writers, built when they are first needed.

    Args:
        recipe: what to build.
        build_predictor: builds it; other than networks in tests and for baselines.
    """

    def __init__(
        self, recipe: ModelRecipe, *, build_predictor: BuildPredictor = build_network_predictor
    ) -> None:
        self.recipe = recipe
        self._build = build_predictor
        self._predictor: Predictor | None = None
        self._writers: Sequence[Writer] | None = None
        self._profile: BasicProfile | None = None

    @property
    def writers(self) -> Sequence[Writer]:
        if self._writers is None:
            self._writers = build_writers(self.recipe.output, _algorithm(self.recipe))
        return self._writers

    @property
    def deidentify(self) -> BasicProfile | None:
        if self._profile is None and self.recipe.deidentify:
            self._profile = build(self.recipe.deidentify)
        return self._profile

    def load(self) -> Predictor:
        if self._predictor is None:
            self._predictor = self._build(self.recipe, {})
        return self._predictor

    def segment(self, case: Case) -> tuple[Segmented, str]:
        """The result, and what had to be changed to get it ("" if nothing).

        Raises:
            MedsegError: it cannot be segmented; E_MEMORY if no step needs little enough.
        """
        error: MedsegError | None = None
        for note, options in (("", {}), *_LADDER):
            try:
                predictor = self.load() if not note else self._build(self.recipe, options)
                return segment(predictor, case, writers=self.writers), note
            except MedsegError as problem:
                error = problem
            except Exception as problem:
                error = unexpected_error(case, problem)
            if error.code != "E_MEMORY":
                raise error
            _log.warning("%s does not fit into the memory; trying with less", case.key)
            _free_memory()
        assert error is not None
        raise error


# One window after the other needs less than several at once; the last step needs no GPU.
_LADDER: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("one window at a time, for want of memory", {"inference": {"window_batch": 1}}),
    (
        "on the CPU, for want of memory",
        {"inference": {"window_batch": 1}, "device": "cpu"},
    ),
)


def recipe_of(
    name: str,
    bundle: str | Sequence[str],
    *,
    rule: SeriesRule,
    inference: Mapping[str, Any],
    postprocess: Mapping[str, Any],
    output: Mapping[str, Any],
    objects: Mapping[str, Any] | None = None,
    deidentify: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> ModelRecipe:
    """The recipe of a bundle as it is now, each file checked; see `ModelRecipe`.

    Raises:
        BundleError: the bundle is damaged or missing.
        ConfigError: there is no output, no key to de-identify with, or an option that the bundle
            has no use for.
    """
    _check_ways_out(output, deidentify)
    loaded = load_bundles(bundle)
    if inference:
        require_use_for(loaded, build(inference))
    return ModelRecipe(
        name,
        bundle,
        loaded.sha256,
        rule,
        inference=inference,
        postprocess=postprocess,
        objects=(objects or {}) if finds_objects(loaded) else {},
        output=output,
        deidentify=deidentify or {},
        device=device,
    )


def baseline_recipe(
    baseline: Mapping[str, Any],
    *,
    postprocess: Mapping[str, Any],
    output: Mapping[str, Any],
    deidentify: Mapping[str, Any] | None = None,
) -> ModelRecipe:
    """The recipe of a classical method, for every series.

    Raises:
        ConfigError: there is no output, no key to de-identify with, or a rule of post-processing
            that is for networks.
    """
    _check_ways_out(output, deidentify)
    rules: Postprocess | None = build(postprocess)
    if rules is not None:
        Corrected(build(baseline), rules)
    sha256 = job_key("baseline", __version__, baseline)
    return ModelRecipe(
        "model",
        "",
        sha256,
        postprocess=postprocess,
        output=output,
        deidentify=deidentify or {},
        baseline=baseline,
    )


def _check_ways_out(output: Mapping[str, Any], deidentify: Mapping[str, Any] | None) -> None:
    if not output:
        raise ConfigError("output", "names no format", "set output=[dicom_seg]")
    if deidentify:
        profile: BasicProfile = build(deidentify)
        profile.load_key()  # told of now rather than with the first result


def _algorithm(recipe: ModelRecipe) -> Algorithm:
    """The bundle or the method that results are labelled with."""
    if recipe.baseline:
        baseline: Baseline = build(recipe.baseline)
        return ClassicalAlgorithm(baseline.name)
    return load_bundles(recipe.bundle)


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
