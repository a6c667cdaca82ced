"""A training patch before it is changed: its voxels and what was drawn for it. Whoever makes
batches on the CPU finishes it there; beside a GPU all patches of a batch are sent there and
finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg.transforms.intensity import IntensityChange
from medseg.transforms.patches import Grid, sample


@dataclass(frozen=True, eq=False)
class PatchRecipe:
    """What was drawn for a patch.

    Args:
        patch_size: P.
        outside_label: label of positions beyond the image.
        intensity: change of the patch's brightness.
        grid: where the patch's voxels lie in the part; None if the voxels are the patch.
    """

    patch_size: tuple[int, ...]
    outside_label: int
    intensity: IntensityChange
    grid: Grid | None = None


@dataclass(frozen=True, eq=False)
class RawPatch:
    """What a patch is made from.

    Args:
        image: (C, *B) float32; the patch itself, or the part of the case that it is sampled from.
        labels: (*B), integers.
        recipe: what was drawn.
    """

    image: Tensor
    labels: Tensor
    recipe: PatchRecipe

    def finish(self, patch: Tensor, patch_labels: Tensor) -> None:
        """Fills the patch (C, *P) and its labels (*P) int64, on the device that the voxels lie on;
        one interpolation at most.
        """
        recipe, image = self.recipe, self.image
        if recipe.grid is None:
            patch_labels.copy_(self.labels)
        else:
            sample(
                self.image,
                self.labels,
                recipe.grid,
                patch,
                patch_labels,
                outside_label=recipe.outside_label,
            )
            image = patch
        changed = recipe.intensity.apply(image)
        if changed is not patch:
            patch.copy_(changed)


@dataclass(frozen=True, eq=False)
class RawBatch:
    """The patches of a batch, in two tensors that are sent as a whole: each tensor that a process
    sends takes a file descriptor and each copy to a GPU a call.

    Args:
        voxels, labels: of all patches, one after the other.
        shapes: (C, *B) of each.
        recipes: of each.
    """

    voxels: Tensor
    labels: Tensor
    shapes: tuple[tuple[int, ...], ...]
    recipes: tuple[PatchRecipe, ...]

    @classmethod
    def of(cls, patches: Sequence[RawPatch]) -> RawBatch:
        return cls(
            torch.cat([patch.image.flatten() for patch in patches]),
            torch.cat([patch.labels.flatten() for patch in patches]),
            tuple(tuple(patch.image.shape) for patch in patches),
            tuple(patch.recipe for patch in patches),
        )

    def to(self, device: Any) -> RawBatch:
        """On a device; Lightning calls this."""
        voxels = self.voxels.to(device, non_blocking=True)
        labels = self.labels.to(device, non_blocking=True)
        return RawBatch(voxels, labels, self.shapes, self.recipes)

    def pin_memory(self) -> RawBatch:
        """Where a GPU can fetch it; the loader calls this."""
        return RawBatch(
            self.voxels.pin_memory(), self.labels.pin_memory(), self.shapes, self.recipes
        )

    def finish(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, *P) and labels (N, *P), on the device that the voxels lie on."""
        images = self.voxels.split([int(np.prod(shape)) for shape in self.shapes])
        labels = self.labels.split([int(np.prod(shape[1:])) for shape in self.shapes])
        return finish_batch(
            [
                RawPatch(image.view(shape), label.view(shape[1:]), recipe)
                for image, label, shape, recipe in zip(
                    images, labels, self.shapes, self.recipes, strict=True
                )
            ]
        )


def finish_batch(patches: Sequence[RawPatch]) -> tuple[Tensor, Tensor]:
    """Images (N, C, *P) and labels (N, *P)."""
    first, size = patches[0], patches[0].recipe.patch_size
    images = first.image.new_empty((len(patches), first.image.shape[0], *size))
    labels = first.labels.new_empty((len(patches), *size), dtype=torch.long)
    with torch.no_grad():
        for n, patch in enumerate(patches):
            patch.finish(images[n], labels[n])
    return images, labels
