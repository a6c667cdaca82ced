"""Patient-wise folds: who trains, who validates, who is held out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from medseg.core.errors import ConfigError, InputError
from medseg.core.identity import Case

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Case keys of one fold; the three sets share no patient.

    Args:
        train, validation, test: case keys, sorted.
        fold: 0-based number of the fold; None trains on every case and validates on a few of them.
        num_folds, seed: how the folds were cut.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None
    num_folds: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def split_cases(
    cases: Sequence[Case], *, fold: int | str, num_folds: int = 5, seed: int = 0
) -> Split:
    """One cross-validation fold, patients kept together; held-out cases form the test set.

    Args:
        cases: cases with references.
        fold: 0 to num_folds - 1, or "all" to train on everything (validation then only shows fit).
        num_folds: number of folds; as many as there are patients where there are fewer.
        seed: seed of the shuffling; the same cases and seed give the same folds whatever their
            order.

    Raises:
        ConfigError: the fold does not exist.
        InputError: there is a single patient, or a held-out patient also trains.
    """
    test = [case for case in cases if case.is_held_out]
    rest = [case for case in cases if not case.is_held_out]
    patients = sorted({case.patient for case in rest})
    both = {case.patient for case in test} & set(patients)
    if both:
        raise InputError(
            "data.source",
            f"{len(both)} patients have cases in both the training and the held-out set",
            "move all cases of a patient to one side",
            code="E_SPLIT_LEAK",
        )
    test_keys = tuple(sorted(case.key for case in test))
    if fold == "all":
        train = tuple(sorted(case.key for case in rest))
        chosen = np.random.default_rng(seed).permutation(len(train))[
            : max(1, len(train) // num_folds)
        ]
        shown = tuple(sorted(train[n] for n in chosen))
        return Split(train, shown, test_keys, None, num_folds, seed)
    if len(patients) < 2:
        raise InputError(
            "data.source",
            "all cases are of one patient, who cannot be both trained on and validated on",
            "give more patients, or set fold=all to train on every case",
            code="E_TOO_FEW_CASES",
        )
    if len(patients) < num_folds:
        _log.warning(
            "%d folds instead of %d, as there are no more patients", len(patients), num_folds
        )
        num_folds = len(patients)
    if not isinstance(fold, int) or not 0 <= fold < num_folds:
        raise ConfigError("fold", f"is {fold}", f"use 0 to {num_folds - 1}, or all")
    shuffled = np.random.default_rng(seed).permutation(patients)
    validating = set(shuffled[fold::num_folds].tolist())
    return Split(
        tuple(sorted(case.key for case in rest if case.patient not in validating)),
        tuple(sorted(case.key for case in rest if case.patient in validating)),
        test_keys,
        fold,
        num_folds,
        seed,
    )
