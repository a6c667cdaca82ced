"""Post-processing that earns its place: rules are kept where they raise the mean Dice of cases that
the network was not trained on.

Every case is looked at once and leaves counts, from which the Dice under each rule follows without
touching an image again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.core.labels import LabelSet
from medseg.core.segmentation import LabelMap
from medseg.inference.postprocess import Postprocess, components, holes
from medseg.metrics.case_scores import mask_of
from medseg.tasks.decoding import decode

Counts = NDArray[np.int64]

THRESHOLDS = (0.4, 0.6, 0.3, 0.7, 0.2, 0.8)
"""Nearest to one half first: of equally good ones the first is taken."""
NUM_VOLUMES = 20
"""Smallest volumes that are tried: quantiles of the components' volumes over all cases."""
MIN_GAIN = 0.002
"""What a rule must add to a label's mean Dice. Chosen, untested."""
TOLERATED_LOSS = 1e-6


@dataclass(frozen=True)
class Decision:
    """A rule that was tried.

    Args:
        rule: what it does, in words.
        before, after: mean Dice over the cases of the label or, if it concerns all, over the
            labels.
        is_kept: True if it is part of the choice.
    """

    rule: str
    before: float
    after: float
    is_kept: bool


@dataclass(frozen=True, eq=False)
class Pieces:
    """Components of one mask and what goes with each of them.

    Args:
        volumes_mm3: (n,).
        losses: (n, structures, 2), common and predicted voxels of every structure that are lost
            with a component.
    """

    volumes_mm3: NDArray[np.float64]
    losses: Counts


@dataclass(frozen=True, eq=False)
class ComponentCounts:
    """What one case leaves for the choice of component rules.

    Args:
        base: (structures, 3), voxels in common, predicted, and of the reference.
        foreground: components of all labels together.
        structures: components of each.
        filled: per structure, (structures, 2) common and predicted voxels gained by filling its
            holes.
    """

    base: Counts
    foreground: Pieces
    structures: tuple[Pieces, ...]
    filled: tuple[Counts, ...]


@dataclass(frozen=True, eq=False)
class ThresholdCounts:
    """What one case leaves for the choice of thresholds, in network space.

    Args:
        base: (structures, 3), voxels in common, predicted, and of the reference.
        gains: (structures, thresholds, structures, 2), what the threshold of one structure adds to
            the common and predicted voxels of each.
    """

    base: Counts
    gains: Counts


def count_components(
    reference: LabelMap, prediction: LabelMap, labels: LabelSet
) -> ComponentCounts:
    """Counts of a case on its own grid; ignored voxels count for nothing but volumes."""
    members = _members(labels)
    truth, found = reference.array, prediction.array
    known = np.ones(truth.shape, bool) if labels.ignore_id is None else truth != labels.ignore_id
    truth = np.where(known, truth, 0)
    voxel_mm3 = prediction.geometry.voxel_volume_mm3

    def pieces(mask: NDArray[np.bool_], affected: Sequence[int]) -> Pieces:
        numbered, count = components(mask)
        at = numbered[mask]
        sizes = np.bincount(at, minlength=count + 1)[1:]
        losses = np.zeros((count, len(members), 2), np.int64)
        counted = known[mask]
        for n in affected:
            predicted = members[n][found[mask]] & counted
            common = predicted & members[n][truth[mask]]
            losses[:, n, 0] = np.bincount(at[common], minlength=count + 1)[1:]
            losses[:, n, 1] = np.bincount(at[predicted], minlength=count + 1)[1:]
        return Pieces((sizes * voxel_mm3).astype(np.float64), losses)

    structures, filled = [], []
    for structure in labels.structures:
        own = set(structure.class_ids)
        within = [n for n, s in enumerate(labels.structures) if set(s.class_ids) <= own]
        structures.append(pieces(mask_of(found, structure.class_ids), within))
        gap = holes(found, structure, labels) & known
        after = np.full(int(gap.sum()), structure.paints)
        gained = _tally(after, truth[gap], members) - _tally(found[gap], truth[gap], members)
        filled.append(gained[:, :2])
    everything = mask_of(found, [label.class_id for label in labels.foreground])
    return ComponentCounts(
        _tally(found[known], truth[known], members),
        pieces(everything, range(len(members))),
        tuple(structures),
        tuple(filled),
    )


def count_thresholds(logits: Tensor, reference: NDArray[Any], labels: LabelSet) -> ThresholdCounts:
    """Counts of a case in network space.

    Args:
        logits: (channels, I, J, K).
        reference: (I, J, K) class numbers.
        labels: of the channels.
    """
    members = _members(labels)
    flat = logits.reshape(logits.shape[0], -1).float().cpu()
    truth = reference.ravel().astype(np.int64)
    if labels.ignore_id is not None:
        known = truth != labels.ignore_id
        flat, truth = flat[:, torch.from_numpy(known)], truth[known]
    base = _tally(decode(flat, labels).numpy(), truth, members)
    reach = max(abs(_offset(value)) for value in THRESHOLDS)
    gains = np.zeros((len(members), len(THRESHOLDS), len(members), 2), np.int64)
    best = flat.topk(2, dim=0) if not labels.regions else None
    for n in range(len(members)):
        channel = n if labels.regions else n + 1
        if best is None:
            margin = flat[channel]
        else:
            other = torch.where(best.indices[0] == channel, best.values[1], best.values[0])
            margin = flat[channel] - other
        # Only what lies this close can change; decode leaves a margin of exactly 0 to the other.
        near = torch.nonzero(margin.abs() <= reach)[:, 0]
        part, true = flat[:, near], truth[near.numpy()]
        before = _tally(decode(part, labels).numpy(), true, members)
        for m, value in enumerate(THRESHOLDS):
            moved = part.clone()
            moved[channel] += _offset(value)
            after = _tally(decode(moved, labels).numpy(), true, members)
            gains[n, m] = (after - before)[:, :2]
    return ThresholdCounts(base, gains)


def choose_thresholds(
    cases: Sequence[ThresholdCounts], labels: LabelSet, *, min_gain: float = MIN_GAIN
) -> tuple[Postprocess, list[Decision]]:
    """Thresholds that raise the Dice of their label and lower no other's."""
    base = np.stack([case.base for case in cases])
    chosen: dict[str, float] = {}
    decisions = []
    for n, structure in enumerate(labels.structures):
        tried = [
            _changed(base, np.stack([case.gains[n, m] for case in cases]))
            for m in range(len(THRESHOLDS))
        ]
        best = _best(tried, n)
        is_kept = _helps(base, tried[best], [n], min_gain)
        decisions.append(
            _decision(
                f"{structure.name}: threshold {THRESHOLDS[best]}", base, tried[best], [n], is_kept
            )
        )
        if is_kept:
            chosen[structure.name] = THRESHOLDS[best]
    return Postprocess(threshold=chosen), decisions


def choose_foreground(
    cases: Sequence[ComponentCounts], labels: LabelSet, *, min_gain: float = MIN_GAIN
) -> tuple[bool, list[Decision]]:
    """Whether to keep only the largest component of all labels together."""
    base = np.stack([case.base for case in cases])
    losses = np.stack([_lost(case.foreground, only_largest=True) for case in cases])
    after = _changed(base, -losses)
    every = list(range(len(labels.structures)))
    is_kept = _helps(base, after, every, min_gain)
    return is_kept, [
        _decision("all labels: largest component of the foreground", base, after, every, is_kept)
    ]


def choose_components(
    cases: Sequence[ComponentCounts],
    labels: LabelSet,
    *,
    given: Postprocess,
    min_gain: float = MIN_GAIN,
) -> tuple[Postprocess, list[Decision]]:
    """Rules for each label by itself: holes filled; the largest component or a smallest volume.

    Args:
        cases: counts of predictions to which `given` has been applied.
        labels: theirs.
        given: rules that the chosen ones are added to.
        min_gain: what a rule must add to the mean Dice of its label.
    """
    base = np.stack([case.base for case in cases])
    filled: list[str] = []
    largest: list[str] = []
    volumes: dict[str, float] = {}
    decisions = []
    for n, structure in enumerate(labels.structures):
        after = _changed(base, np.stack([case.filled[n] for case in cases]))
        is_kept = _helps(base, after, [n], min_gain)
        decisions.append(_decision(f"{structure.name}: holes filled", base, after, [n], is_kept))
        if is_kept:
            filled.append(structure.name)
        pieces = [case.structures[n] for case in cases]
        limits = _volumes(pieces)
        tried = [_changed(base, -np.stack([_lost(p, only_largest=True) for p in pieces]))]
        tried += [
            _changed(base, -np.stack([_lost(p, below_mm3=limit) for p in pieces]))
            for limit in limits
        ]
        best = _best(tried, n)
        is_kept = _helps(base, tried[best], [n], min_gain)
        rule = "largest component" if best == 0 else f"components from {limits[best - 1]:g} mm3"
        decisions.append(_decision(f"{structure.name}: {rule}", base, tried[best], [n], is_kept))
        if is_kept and best == 0:
            largest.append(structure.name)
        elif is_kept:
            volumes[structure.name] = limits[best - 1]
    chosen = replace(
        given,
        fill_holes=tuple(filled),
        largest_component=tuple(largest),
        minimum_volume_mm3=volumes,
    )
    return chosen, decisions


def mean_dice(counts: Counts) -> NDArray[np.float64]:
    """Per structure the mean over the cases in which reference or prediction has voxels.

    Args:
        counts: (cases, structures, 3), voxels in common, predicted, and of the reference.
    """
    sums = counts[..., 1] + counts[..., 2]
    has_any = sums > 0
    dice = np.where(has_any, 2 * counts[..., 0] / np.maximum(1, sums), 0.0)
    number = has_any.sum(axis=0)
    return np.where(number > 0, dice.sum(axis=0) / np.maximum(1, number), np.nan)


def _members(labels: LabelSet) -> NDArray[np.bool_]:
    """Whether a class belongs to a structure, shape (structures, classes)."""
    table = np.zeros((len(labels.structures), len(labels)), bool)
    for n, structure in enumerate(labels.structures):
        table[n, list(structure.class_ids)] = True
    return table


def _tally(found: NDArray[Any], truth: NDArray[Any], members: NDArray[np.bool_]) -> Counts:
    """(structures, 3) voxels in common, predicted, and of the reference."""
    num_classes = members.shape[1]
    pairs = found.ravel().astype(np.int64) * num_classes + truth.ravel()
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    inside = members.astype(np.int64)
    common = ((inside @ table) * inside).sum(axis=1)
    return np.stack([common, inside @ table.sum(axis=1), inside @ table.sum(axis=0)], axis=1)


def _lost(pieces: Pieces, *, only_largest: bool = False, below_mm3: float = 0.0) -> Counts:
    goes = pieces.volumes_mm3 < below_mm3 * (1 - 1e-9)
    if only_largest and len(goes):
        goes = np.arange(len(goes)) != int(pieces.volumes_mm3.argmax())
    return np.asarray(pieces.losses[goes].sum(axis=0))


def _changed(base: Counts, gains: Counts) -> Counts:
    """Counts (cases, structures, 3) with gains (cases, structures, 2) of common and predicted."""
    changed = base.copy()
    changed[..., :2] += gains
    return changed


def _volumes(cases: Sequence[Pieces]) -> list[float]:
    """Limits worth trying: between the volumes of components, never the largest of a case."""
    smaller = [np.sort(pieces.volumes_mm3)[:-1] for pieces in cases]
    pooled = np.concatenate([np.zeros(0), *smaller])
    if not len(pooled):
        return []
    quantiles = np.quantile(pooled, np.linspace(0, 1, NUM_VOLUMES))
    # A component of exactly the volume goes as well.
    return sorted({float(f"{1.01 * value:.3g}") for value in quantiles})


def _best(tried: Sequence[Counts], n: int) -> int:
    """The rule with the highest mean Dice of structure n; the first on ties."""
    return int(np.argmax(np.nan_to_num([mean_dice(counts)[n] for counts in tried], nan=-1.0)))


def _helps(before: Counts, after: Counts, targets: Sequence[int], min_gain: float) -> bool:
    old, new = mean_dice(before), mean_dice(after)
    gain = float(np.nanmean(new[targets]) - np.nanmean(old[targets])) if _known(old, targets) else 0
    return gain >= min_gain and not np.any(new < old - TOLERATED_LOSS)


def _known(dice: NDArray[np.float64], targets: Sequence[int]) -> bool:
    return bool(np.isfinite(dice[targets]).any())


def _decision(
    rule: str, before: Counts, after: Counts, targets: Sequence[int], is_kept: bool
) -> Decision:
    means = []
    for counts in (before, after):
        dice = mean_dice(counts)
        means.append(float(np.nanmean(dice[targets])) if _known(dice, targets) else float("nan"))
    return Decision(rule, means[0], means[1], is_kept)


def _offset(threshold: float) -> float:
    return log((1 - threshold) / threshold)
