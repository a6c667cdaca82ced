"""One case through one bundle: image in, label map and probabilities on the input grid out, without
ever holding all logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.bundle import ModelBundle
from medseg.config.build import build_restricted
from medseg.core.errors import BundleError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.protocols import ResultKind
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.core.volume import Volume
from medseg.inference.bundle_networks import BundleNetworks
from medseg.inference.cases import Segmented
from medseg.inference.joint import Joint, shares_of
from medseg.inference.memory import Progress
from medseg.inference.postprocess import Postprocess
from medseg.inference.precision import best_device, best_precision
from medseg.inference.sliding_window import SlidingWindow
from medseg.inference.upsample import upsample_labels, upsample_probabilities
from medseg.transforms.preprocess import Preprocessed
from medseg.transforms.restore import turned_shape


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """Logits of one image in network space.

    Args:
        logits: (channels, I, J, K), on the predictor's device.
        source: grid of the image.
    """

    logits: Tensor
    source: Geometry


class NetworkPredictor:
    """Segments cases with the networks of a bundle; several folds are averaged as logits.

    Args:
        bundle: loaded bundle.
        inference: how images are covered with windows, and within which memory.
        postprocess: how the label map is corrected; None does what the bundle says.
        device: "cpu" or "cuda"; None takes a GPU where there is one.
        precision: "bf16-mixed", "16-mixed" or "32-true"; None does what `inference` says.
        on_progress: told before the first window of each image and after every few.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        inference: SlidingWindow | None = None,
        postprocess: Postprocess | None = None,
        device: str | None = None,
        precision: str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.bundle = bundle
        self.inference = inference or SlidingWindow()
        self.postprocess = postprocess or postprocess_of(bundle)
        self.device = device or best_device()
        self.precision = precision or self.inference.precision or best_precision(self.device)
        self.on_progress = on_progress
        self.networks = BundleNetworks(
            bundle,
            inference=self.inference,
            postprocess=self.postprocess,
            device=self.device,
            precision=self.precision,
        )
        weights = shares_of(self.inference.weights, 1, num_channels=bundle.labels.num_outputs)
        self._joint = Joint([self.networks], weights=weights, postprocess=self.postprocess)

    def predict(self, case: Case) -> LabelMap:
        """Label map on the grid of the case's image."""
        return self.predict_volume(case.read_image())

    def predict_volume(self, volume: Volume) -> LabelMap:
        """Label map on the grid of the volume."""
        result = self.segment_prepared(self.prepare(volume)).result
        assert isinstance(result, LabelMap)
        return result

    def predict_with_probabilities(self, case: Case) -> tuple[LabelMap, ProbabilityMap]:
        """Label map and probabilities on the grid of the case's image, from one run of the network.

        Probabilities are calibrated with the bundle's temperature and not post-processed.
        """
        prepared = self.prepare(case.read_image())
        found = self.segment_prepared(prepared, wants=["probabilities"])
        assert isinstance(found.result, LabelMap)
        assert found.probabilities is not None
        return found.result, found.probabilities

    def prepare(self, volume: Volume) -> Preprocessed:
        """The volume as the network sees it: all that can be done before the network is free."""
        return self.networks.prepare(volume)

    def segment_prepared(
        self, prepared: Preprocessed, *, wants: Collection[ResultKind] = ()
    ) -> Segmented:
        """Label map of a prepared image, and what else is wanted."""
        return self._joint.segment([prepared], wants=wants, on_progress=self.on_progress)

    def network_output(self, volume: Volume) -> NetworkOutput:
        """Logits of a volume in network space, as a whole: for choices that need them all."""
        prepared = self.prepare(volume)
        image = torch.from_numpy(prepared.array)
        logits = self.networks.logits(image, self.networks.tiling(prepared))
        return NetworkOutput(logits, prepared.source)

    def logits(self, image: Tensor) -> Tensor:
        """Mean logits (channels, I, J, K) of all folds of a preprocessed image (C, I, J, K)."""
        return self.networks.logits(image)

    def label_map(self, output: NetworkOutput) -> LabelMap:
        """Post-processed label map on the grid of the image."""
        rule = self._joint.rule
        classes = upsample_labels(
            output.logits,
            turned_shape(output.source, self.bundle.plan.orientation),
            paints=rule.paints,
            offsets=rule.offsets,
            num_classes=rule.num_classes,
        )
        return self._joint.finished(classes, output.source)

    def probability_map(self, output: NetworkOutput) -> ProbabilityMap:
        """Calibrated probabilities on the grid of the image; of regions, with a background before
        them that is 1 minus the likeliest.
        """
        labels = self.bundle.labels
        shares = upsample_probabilities(
            output.logits,
            turned_shape(output.source, self.bundle.plan.orientation),
            activation=self._activation,
            num_maps=labels.num_outputs + bool(labels.regions),
        )
        return self._joint.share_map(shares, output.source)

    def _activation(self, logits: Tensor) -> Tensor:
        shares = self._joint.measures[0].shares(logits)
        if not self.bundle.labels.regions:
            return shares
        return torch.cat([1 - shares.amax(1, keepdim=True), shares], dim=1)


def postprocess_of(bundle: ModelBundle) -> Postprocess:
    """What a bundle says is to be done to its label maps.

    Raises:
        BundleError: it cannot be understood.
    """
    node = {"_target_": f"{Postprocess.__module__}.Postprocess", **bundle.postprocess}
    try:
        rules: Postprocess = build_restricted(node, packages=(Postprocess.__module__,), extra={})
        rules.logit_offsets(bundle.labels)
    except MedsegError as error:
        raise BundleError(
            bundle.folder / "card.yaml", f"postprocess: {error}", "set postprocess=none"
        ) from error
    return rules
