"""Whether an exported network gives what PyTorch gives, on patches of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import MedsegError
from medseg.core.labels import LabelSet
from medseg.core.volume import Volume
from medseg.data.plan import Plan
from medseg.inference.engines import Engine
from medseg.tasks.decoding import decode
from medseg.transforms.preprocess import preprocess

MAX_DIFFERENCE = 1e-3
"""In standard deviations of an output: sums in another order differ in the sixth digit, and deep
networks stretch that.
"""
MAX_CHANGED = 1e-4
"""Share of the voxels whose label may change, where two classes are equal to rounding."""


@dataclass(frozen=True)
class Parity:
    """How an export compares with PyTorch in single precision.

    Args:
        num_patches: that were compared.
        difference: largest between two logits, in standard deviations of all logits.
        changed: share of the voxels with another label, or of the objects that the other engine
            does not find.
        num_objects: that were found by both together; None of networks that give labels.
    """

    num_patches: int
    difference: float
    changed: float
    num_objects: int | None = None

    def __str__(self) -> str:
        what = "labels" if self.num_objects is None else f"{self.num_objects} objects"
        return (
            f"{self.num_patches} patches, largest difference {self.difference:.1e} of the outputs' "
            f"deviation, {self.changed:.1e} of the {what} differ"
        )

    def require(self, name: str, *, max_changed: float) -> None:
        """Raises an error if it is too large.

        Args:
            name: of the format.
            max_changed: largest share that may change.

        Raises:
            MedsegError: the export deviates.
        """
        if self.difference > MAX_DIFFERENCE or self.changed > max_changed:
            raise MedsegError(
                f"format {name}",
                f"deviates from PyTorch ({self}); at most {MAX_DIFFERENCE:.0e} and "
                f"{max_changed:.0e} are accepted",
                "leave this format out; nothing was written",
                code="E_EXPORT",
            )


def require_parity(
    given: Engine, wanted: Engine, patches: Sequence[Tensor], labels: LabelSet
) -> Parity:
    """Compares on every patch.

    Args:
        given: the exported networks.
        wanted: PyTorch's.
        patches: (1, C, *patch) each.
        labels: of the channels.

    Raises:
        MedsegError: the export deviates.
    """
    largest, changed, voxels = 0.0, 0, 0
    for patch in patches:
        reference = wanted(patch)
        logits = given(patch)
        scale = max(float(reference.std()), 1e-6)
        difference = float((logits - reference).abs().max()) / scale
        largest = max(largest, difference if isfinite(difference) else inf)
        before, after = (decode(values, labels, axis=1) for values in (reference, logits))
        changed += int((before != after).sum())
        voxels += before.numel()
    parity = Parity(len(patches), largest, changed / voxels)
    parity.require(given.name, max_changed=MAX_CHANGED)
    return parity


def patches_of(volumes: Sequence[Volume], plan: Plan, *, per_volume: int = 4) -> list[Tensor]:
    """Patches (1, C, *patch) of images as the network sees them, spread over each image."""
    size = tuple(plan.patch_size or ())
    patches = []
    for volume in volumes:
        image = torch.from_numpy(preprocess(volume, plan).array)
        if len(size) == 2:
            image = image.movedim(3, 1)  # slices first among the axes
        extents = image.shape[-len(size) :]
        for n in range(per_volume):
            share = (n + 0.5) / per_volume
            part = image
            if len(size) == 2:
                part = part[:, int(share * image.shape[1])]
            for axis, (extent, wanted) in enumerate(zip(extents, size, strict=True)):
                at = part.ndim - len(size) + axis
                start = int(share * max(0, extent - wanted))
                part = part.narrow(at, start, min(extent, wanted))
            sides: list[int] = []
            for extent, wanted in zip(
                reversed(part.shape[-len(size) :]), reversed(size), strict=True
            ):
                sides += [0, wanted - extent]
            patches.append(torch.nn.functional.pad(part, sides)[None].contiguous())
    return patches


def noise_patches(plan: Plan, *, in_channels: int, seed: int = 0) -> list[Tensor]:
    """Smooth noise at two scales, for bundles without images at hand."""
    rng = np.random.default_rng(seed)
    size = tuple(plan.patch_size or ())
    patches = []
    for step in (4, 16):
        coarse = torch.from_numpy(
            rng.normal(size=(1, in_channels, *(max(2, n // step) for n in size))).astype(np.float32)
        )
        mode = {2: "bilinear", 3: "trilinear"}[len(size)]
        patches.append(torch.nn.functional.interpolate(coarse, size, mode=mode) * 1.5)
    return patches
