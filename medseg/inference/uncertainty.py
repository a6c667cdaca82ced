"""How sure networks are of a voxel, how much they disagree about it, and the Dice that a structure
may be expected to have.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.core.labels import LabelSet
from medseg.metrics.case_scores import mask_of
from medseg.tasks.decoding import probabilities


@dataclass(frozen=True)
class Measure:
    """Probabilities and their entropy for the logits of a bundle.

    Args:
        labels: of the channels.
        temperature: that the bundle's logits are divided by.
    """

    labels: LabelSet
    temperature: float = 1.0

    def shares(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities (n, C, *S) of logits (n, C, *S)."""
        return probabilities(logits, self.labels, axis=1, temperature=self.temperature)

    def entropy(self, shares: Tensor) -> Tensor:
        """Shannon entropy (n, *S) of probabilities (n, C, *S), in 0 to 1.

        Of classes as a share of that of equally likely ones; of regions, each of which is there or
        not, the mean in bits.
        """
        if self.labels.regions:
            present, absent = torch.special.entr(shares), torch.special.entr(1 - shares)
            return (present + absent).mean(1) / log(2)
        return torch.special.entr(shares).sum(1) / log(shares.shape[1])


class PassMean:
    """Mean logits of several passes over the same patches, and how much the passes disagree.

    The disagreement is the mutual information of the class and the pass: the entropy of the mean
    probabilities minus the mean entropy (Houlsby et al. 2011, arXiv:1112.5745), on the scale of
    `Measure.entropy`.

    Args:
        measure: None leaves the disagreement out.
    """

    def __init__(self, measure: Measure | None) -> None:
        self._measure = measure
        self._count = 0
        self._logits: Tensor | None = None
        self._shares: Tensor | None = None
        self._entropy: Tensor | None = None

    def add(self, logits: Tensor) -> None:
        """Takes logits (N, C, *P), float32, which may be changed."""
        if self._measure is not None:
            shares = self._measure.shares(logits)
            entropy = self._measure.entropy(shares)
            self._shares = shares if self._shares is None else self._shares.add_(shares)
            self._entropy = entropy if self._entropy is None else self._entropy.add_(entropy)
        self._logits = logits if self._logits is None else self._logits.add_(logits)
        self._count += 1

    def result(self) -> Tensor:
        """Mean logits (N, C, *P), with a measure (N, C + 1, *P): the disagreement comes last."""
        assert self._logits is not None
        mean = self._logits.div_(self._count) if self._count > 1 else self._logits
        if self._measure is None:
            return mean
        assert self._shares is not None
        assert self._entropy is not None
        inner = self._entropy / self._count
        between = self._measure.entropy(self._shares / self._count) - inner
        return torch.cat([mean, between.clamp_min(0)[:, None]], dim=1)


def expected_dice(
    label_map: NDArray[Any],
    decided: NDArray[Any],
    certainty: NDArray[np.floating],
    mass: NDArray[np.float64],
    labels: LabelSet,
) -> dict[str, float | None]:
    """Dice of each structure with the truth, as far as the probabilities tell.

    If each voxel belongs to a structure with its probability p, the expected overlap with the
    voxels of the label map is the sum of p over them, and the expected size of the truth the sum of
    p over all voxels. Dice is estimated by the ratio of the expected values, 2 sum_A p / (|A| +
    sum p), which is close to its own expected value for structures of more than a few voxels
    (Borges et al. 2024, arXiv:2402.10665, as soft Dice confidence). It is as good as the
    probabilities are calibrated, and knows nothing of images unlike those of the calibration.

    Args:
        label_map: (I, J, K) final class numbers.
        decided: (I, J, K) before corrections such as filled holes: a voxel that such a correction
            gave to a class counts with probability 0.
        certainty: (n, I, J, K): the probability of the decided class, or of each region.
        mass: sum of the probabilities over all voxels, per channel of the logits.
        labels: classes or regions.

    Returns:
        By name; None for a structure of which the label map has nothing.
    """
    result: dict[str, float | None] = {}
    for n, structure in enumerate(labels.structures):
        mask = mask_of(label_map, structure.class_ids)
        count = int(mask.sum())
        if labels.regions:
            inside = certainty[n][mask]
        else:
            inside = certainty[0][mask & (decided == label_map)]
        overlap = float(inside.sum(dtype=np.float64))
        total = float(mass[n if labels.regions else structure.paints])
        result[structure.name] = 2 * overlap / (count + total) if count else None
    return result
