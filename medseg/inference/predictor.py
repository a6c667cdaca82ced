"""One case through one bundle: image in, label map on the input grid out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medseg.bundle import ModelBundle
from medseg.core.errors import MedsegError
from medseg.core.identity import Case
from medseg.core.segmentation import LabelMap
from medseg.core.volume import Volume
from medseg.data.plan import Plan
from medseg.inference.postprocess import Postprocess
from medseg.inference.precision import autocast, best_device, best_precision
from medseg.inference.sliding_window import SlidingWindow
from medseg.inference.upsample import upsample_labels
from medseg.models.layout import in_fast_layout
from medseg.transforms.preprocess import preprocess
from medseg.transforms.restore import turn_back, turned_shape


class NetworkPredictor:
    """Segments cases with the networks of a bundle; several folds are averaged as logits.

    Args:
        bundle: loaded bundle.
        inference: how images are covered with windows.
        postprocess: what is removed from the label map; nothing by default.
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
        self.postprocess = postprocess or Postprocess()
        self.device = device or best_device()
        self.precision = precision or best_precision(self.device)
        self.networks: Sequence[nn.Module] = [
            in_fast_layout(network.to(self.device).eval(), self.device)
            for network in bundle.build_networks()
        ]
        self.mirror_axes = mirror_axes_in_network(bundle.plan, bundle.mirror_axes)

    def predict(self, case: Case) -> LabelMap:
        """Label map on the grid of the case's image."""
        return self.predict_volume(case.read_image())

    def predict_volume(self, volume: Volume) -> LabelMap:
        """Label map on the grid of the volume."""
        plan = self.bundle.plan
        ready = preprocess(volume, plan)
        logits = self.logits(torch.from_numpy(ready.array))
        shape = turned_shape(ready.source, plan.orientation)
        labels = upsample_labels(logits, shape)
        array = turn_back(labels, ready.source, orientation=plan.orientation)
        return self.postprocess.apply(LabelMap(array, volume.geometry, self.bundle.labels))

    def logits(self, image: Tensor) -> Tensor:
        """Mean logits of all folds, shape (classes, I, J, K).

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
                    out_channels=len(self.bundle.labels),
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


def mirror_axes_in_network(plan: Plan, mirror_axes: str) -> tuple[int, ...]:
    """Axes of network space that run along the patient axes named by letters of "RAS"."""
    if plan.orientation is None:
        # Images without a patient orientation: R and A stand for their two axes.
        axes = ["RAS".index(letter) for letter in mirror_axes]
    else:
        patient = ["RAS".find(c) if c in "RAS" else "LPI".find(c) for c in plan.orientation]
        axes = [patient.index("RAS".index(letter)) for letter in mirror_axes]
    return tuple(int(axis) for axis in np.unique(axes) if axis < plan.spatial_dims)
