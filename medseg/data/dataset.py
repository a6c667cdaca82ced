"""Training batches by number: what batch n holds depends on the seed, the rank and n alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medseg.core.identity import Case
from medseg.data.cache import CaseCache, PreparedCase
from medseg.transforms.augment import Augment
from medseg.transforms.boxes import Box, box_around
from medseg.transforms.patches import choose_centre, cut_straight, part_and_grid
from medseg.transforms.raw_patch import PatchRecipe, RawBatch, RawPatch, finish_batch

ANYWHERE = 0.25
"""Share of a fine network's patches that do not keep to regions, for those that a coarse network
finds where there is nothing (chosen, untested).
"""
WIDEST = 2.0
"""Regions are drawn around references with a margin between none and so many times the plan's, as
those that a coarse network finds are not exact.
"""
MAX_DRAWS = 20
"""Positions tried for a patch with an annotated voxel, where some voxels are to be ignored."""


class BatchDataset(Dataset[dict[str, Any]]):
    """Item n is the whole batch of training step n.

    Args:
        cases: training cases.
        cache: gives them in network space, and holds the plan.
        augment: random changes.
        foreground_fraction: share of patches centred on a foreground class, a whole number of each
            batch, rounded as in nnU-Net (1 of 2 for a third), so that a small batch is seldom
            without foreground.
        mirror_axes: axes of network space that may be mirrored.
        outside_label: target of voxels beyond the image: background, or the ignore value.
        seed, rank: of this process.
        num_steps: length.
        centre_classes: the classes that patches are centred on; None means all but background.
        region_margin: voxels along each axis; patches lie in regions with about this margin around
            the reference, as the fine network of a cascade sees them; None means anywhere.
        finishes: change the patches here; False leaves it to the device that trains.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        cache: CaseCache,
        *,
        augment: Augment,
        foreground_fraction: float,
        mirror_axes: tuple[int, ...],
        outside_label: int,
        seed: int,
        rank: int,
        num_steps: int,
        centre_classes: Sequence[int] | None = None,
        region_margin: tuple[float, ...] | None = None,
        finishes: bool = True,
    ) -> None:
        self.cases = list(cases)
        self.cache = cache
        self.augment = augment
        self.foreground_fraction = foreground_fraction
        self.mirror_axes = mirror_axes
        self.outside_label = outside_label
        self.seed = seed
        self.rank = rank
        self.num_steps = num_steps
        self.centre_classes = centre_classes
        self.region_margin = region_margin
        self.finishes = finishes

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        """Image (N, C, *patch) float32, target (N, *patch) int64 and the keys of the cases; where
        there are objects, also what the target's codes mean. Unfinished, the patches are "raw".
        """
        batch_size = self.cache.plan.batch_size
        assert batch_size is not None
        patches, keys, codes = [], [], []
        for sample in range(batch_size):
            rng = np.random.default_rng([self.seed, self.rank, step, sample])
            case = self.cases[self._case_number(step * batch_size + sample)]
            wants_foreground = self._wants_foreground(sample, batch_size, rng)
            prepared = self.cache.get(case)
            patches.append(self._patch(prepared, wants_foreground, rng))
            keys.append(case.key)
            codes.append(prepared.codes)
        batch: dict[str, Any] = {"keys": keys}
        if codes[0] is not None:
            batch["codes"] = codes
        if not self.finishes:
            return {**batch, "raw": RawBatch.of(patches)}
        image, target = finish_batch(patches)
        return {**batch, "image": image, "target": target}

    def _wants_foreground(self, sample: int, batch_size: int, rng: np.random.Generator) -> bool:
        if batch_size == 1:
            return bool(rng.random() < self.foreground_fraction)
        return sample >= round(batch_size * (1 - self.foreground_fraction))

    def _case_number(self, draw: int) -> int:
        """Every case is drawn once before any is drawn again."""
        cycle, position = divmod(draw, len(self.cases))
        order = np.random.default_rng([self.seed, self.rank, 1_000_003, cycle])
        return int(order.permutation(len(self.cases))[position])

    def _any_slice(self, labels: NDArray[Any], rng: np.random.Generator) -> int:
        """A slice along K; where voxels may be without annotation, one that has any."""
        if not self.outside_label:
            return int(rng.integers(labels.shape[2]))
        annotated = np.flatnonzero((labels != self.outside_label).any(axis=(0, 1)))
        return int(rng.choice(annotated)) if len(annotated) else int(rng.integers(labels.shape[2]))

    def _patch(
        self, case: PreparedCase, wants_foreground: bool, rng: np.random.Generator
    ) -> RawPatch:
        plan = self.cache.plan
        patch_size = tuple(plan.patch_size or ())
        dims = plan.spatial_dims
        image, labels = case.image, case.labels
        locations: list[Any] = []
        if wants_foreground:
            of_classes = range(1, len(case.locations) + 1)
            chosen = of_classes if self.centre_classes is None else self.centre_classes
            locations = [case.locations[class_id - 1] for class_id in chosen]
        if dims == 2:
            present = [voxels for voxels in locations if len(voxels)]
            slice_number = self._any_slice(labels, rng)
            locations = []
            if present:
                voxels = present[rng.integers(len(present))]
                voxel = voxels[rng.integers(len(voxels))]
                slice_number, locations = int(voxel[2]), [voxel[None, :2]]
            image, labels = image[..., slice_number], labels[..., slice_number]
        within: Box | None = None
        if self.region_margin is not None and rng.random() >= ANYWHERE:
            margin = np.array(self.region_margin) * rng.uniform(0, WIDEST)
            within = box_around(case.locations, labels.shape, margin=margin, least=patch_size)
        choose = partial(choose_centre, labels.shape, patch_size, locations, rng=rng, within=within)
        centre = choose()
        for _ in range(MAX_DRAWS if self.outside_label else 0):
            cut = cut_straight(labels[None], centre, patch_size, outside=self.outside_label)
            if (cut != self.outside_label).any():
                break
            centre = choose()
        spacing = case.spacing_mm[:dims]
        matrix = self.augment.spatial_matrix(spacing, mirror_axes=self.mirror_axes, rng=rng)
        knots = self.augment.displacement_knots(patch_size, spacing, rng=rng)
        intensity = self.augment.intensity_change(rng)
        if matrix is None:
            matrix = np.eye(dims)
        if knots is None and np.array_equal(np.abs(matrix), np.eye(dims)):
            cut = cut_straight(image, centre, patch_size, outside=0.0)
            cut_labels = cut_straight(labels[None], centre, patch_size, outside=self.outside_label)
            mirrored = tuple(n + 1 for n in range(dims) if matrix[n, n] < 0)
            return RawPatch(
                torch.from_numpy(np.flip(cut, mirrored).copy()),
                torch.from_numpy(np.flip(cut_labels, mirrored)[0].copy()),
                PatchRecipe(patch_size, self.outside_label, intensity),
            )
        part, part_labels, grid = part_and_grid(
            image, labels, matrix=matrix, centre=centre, patch_size=patch_size, knots=knots
        )
        recipe = PatchRecipe(patch_size, self.outside_label, intensity, grid)
        return RawPatch(part, part_labels, recipe)
