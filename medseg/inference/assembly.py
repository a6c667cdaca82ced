"""Results from the logits of one bundle or of several: label map, probabilities and uncertainty,
row by row as slabs come, so that never all logits are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.inference.logit_stream import LogitStream
from medseg.inference.uncertainty import Measure
from medseg.inference.upsample import LabelRule

PART_BYTES = 64 * 2**20
"""Probabilities that are looked at together."""
WORKING_COPIES = 6
"""Arrays of that size that are held at a time, for each bundle: interpolation makes three."""


@dataclass(frozen=True, eq=False)
class Maps:
    """What was found for every voxel, the axis of the slabs first; None where it was not wanted.

    Args:
        labels: class numbers (I, J, K).
        shares: probabilities (C, I, J, K); of regions, with a background before them.
        entropy, disagreement: (I, J, K), in 0 to 1; disagreement None if there was one pass.
        certainty: (n, I, J, K): probability of the class of `labels`, or of each region.
        mass: sum of the probabilities per channel of the logits.
    """

    labels: NDArray[Any]
    shares: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None
    disagreement: NDArray[np.float32] | None = None
    certainty: NDArray[np.float16] | None = None
    mass: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Wanted:
    """Which maps are made beside labels.

    Args:
        probabilities, uncertainty: as said.
        disagreement: there is more than one pass or bundle.
    """

    probabilities: bool = False
    uncertainty: bool = False
    disagreement: bool = False

    def bytes_per_voxel(self, num_channels: int, *, has_regions: bool) -> float:
        """Of results in memory, labels included."""
        size = 1.0 if num_channels <= 256 else 2.0
        size += 4.0 * (num_channels + has_regions) if self.probabilities else 0
        if self.uncertainty:
            size += 4.0 + 4.0 * self.disagreement + 2.0 * (num_channels if has_regions else 1)
        return size


def assemble(
    streams: Sequence[LogitStream],
    *,
    weights: Tensor,
    measure: Measure,
    rule: LabelRule,
    own_rules: Sequence[LabelRule],
    wanted: Wanted,
) -> Maps:
    """Maps of one bundle, or of the weighted mean of the probabilities of several.

    A class that is the likeliest in each bundle is so in their mean: probabilities are computed for
    labels only where the bundles' labels differ. The same holds for each region, but not for
    classes that have weights of their own, whose probabilities are computed everywhere.

    Args:
        streams: of each bundle, all of the same shape.
        weights: of each (rows), for all channels (one column) or for each; columns sum up to 1.
        measure: entropy of probabilities.
        rule: how mean log-odds (regions) or logarithms of probabilities become class numbers.
        own_rules: the same for the logits of each bundle.
        wanted: maps beside the labels.
    """
    shape = streams[0].shape
    assert all(stream.shape == shape for stream in streams)
    maps = _empty_maps(shape, measure, rule, wanted)
    everywhere = weights.shape[1] > 1 and not measure.labels.regions
    row = 0
    while row < shape[0]:
        stop = min(stream.reach(row) for stream in streams)
        found = [
            stream.labels(slice(row, stop), own)
            for stream, own in zip(streams, own_rules, strict=True)
        ]
        maps.labels[row:stop] = found[0]
        if len(streams) > 1:
            for part in _parts(slice(row, stop), shape, 4):
                inside = slice(part.start - row, part.stop - row)
                differs = np.full(found[0][inside].shape, everywhere)
                for other in found[1:]:
                    differs |= found[0][inside] != other[inside]
                _decide(maps.labels[part], part.start, differs, streams, weights, measure, rule)
        if wanted.probabilities or wanted.uncertainty:
            for part in _parts(slice(row, stop), shape, rule.num_channels):
                _measure_rows(maps, part, streams, weights, measure)
        row = stop
    return maps


def _decide(
    labels: NDArray[Any],
    first: int,
    differs: NDArray[np.bool_],
    streams: Sequence[LogitStream],
    weights: Tensor,
    measure: Measure,
    rule: LabelRule,
) -> None:
    """Overwrites the labels of rows from `first` on where bundles differ."""
    a, b, c = np.nonzero(differs)
    at_once = max(1, PART_BYTES // (4 * rule.num_channels))
    for start in range(0, len(a), at_once):
        part = slice(start, start + at_once)
        places = (a[part] + first, b[part], c[part])
        shares = [stream.shares_at(places) for stream in streams]
        mean = _mean(shares, weights, measure, axis=0)
        odds = torch.logit(mean) if measure.labels.regions else mean.log()
        labels[a[part], b[part], c[part]] = rule(odds[None])[0].cpu().numpy()


def _measure_rows(
    maps: Maps,
    rows: slice,
    streams: Sequence[LogitStream],
    weights: Tensor,
    measure: Measure,
) -> None:
    """Fills all maps but the labels, which are there already."""
    has_regions = bool(measure.labels.regions)
    found = [stream.shares(rows) for stream in streams]
    mean = _mean([shares for shares, _ in found], weights, measure, axis=1)
    if maps.shares is not None:
        offset = 1 if has_regions else 0
        maps.shares[offset:, rows] = mean.movedim(1, 0).cpu().numpy()
        if has_regions:
            maps.shares[0, rows] = (1 - mean.amax(1)).cpu().numpy()
    if maps.entropy is None:
        return
    assert maps.certainty is not None
    assert maps.mass is not None
    entropy = measure.entropy(mean)
    maps.entropy[rows] = entropy.clamp(0, 1).cpu().numpy()
    if maps.disagreement is not None:
        # Between the bundles, and on average within them: together what passes of all disagree by.
        spread = entropy
        for (shares, inner), weight in zip(found, weights.mean(1).tolist(), strict=True):
            spread = spread - weight * measure.entropy(shares)
            if inner is not None:
                spread = spread + weight * inner
        maps.disagreement[rows] = spread.clamp(0, 1).cpu().numpy()
    maps.mass[:] += mean.sum((0, 2, 3), dtype=torch.float64).cpu().numpy()
    if has_regions:
        maps.certainty[:, rows] = mean.movedim(1, 0).cpu().numpy()
    else:
        chosen = torch.from_numpy(maps.labels[rows].astype(np.int64)).to(mean.device)
        maps.certainty[0, rows] = mean.gather(1, chosen[:, None])[:, 0].cpu().numpy()


def _empty_maps(shape: tuple[int, ...], measure: Measure, rule: LabelRule, wanted: Wanted) -> Maps:
    channels, num_regions = rule.num_channels, len(measure.labels.regions)
    labels = np.empty(shape, rule.dtype)
    shares = None
    if wanted.probabilities:
        shares = np.empty((channels + bool(num_regions), *shape), np.float32)
    if not wanted.uncertainty:
        return Maps(labels, shares)
    return Maps(
        labels,
        shares,
        np.empty(shape, np.float32),
        np.empty(shape, np.float32) if wanted.disagreement else None,
        np.empty((num_regions or 1, *shape), np.float16),
        np.zeros(channels),
    )


def _mean(shares: Sequence[Tensor], weights: Tensor, measure: Measure, *, axis: int) -> Tensor:
    """The weighted mean, the channels along `axis`; probabilities of classes sum up to 1 again."""
    if len(shares) == 1:
        return shares[0]
    first = shares[0]
    columns = weights.to(first).view(len(weights), *[1] * axis, -1, *[1] * (first.ndim - axis - 1))
    mean = first * columns[0]
    for part, weight in zip(shares[1:], columns[1:], strict=True):
        mean += part.to(mean.device) * weight
    if weights.shape[1] > 1 and not measure.labels.regions:
        mean /= mean.sum(axis, keepdim=True)
    return mean


def _parts(rows: slice, shape: tuple[int, ...], channels: int) -> Iterator[slice]:
    step = max(1, PART_BYTES // (4 * channels * int(np.prod(shape[1:]))))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(rows.stop, start + step))
