"""Several bundles as one predictor: networks, plans and folds may differ, the classes may not."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.bundle import ModelBundle
from medseg.core.components import thing_ids
from medseg.core.errors import ConfigError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.core.volume import Volume
from medseg.inference.bundle_networks import BundleNetworks
from medseg.inference.cases import Segmented
from medseg.inference.joint import Joint, shares_of
from medseg.inference.memory import Progress
from medseg.inference.postprocess import Postprocess
from medseg.inference.precision import best_device, best_precision
from medseg.inference.predictor import postprocess_of
from medseg.inference.sliding_window import SlidingWindow
from medseg.transforms.preprocess import Preprocessed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleGroup:
    """Bundles that segment together, as results name them.

    Args:
        bundles: two or more.

    Raises:
        ConfigError: they differ in what they segment or in the images that they take.
    """

    bundles: tuple[ModelBundle, ...]

    def __post_init__(self) -> None:
        first = self.bundles[0]
        finds_objects = first.task_kind == "instances"
        for bundle in self.bundles:
            if bundle.task_kind == "panoptic":
                raise ConfigError(
                    "bundle",
                    f"{bundle.folder} finds objects and classes, which are not averaged together",
                    "give this bundle alone",
                )
            if bundle.task_kind != first.task_kind:
                raise ConfigError(
                    "bundle",
                    f"{bundle.folder} gives {_RESULTS[bundle.task_kind]}, "
                    f"but {first.folder} gives {_RESULTS[first.task_kind]}",
                    "give bundles of one kind",
                )
            if _meaning(bundle.labels) != _meaning(first.labels):
                raise ConfigError(
                    "bundle",
                    f"{bundle.folder} segments {_named(bundle.labels)}, "
                    f"but {first.folder} segments {_named(first.labels)}",
                    "give bundles of the same classes in the same order",
                )
            if finds_objects and thing_ids(bundle.labels) != thing_ids(first.labels):
                raise ConfigError(
                    "bundle",
                    f"{bundle.folder} finds {_things(bundle.labels)} one by one, "
                    f"but {first.folder} finds {_things(first.labels)}",
                    "give bundles with the same `thing: true` in their labels",
                )
            if bundle.num_channels != first.num_channels:
                raise ConfigError(
                    "bundle",
                    f"{bundle.folder} takes images of {bundle.num_channels} channels, "
                    f"{first.folder} of {first.num_channels}",
                    "give bundles of the same images",
                )
            # Classes are averaged on the grid of the scan, objects on that grid turned as the plan.
            order = list if finds_objects else set
            if order(bundle.plan.orientation or "") != order(first.plan.orientation or ""):
                raise ConfigError(
                    "bundle",
                    f"{bundle.folder} sees images as {bundle.plan.orientation}, "
                    f"{first.folder} as {first.plan.orientation}",
                    "give bundles whose plans have the same `orientation`",
                )

    @property
    def name(self) -> str:
        return " + ".join(bundle.name for bundle in self.bundles)

    @property
    def version(self) -> str:
        return ", ".join(dict.fromkeys(bundle.version for bundle in self.bundles))

    @property
    def sha256(self) -> str:
        """Of those of the bundles."""
        return hashlib.sha256("".join(b.sha256 for b in self.bundles).encode()).hexdigest()

    @property
    def notice(self) -> str:
        return "\n".join(dict.fromkeys(b.notice for b in self.bundles if b.notice))

    @property
    def labels(self) -> LabelSet:
        return self.bundles[0].labels

    @property
    def num_channels(self) -> int:
        return self.bundles[0].num_channels


class EnsemblePredictor:
    """The mean of the calibrated probabilities of several bundles.

    Folds and mirrored images within a bundle are averaged as logits, as always.

    Args:
        group: the bundles.
        inference: how images are covered with windows; the same for all, weights of each bundle
            included.
        postprocess: of the common result; None does what the bundles say, if they agree.
        device, precision, on_progress: as for `NetworkPredictor`.

    Raises:
        ConfigError: weights do not fit.
    """

    def __init__(
        self,
        group: BundleGroup,
        *,
        inference: SlidingWindow | None = None,
        postprocess: Postprocess | None = None,
        device: str | None = None,
        precision: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.group = group
        self.on_progress = on_progress
        inference = inference or SlidingWindow()
        device = device or best_device()
        rules = [postprocess or postprocess_of(bundle) for bundle in group.bundles]
        precision = precision or inference.precision or best_precision(device)
        members = [
            BundleNetworks(
                bundle,
                inference=inference,
                postprocess=own,
                device=device,
                precision=precision,
            )
            for bundle, own in zip(group.bundles, rules, strict=True)
        ]
        common = rules[0]
        if any(own != common for own in rules):
            logger.warning("the bundles are post-processed differently: together they are not")
            common = Postprocess()
        weights = shares_of(inference.weights, len(members), num_channels=group.labels.num_outputs)
        self._joint = Joint(members, weights=weights, postprocess=common)

    def predict(self, case: Case) -> LabelMap:
        """Label map on the grid of the case's image."""
        result = self.segment_prepared(self.prepare(case.read_image())).result
        assert isinstance(result, LabelMap)
        return result

    def predict_with_probabilities(self, case: Case) -> tuple[LabelMap, ProbabilityMap]:
        """Label map and mean probabilities on the grid of the case's image."""
        prepared = self.prepare(case.read_image())
        found = self.segment_prepared(prepared, wants=["probabilities"])
        assert isinstance(found.result, LabelMap)
        assert found.probabilities is not None
        return found.result, found.probabilities

    def prepare(self, volume: Volume) -> list[Preprocessed]:
        """The volume as the networks of each bundle see it."""
        prepared: list[Preprocessed] = []
        for n, member in enumerate(self._joint.members):
            same = [
                image
                for image, other in zip(prepared, self._joint.members[:n], strict=True)
                if other.bundle.plan == member.bundle.plan and other.coarse is member.coarse
            ]
            prepared.append(same[0] if same else member.prepare(volume))
        return prepared

    def segment_prepared(
        self, prepared: Sequence[Preprocessed], *, wants: Collection[ResultKind] = ()
    ) -> Segmented:
        """Label map of a prepared image, and what else is wanted."""
        return self._joint.segment(prepared, wants=wants, on_progress=self.on_progress)


def load_bundles(folders: str | Path | Sequence[str | Path]) -> ModelBundle | BundleGroup:
    """One bundle, or several that segment together; numbers are names as well.

    Raises:
        BundleError: one is missing or damaged.
        ConfigError: they do not belong together.
    """
    if isinstance(folders, str | Path):
        return ModelBundle.load(folders)
    bundles = tuple(ModelBundle.load(str(folder)) for folder in folders)
    if not bundles:
        raise ConfigError("bundle", "is an empty list", "set bundle=<folder>, or [A,B]")
    return bundles[0] if len(bundles) == 1 else BundleGroup(bundles)


_RESULTS = {"label_map": "the class of every voxel", "instances": "objects"}


def _meaning(labels: LabelSet) -> tuple[object, ...]:
    """What must be the same; codes and colours need not."""
    return labels.names, labels.regions


def _named(labels: LabelSet) -> str:
    names = ", ".join(label.name for label in labels.foreground)
    regions = ", ".join(region.name for region in labels.regions)
    return f"{names} as regions {regions}" if regions else names


def _things(labels: LabelSet) -> str:
    return ", ".join(labels.names[class_id] for class_id in thing_ids(labels))
