"""Label maps from logits on a coarser or finer grid, on the CPU: compiled loops that interpolate
only where the corners of a coarse cell disagree.

Interpolated logits are convex combinations of those at the corners of a cell. A class that is
largest at every corner is therefore largest everywhere in the cell, and the channel that is the
last positive one at every corner is so everywhere in it.
"""

# mypy: disable-error-code="misc"

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK = 2048
"""Voxels looked at together: three rows of them stay in the first cache."""
UNDECIDED = -1

# Compiled code is kept beside this file, as Python keeps its own; nowhere else.
_CACHE = os.access(Path(__file__).parent, os.W_OK)


@njit(nogil=True, cache=_CACHE)
def find_winners(
    flat: NDArray[np.float32],
    stride: int,
    offsets: NDArray[np.float32],
    is_painted: bool,
    winners: NDArray[np.int32],
    runners_up: NDArray[np.float32],
) -> None:
    """The winning channel of every coarse voxel and the largest logit of all others.

    Args:
        flat: logits, contiguous; channel c of voxel v stands at `c * stride + v`.
        stride: distance of two channels.
        offsets: added to each channel.
        is_painted: the winner is one more than the last positive channel, 0 if there is none;
            otherwise it is the channel with the largest logit, the lowest on ties.
        winners, runners_up: (voxels,), overwritten; the latter not if `is_painted`.
    """
    best = np.empty(BLOCK, np.float32)
    second = np.empty(BLOCK, np.float32)
    index = np.empty(BLOCK, np.int32)
    for start in range(0, winners.shape[0], BLOCK):
        size = min(BLOCK, winners.shape[0] - start)
        for v in range(size):
            best[v] = -np.inf
            second[v] = -np.inf
            index[v] = 0
        for c in range(offsets.shape[0]):
            place = c * stride + start
            more = offsets[c]
            if is_painted:
                for v in range(size):
                    index[v] = c + 1 if flat[place + v] + more > 0 else index[v]
            else:
                for v in range(size):
                    value = flat[place + v] + more
                    top = best[v]
                    lower = top if value > top else value
                    second[v] = lower if lower > second[v] else second[v]
                    index[v] = c if value > top else index[v]
                    best[v] = value if value > top else top
        for v in range(size):
            winners[start + v] = index[v]
        if not is_painted:
            for v in range(size):
                runners_up[start + v] = second[v]


@njit(nogil=True, cache=_CACHE)
def fill_labels(
    flat: NDArray[np.float32],
    stride: int,
    offsets: NDArray[np.float32],
    is_painted: bool,
    winners: NDArray[np.int32],
    runners_up: NDArray[np.float32],
    extents: tuple[int, int],
    before: tuple[NDArray[np.int64], ...],
    after: tuple[NDArray[np.int64], ...],
    share: tuple[NDArray[np.float64], ...],
    names: NDArray[np.int32],
    labels: NDArray[np.int32],
) -> int:
    """Labels of fine voxels; returns how many of them had to be interpolated.

    Args:
        flat, stride, offsets, is_painted, winners, runners_up: as for `find_winners`.
        extents: coarse voxels along j and k.
        before, after, share: per axis the earlier and later coarse voxel of each fine one and the
            weight of the later; where they are the same voxel the weight is 0.
        names: the label of each winner.
        labels: (voxels,), overwritten.
    """
    num_j, num_k = extents
    common = np.empty(num_k, np.int32)
    corners = np.empty(8, np.int64)
    weights = np.empty(8, np.float64)
    interpolated = 0
    voxel = 0
    for i in range(before[0].shape[0]):
        i0, i1, wi = before[0][i], after[0][i], share[0][i]
        a, b, c, d = -1, -1, -1, -1
        for j in range(before[1].shape[0]):
            j0, j1, wj = before[1][j], after[1][j], share[1][j]
            if a != (i0 * num_j + j0) * num_k or b != (i0 * num_j + j1) * num_k:
                a = (i0 * num_j + j0) * num_k
                b = (i0 * num_j + j1) * num_k
                c = (i1 * num_j + j0) * num_k
                d = (i1 * num_j + j1) * num_k
                for k in range(num_k):
                    first = winners[a + k]
                    is_same = (
                        (first == winners[b + k])
                        & (first == winners[c + k])
                        & (first == winners[d + k])
                    )
                    common[k] = first if is_same else UNDECIDED
            for k in range(before[2].shape[0]):
                k0, k1 = before[2][k], after[2][k]
                winner = common[k0]
                if winner == UNDECIDED or winner != common[k1]:
                    interpolated += 1
                    count = 0
                    for n in range(8):
                        weight = (
                            (wi if n & 4 else 1.0 - wi)
                            * (wj if n & 2 else 1.0 - wj)
                            * (share[2][k] if n & 1 else 1.0 - share[2][k])
                        )
                        if weight > 0:
                            row = (c if not n & 2 else d) if n & 4 else (a if not n & 2 else b)
                            corners[count] = row + (k1 if n & 1 else k0)
                            weights[count] = weight
                            count += 1
                    if is_painted:
                        winner = _last_positive(flat, stride, offsets, corners, weights, count)
                    else:
                        winner = _largest(
                            flat, stride, offsets, corners, weights, count, winners, runners_up
                        )
                labels[voxel] = names[winner]
                voxel += 1
    return interpolated


@njit(nogil=True, cache=_CACHE)
def _value(
    flat: Any, stride: int, offsets: Any, corners: Any, weights: Any, count: int, channel: int
) -> float:
    """The interpolated logit of a channel."""
    total = np.float64(offsets[channel])
    for n in range(count):
        total += weights[n] * np.float64(flat[channel * stride + corners[n]])
    return total


@njit(nogil=True, cache=_CACHE)
def _largest(
    flat: Any,
    stride: int,
    offsets: Any,
    corners: Any,
    weights: Any,
    count: int,
    winners: Any,
    runners_up: Any,
) -> int:
    """The channel with the largest interpolated logit, the lowest on ties."""
    best, winner = -np.inf, 0
    bound = 0.0
    for n in range(count):
        bound += weights[n] * np.float64(runners_up[corners[n]])
        channel = winners[corners[n]]
        is_known = False
        for m in range(n):
            is_known |= winners[corners[m]] == channel
        if not is_known:
            value = _value(flat, stride, offsets, corners, weights, count, channel)
            if value > best:
                best, winner = value, channel
            elif value == best:
                winner = min(winner, channel)
    # A channel that wins at no corner is at most the runner-up at each of them.
    if best > bound:
        return winner
    best, winner = -np.inf, 0
    for channel in range(offsets.shape[0]):
        value = _value(flat, stride, offsets, corners, weights, count, channel)
        if value > best:
            best, winner = value, channel
    return winner


@njit(nogil=True, cache=_CACHE)
def _last_positive(
    flat: Any, stride: int, offsets: Any, corners: Any, weights: Any, count: int
) -> int:
    """One more than the last channel with a positive interpolated logit; 0 if there is none."""
    for channel in range(offsets.shape[0] - 1, -1, -1):
        if _value(flat, stride, offsets, corners, weights, count, channel) > 0:
            return channel + 1
    return 0
