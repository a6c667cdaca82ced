"""One case through one bundle: image in, label map and probabilities on the input grid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from medseg.bundle import ModelBundle
from medseg.config.build import build_restricted
from medseg.core.errors import BundleError, MedsegError
from medseg.core.geometry import Geometry
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap, ProbabilityMap
from medseg.core.volume import Volume
from medseg.data.plan import Plan
from medseg.inference.postprocess import Postprocess
from medseg.inference.precision import autocast, best_device, best_precision
from medseg.inference.sliding_window import SlidingWindow
from medseg.inference.upsample import upsample_labels, upsample_probabilities
from medseg.models.layout import in_fast_layout
from medseg.tasks.decoding import probabilities
from medseg.transforms.preprocess import preprocess
from medseg.transforms.restore import turn_back, turned_shape


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
        inference: how images are covered with windows.
        postprocess: how the label map is corrected; None does what the bundle says.
        device: "cpu" or "cuda"; None takes a GPU where there is one.
        precision: "bf16-mixed", "16-mixed" or "32-true"; None takes the fastest native one.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        inference: SlidingWindow | None = None,
        postprocess: Postprocess | None = None,
        device: str | None = None,
        precision: str | None = None,
    ) -> None:
        self.bundle = bundle
        self.inference = inference or SlidingWindow()
        self.postprocess = postprocess or postprocess_of(bundle)
        self.device = device or best_device()
        self.precision = precision or best_precision(self.device)
        self.networks: Sequence[nn.Module] = [
            self.postprocess.refined(
                in_fast_layout(network.to(self.device).eval(), self.device), bundle.labels
            )
            for network in bundle.build_networks()
        ]
        self.mirror_axes = mirror_axes_in_network(bundle.plan, bundle.mirror_axes)

    def predict(self, case: Case) -> LabelMap:
        """Label map on the grid of the case's image."""
        return self.predict_volume(case.read_image())

    def predict_volume(self, volume: Volume) -> LabelMap:
        """Label map on the grid of the volume."""
        return self.label_map(self.network_output(volume))

    def predict_with_probabilities(self, case: Case) -> tuple[LabelMap, ProbabilityMap]:
        """Label map and probabilities on the grid of the case's image, from one run of the network.

        Probabilities are calibrated with the bundle's temperature and not post-processed.
        """
        output = self.network_output(case.read_image())
        return self.label_map(output), self.probability_map(output)

    def network_output(self, volume: Volume) -> NetworkOutput:
        """Logits of a volume in network space."""
        ready = preprocess(volume, self.bundle.plan)
        return NetworkOutput(self.logits(torch.from_numpy(ready.array)), ready.source)

    def label_map(self, output: NetworkOutput) -> LabelMap:
        """Post-processed label map on the grid of the image."""
        labels, orientation = self.bundle.labels, self.bundle.plan.orientation
        classes = upsample_labels(
            output.logits,
            turned_shape(output.source, orientation),
            paints=[region.paints for region in labels.regions] or None,
            offsets=self.postprocess.logit_offsets(labels),
            num_classes=len(labels),
        )
        array = turn_back(classes, output.source, orientation=orientation)
        return self.postprocess.apply(LabelMap(array, output.source, labels))

    def probability_map(self, output: NetworkOutput) -> ProbabilityMap:
        """Calibrated probabilities on the grid of the image; of regions, with a background before
        them that is 1 minus the likeliest.
        """
        labels, orientation = self.bundle.labels, self.bundle.plan.orientation
        shares = upsample_probabilities(
            output.logits,
            turned_shape(output.source, orientation),
            activation=partial(
                probabilities, labels=labels, axis=1, temperature=self.bundle.temperature
            ),
        )
        if labels.regions:
            shares = np.concatenate([1 - shares.max(axis=0, keepdims=True), shares])
            names = [region.name for region in labels.regions]
            labels = LabelSet.from_names([labels.names[0], *names])
        array = turn_back(shares, output.source, orientation=orientation)
        return ProbabilityMap(array, output.source, labels)

    def logits(self, image: Tensor) -> Tensor:
        """Mean logits of all folds, shape (channels, I, J, K).

        Args:
            image: preprocessed, shape (C, I, J, K).

        Raises:
            MedsegError: a logit is not finite.
        """
        image = image.to(self.device)
        total: Tensor | None = None
        with torch.inference_mode(), autocast(self.device, self.precision):
            for network in self.networks:
                part = self.inference.logits(
                    network,
                    image,
                    patch_size=tuple(self.bundle.plan.patch_size or ()),
                    out_channels=self.bundle.labels.num_outputs,
                    mirror_axes=self.mirror_axes,
                    stride=free_stride(network),
                )
                total = part if total is None else total + part
        assert total is not None
        if not torch.isfinite(total).all():
            raise MedsegError(
                "network",
                f"gives values that are not finite with precision {self.precision}",
                "predict with precision 32-true, and look at the training's loss",
                code="E_PREDICTION",
            )
        return total / len(self.networks)


def free_stride(network: nn.Module) -> tuple[int, ...] | None:
    """What extents of the network's input must be multiples of; None if they cannot be chosen."""
    if getattr(network, "full_size", None) is not None:
        return None  # positions are learnt for one extent
    stride: tuple[int, ...] | None = getattr(network, "stride", None)
    return stride


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


def mirror_axes_in_network(plan: Plan, mirror_axes: str) -> tuple[int, ...]:
    """Axes of network space that run along the patient axes named by letters of "RAS"."""
    if plan.orientation is None:
        # Images without a patient orientation: R and A stand for their two axes.
        axes = ["RAS".index(letter) for letter in mirror_axes]
    else:
        patient = ["RAS".find(c) if c in "RAS" else "LPI".find(c) for c in plan.orientation]
        axes = [patient.index("RAS".index(letter)) for letter in mirror_axes]
    return tuple(int(axis) for axis in np.unique(axes) if axis < plan.spatial_dims)
