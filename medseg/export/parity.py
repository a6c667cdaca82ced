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
"""In standard deviations of the logits: sums in another order differ in the sixth digit, and deep
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
        changed: share of the voxels with another label.
    """

    num_patches: int
    difference: float
    changed: float

    def __str__(self) -> str:
        return (
            f"{self.num_patches} patches, largest difference {self.difference:.1e} of the logits' "
            f"deviation, {self.changed:.1e} of the labels differ"
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
    if parity.difference > MAX_DIFFERENCE or parity.changed > MAX_CHANGED:
        raise MedsegError(
            f"format {given.name}",
            f"deviates from PyTorch ({parity}); at most {MAX_DIFFERENCE:.0e} and "
            f"{MAX_CHANGED:.0e} are accepted",
            "leave this format out; nothing was written",
            code="E_EXPORT",
        )
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
