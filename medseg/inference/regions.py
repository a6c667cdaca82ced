"""Where a coarse network sees foreground: the windows that a fine one computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.core.labels import LabelSet
from medseg.inference.tiling import Tiling
from medseg.tasks.decoding import probabilities

FOREGROUND_FROM = 0.5
"""Probability from which a coarse voxel counts as foreground. In short trainings background is not
surer than 0.7: with 0.3 the fine network looks everywhere, and 0.5 loses nothing (docs/recipe.md).
"""
SURE = 10.0
"""Logit of background where the fine network does not look, and its negative for all else: a
probability of 2e-9 for each other class, 5e-5 for each region.
"""


def foreground_mask(logits: Tensor, labels: LabelSet) -> NDArray[np.bool_]:
    """Voxels that may belong to any class or region, from logits (C, I, J, K)."""
    shares = probabilities(logits, labels)
    foreground = shares.amax(0) if labels.regions else 1 - shares[0]
    mask: NDArray[np.bool_] = (foreground >= FOREGROUND_FROM).cpu().numpy()
    return mask


def narrowed(tiling: Tiling, mask: NDArray[np.bool_], *, margin: Sequence[float]) -> Tiling:
    """The tiling with those windows alone whose middle is near the mask.

    The middle of a window are the voxels that no other window has nearer to its centre, so every
    voxel near the mask is seen from the middle of a window.

    Args:
        tiling: of the fine image.
        mask: (I, J, K) on any grid over the same space.
        margin: how near, in fine voxels along each axis.
    """
    bounds = [_middles(tiling, axis) for axis in range(3)]
    chosen = set()
    for start in tiling.starts if tiling.chosen is None else tiling.chosen:
        places = []
        for axis, first in enumerate(start):
            scale = mask.shape[axis] / tiling.shape[axis]
            low, high = bounds[axis][first]
            places.append(
                slice(
                    max(0, int(np.floor((low - margin[axis]) * scale))),
                    max(0, int(np.ceil((high + margin[axis]) * scale))),
                )
            )
        if mask[tuple(places)].any():
            chosen.add(start)
    return replace(tiling, chosen=frozenset(chosen))


def background_logits(labels: LabelSet) -> Tensor:
    """Logits (channels,) of a voxel that is background for sure."""
    logits = torch.full((labels.num_outputs,), -SURE)
    if not labels.regions:
        logits[0] = SURE
    return logits


def _middles(tiling: Tiling, axis: int) -> dict[int, tuple[float, float]]:
    """First voxel of the image and the one after the last in the middle of the windows that begin
    at a voxel of the padded image.
    """
    firsts = sorted({start[axis] for start in tiling.starts})
    edges = [(a + b + tiling.window[axis]) / 2 for a, b in pairwise(firsts)]
    margin = tiling.margin[axis]
    lows = [0.0, *(edge - margin for edge in edges)]
    highs = [*(edge - margin for edge in edges), float(tiling.shape[axis])]
    return dict(zip(firsts, zip(lows, highs, strict=True), strict=True))
