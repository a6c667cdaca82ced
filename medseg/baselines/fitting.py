"""The parameters of a baseline that suit labelled cases best: which level is which class, how many
levels there are, and where fixed thresholds lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from medseg.baselines.fitting_objects import fit_sizes
from medseg.baselines.intensities import Picture, value_range
from medseg.baselines.predictor import Baseline, LevelMethod, RegionMethod
from medseg.baselines.thresholding import Threshold
from medseg.core.errors import InputError
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.core.segmentation import class_map

MAX_CASES = 20
_FINE = 128
_MOST_LEVELS = 5
_MOST_TABLES = 20_000
_WORTHWHILE = 0.1
"""A class that is found with a lower Dice is left out: its level would be nearly all something
else, such as the whole body for a tumour."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline with the parameters that were best on some cases.

    Args:
        baseline: to predict with.
        dice: per class name, over the voxels of all those cases together.
        num_cases: how many they were.
    """

    baseline: Baseline
    dice: dict[str, float]
    num_cases: int


def fit_baseline(
    baseline: Baseline,
    cases: Sequence[Case],
    labels: LabelSet,
    *,
    on_progress: Callable[[], object] | None = None,
) -> FittedBaseline:
    """The baseline whose classes agree best with the references.

    Every number of levels from 2 to 5 is tried with every table of classes, and the one with the
    highest mean Dice over the classes (voxels of all cases together) is kept; a class of a Dice
    below 0.1 counts for nothing and is left out. Where there is one class, two levels of which the
    border of each image says the background are tried as well. The window of each
    class of a fixed threshold is the one of highest Dice among those between 128 steps of the
    intensity. Where the task is to find objects, sizes follow (`fit_sizes`).

    Args:
        baseline: method to fit; its classes and number of levels are replaced.
        cases: labelled; of more than 20, 20 are taken at even distances.
        labels: classes of the references.
        on_progress: called after each case.

    Raises:
        InputError: no case has a reference.
    """
    labelled = [case for case in cases if case.read_reference is not None]
    if not labelled:
        raise InputError(
            "fit_on", "holds no labelled case", "give a folder with references, as for training"
        )
    picks = np.unique(np.linspace(0, len(labelled) - 1, min(MAX_CASES, len(labelled))).astype(int))
    chosen = [labelled[n] for n in picks]
    variants = _variants(baseline, chosen)
    counts = [np.zeros((variant.method.levels, len(labels)), np.int64) for variant in variants]
    by_border = np.zeros((2, len(labels)), np.int64)
    bordered = replace(variants[0], background="border")
    for case in chosen:
        volume = case.read_image()
        assert case.read_reference is not None
        reference = class_map(case.read_reference()).array
        is_known = np.isin(reference, np.arange(len(labels)))
        picture = Picture.of(volume, smooth_mm=baseline.smooth_mm)
        for table, levels in zip(counts, _levels(variants, picture), strict=True):
            pairs = levels[is_known].astype(np.int64) * len(labels) + reference[is_known]
            found = np.bincount(pairs, minlength=table.size).reshape(table.shape)
            table += found
            if len(table) == 2:
                by_border[bordered.numbered(levels)] += found
        if on_progress is not None:
            on_progress()
    fitted = [
        _fitted(variant, table, labels) for variant, table in zip(variants, counts, strict=True)
    ]
    if len(labels) == 2 and variants[0].method.levels == 2:
        (dice,) = _dice(by_border, np.array([0, 1]))
        plain = replace(bordered, labels=_plain_labels(labels))
        fitted.append((plain, {labels.foreground[0].name: float(dice)}))
    best = max(fitted, key=lambda found: _worth(np.array(list(found[1].values()))))
    result = fit_sizes(best[0], chosen) if baseline.task == "instance" else best[0]
    return FittedBaseline(result, best[1], len(chosen))


def _levels(variants: Sequence[Baseline], picture: Picture) -> Iterator[NDArray[np.uint8]]:
    """Levels of each variant, which differ in their number alone."""
    first = variants[0].method
    regions = first.find_regions(picture) if isinstance(first, RegionMethod) else None
    for variant in variants:
        method = variant.method
        if isinstance(method, RegionMethod) and regions is not None:
            yield method.levels_in(regions, picture)
        else:
            yield method.find_levels(picture)


def _variants(baseline: Baseline, cases: Sequence[Case]) -> list[Baseline]:
    """The baseline with every choice that is tried, without classes."""
    plain = replace(baseline, classes=None, labels=None)
    method = baseline.method
    if isinstance(method, Threshold):
        low, high = 0.0, 1.0
        if method.unit == "value":
            ranges = [
                value_range(Picture.of(case.read_image(), smooth_mm=baseline.smooth_mm).grey)
                for case in cases
            ]
            low, high = min(found[0] for found in ranges), max(found[1] for found in ranges)
        bounds = np.linspace(low, max(high, low + 1e-6), _FINE + 1)[1:-1]
        fine = replace(method, bounds=tuple(float(f"{bound:.6g}") for bound in bounds))
        return [replace(plain, method=fine)]
    if not _has_levels(method):
        return [plain]
    return [
        replace(plain, method=cast(LevelMethod, replace(cast(Any, method), levels=levels)))
        for levels in range(2, _MOST_LEVELS + 1)
    ]


def _has_levels(method: object) -> bool:
    return is_dataclass(method) and any(part.name == "levels" for part in fields(method))


def _fitted(
    variant: Baseline, counts: Counts, labels: LabelSet
) -> tuple[Baseline, dict[str, float]]:
    if isinstance(variant.method, Threshold):
        table = _window_table(counts)
        starts = [n for n in range(1, len(table)) if table[n] != table[n - 1]]
        if starts:
            bounds = tuple(variant.method.bounds[n - 1] for n in starts)
            method = replace(variant.method, bounds=bounds)
            classes = [table[n] for n in [0, *starts]]
            variant = replace(variant, method=method)
        else:
            classes = list(table)
    else:
        table = _best_table(counts)
        classes = list(table)
    dice = _dice(counts, np.array(table))
    names = [label.name for label in labels.foreground]
    result = replace(variant, classes=tuple(int(n) for n in classes), labels=_plain_labels(labels))
    return result, dict(zip(names, (float(value) for value in dice), strict=True))


def _best_table(counts: Counts) -> tuple[int, ...]:
    """Class of each level with the highest mean Dice, among tables of likely classes."""
    levels, classes = counts.shape
    width = classes
    while width > 1 and width**levels > _MOST_TABLES:
        width -= 1
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    choices = [
        sorted({0, *(int(n) for n in np.argsort(-shares[level], kind="stable")[:width])})
        for level in range(levels)
    ]
    # Of equal tables the first, which has more background.
    return max(product(*choices), key=lambda table: _worth(_dice(counts, np.array(table))))


def _window_table(counts: Counts) -> tuple[int, ...]:
    """Class of each fine level: that of the best windows which hold it, the commonest there."""
    num_levels, num_classes = counts.shape
    is_inside = np.zeros((num_levels, num_classes), np.bool_)
    is_inside[:, 0] = True
    all_before = np.concatenate([[0], counts.sum(axis=1).cumsum()])
    for class_id in range(1, num_classes):
        before = np.concatenate([[0], counts[:, class_id].cumsum()])
        # Row: first level of the window; column: first level after it.
        common = before[None] - before[:, None]
        predicted = all_before[None] - all_before[:, None]
        dice = np.where(common > 0, 2 * common / np.maximum(predicted + before[-1], 1), 0)
        first, last = np.unravel_index(int(dice.argmax()), dice.shape)
        is_inside[first:last, class_id] = dice[first, last] >= _WORTHWHILE
    # Within a window the background gives way, or no window would hold anything rare.
    weights = np.where(is_inside, counts + 1, 0).astype(np.float64)
    weights[:, 0] = 0.5
    return tuple(int(n) for n in weights.argmax(axis=1))


def _worth(dice: NDArray[np.float64]) -> float:
    """Mean Dice of the classes that are found well enough to be told from others."""
    return float(np.where(dice >= _WORTHWHILE, dice, 0).mean())


def _dice(counts: Counts, table: NDArray[np.integer]) -> NDArray[np.float64]:
    """Dice of each foreground class if levels become the classes of `table`."""
    found = np.zeros(counts.shape[1], np.float64)
    for class_id in range(1, counts.shape[1]):
        chosen = table == class_id
        common = counts[chosen, class_id].sum()
        total = counts[chosen].sum() + counts[:, class_id].sum()
        found[class_id] = 2 * common / total if total else 0.0
    return found[1:]


def _plain_labels(labels: LabelSet) -> dict[str, Any]:
    mapping = labels.to_mapping()
    mapping.pop("ignore", None)
    return mapping
