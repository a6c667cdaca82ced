"""A network that finds objects, its maps computed in another runtime than PyTorch.

What the network gives for an image (features, scores and shifts of anchors, prototypes, masks) has
the same extents for every patch, and is exported. What is made of it depends on what is seen:
suppression, features within boxes, the heads that read them, masks. That stays in PyTorch, and is
the network's own `detect` and `semantic_logits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.bundle import ModelBundle
from medseg.core.errors import BundleError, MedsegError
from medseg.inference.exported_networks import ExportedNetwork
from medseg.models.detection.objects import Detector, Output
from medseg.models.detection.outputs import nested


def sole_network(bundle: ModelBundle) -> nn.Module:
    """The network of a bundle that finds objects.

    Raises:
        BundleError: the bundle averages several networks, which objects cannot be.
    """
    networks = bundle.build_networks()
    if len(networks) != 1:
        raise BundleError(
            bundle.folder,
            f"holds {len(networks)} networks, whose objects cannot be averaged",
            "take the bundles of single folds, for prediction as bundle=[A,B,...]",
        )
    return networks[0]


class FiniteDetector:
    """A detector that refuses maps that are not finite, of which no objects would be made.

    Args:
        detector: the network, or one that another runtime computes.
        precision: that it computes in, for the message.
    """

    def __init__(self, detector: Detector | ExportedDetector, *, precision: str) -> None:
        self.detect = detector.detect
        self.semantic_logits = detector.semantic_logits
        self._maps = cast(Callable[[Tensor], dict[str, Output]], detector)
        self._precision = precision

    def __call__(self, image: Tensor) -> dict[str, Output]:
        """Outputs of an image (N, C, *S).

        Raises:
            MedsegError: one holds a value that is not finite.
        """
        outputs = self._maps(image)
        for found in outputs.values():
            for part in [found] if isinstance(found, Tensor) else found:
                if part.is_floating_point() and not torch.isfinite(part).all():
                    raise MedsegError(
                        "network",
                        f"gives values that are not finite with precision {self._precision}",
                        "set inference.precision=32-true unless it is, and look at the training's "
                        "loss",
                        code="E_PREDICTION",
                    )
        return outputs


class ExportedDetector:
    """A detector that takes images up to the extents of a patch, one at a time, on the CPU; its
    `detect` and `semantic_logits` are the network's own.

    Args:
        exported: computes the maps.
        network: of the same weights, in evaluation mode, for the rest.
        patch_size: extents that the exported network takes; smaller images are padded with zeros.
    """

    def __init__(
        self, exported: ExportedNetwork, network: nn.Module, *, patch_size: tuple[int, ...]
    ) -> None:
        detector = cast(Detector, network)
        self.precision = exported.precision
        self.detect = detector.detect
        self.semantic_logits = detector.semantic_logits
        self._exported = exported
        self._patch_size = patch_size

    def __call__(self, image: Tensor) -> dict[str, Output]:
        """Outputs of one image (1, C, *S), of the same names as the network's."""
        sides: list[int] = []
        for extent, size in zip(image.shape[2:], self._patch_size, strict=True):
            sides = [0, size - extent, *sides]
        found = self._exported(F.pad(image, sides))
        # Copies, since a runtime may use its memory again.
        return nested({name: torch.from_numpy(np.array(part)) for name, part in found.items()})
