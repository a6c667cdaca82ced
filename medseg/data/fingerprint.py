"""What a data set looks like: spacings, shapes, intensities and class volumes, measured case by
case.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medseg.core.atomic import write_text
from medseg.core.errors import MAX_LISTED, InputError, raise_all
from medseg.core.identity import Case
from medseg.core.labels import LabelSet
from medseg.data.check import CaseProblem, examine

logger = logging.getLogger(__name__)

NUM_SAMPLES = 10_000
"""Foreground voxels drawn per case for the intensity statistics (as nnU-Net does)."""


@dataclass(frozen=True)
class CaseFingerprint:
    """Facts of one case, on its own grid.

    Args:
        key: case key.
        shape: voxels along i, j, k.
        spacing_mm: along i, j, k.
        orientation: axis codes.
        num_channels: image channels.
        class_voxels: number of voxels per class_id.
        intensity: per channel [mean, std, p0.5, p99.5] of the foreground (of all voxels where there
            is none).
    """

    key: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    num_channels: int
    class_voxels: tuple[int, ...]
    intensity: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Fingerprint:
    """Facts of a data set.

    Args:
        cases: one entry per training case.
        intensity: per channel mean, std, p0.5 and p99.5 of the pooled foreground samples.
    """

    cases: tuple[CaseFingerprint, ...]
    intensity: tuple[tuple[float, ...], ...]

    @property
    def num_channels(self) -> int:
        return self.cases[0].num_channels

    @property
    def is_2d(self) -> bool:
        """True if every case has a single slice along k."""
        return all(case.shape[2] == 1 for case in self.cases)

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Fingerprint:
        content = json.loads(path.read_text())
        return cls(
            tuple(
                CaseFingerprint(
                    key=case["key"],
                    shape=tuple(case["shape"]),
                    spacing_mm=tuple(case["spacing_mm"]),
                    orientation=case["orientation"],
                    num_channels=case["num_channels"],
                    class_voxels=tuple(case["class_voxels"]),
                    intensity=tuple(tuple(row) for row in case["intensity"]),
                )
                for case in content["cases"]
            ),
            tuple(tuple(row) for row in content["intensity"]),
        )


def measure(
    cases: Sequence[Case],
    labels: LabelSet,
    *,
    training: Collection[str] | None = None,
    num_threads: int = 4,
    on_progress: Callable[[], None] | None = None,
) -> Fingerprint:
    """Reads every case once and measures it; all bad cases are reported together.

    Args:
        cases: labelled cases.
        labels: their classes.
        training: keys of the cases that enter the fingerprint, the others are only checked; None
            takes all.
        num_threads: cases read at once.
        on_progress: called after each case.

    Raises:
        InputError: `medseg.data.check` finds an error in a case, or channel numbers differ.
    """

    def one(case: Case) -> _Measured:
        try:
            return _measure_case(case, labels)
        finally:
            if on_progress:
                on_progress()

    with ThreadPoolExecutor(num_threads) as pool:
        outcomes = list(pool.map(one, cases))
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    raise_all(
        [
            InputError(f"case {problem.key}", problem.what, problem.remedy, code=problem.code)
            for problem in problems
            if problem.severity == "error"
        ],
        where="data.source",
        what="problems with the cases",
    )
    _log_warnings(problems)
    measured = [outcome.facts for outcome in outcomes if outcome.facts is not None]
    counts = {facts.num_channels for facts, _ in measured}
    if len(counts) > 1:
        raise InputError(
            "data.source",
            f"cases have different numbers of channels: {sorted(counts)}, such as "
            + " and ".join(
                next(f"{facts.key} ({n})" for facts, _ in measured if facts.num_channels == n)
                for n in sorted(counts)
            ),
            "give every case the same channels",
            code="E_CHANNELS",
        )
    if training is not None:
        measured = [(facts, samples) for facts, samples in measured if facts.key in training]
    pooled = np.concatenate([samples for _, samples in measured], axis=1)
    return Fingerprint(tuple(facts for facts, _ in measured), _statistics(pooled))


@dataclass(frozen=True, eq=False)
class _Measured:
    """Facts of a case with its intensity samples (C, n), or None for one that cannot be used."""

    problems: tuple[CaseProblem, ...]
    facts: tuple[CaseFingerprint, np.ndarray] | None = None


def _measure_case(case: Case, labels: LabelSet) -> _Measured:
    examined = examine(case, labels)
    volume, reference = examined.volume, examined.reference
    is_wrong = any(problem.severity == "error" for problem in examined.problems)
    if is_wrong or volume is None or reference is None:
        return _Measured(examined.problems)
    foreground = np.flatnonzero((reference.array > 0) & (reference.array < len(labels)))
    flat = volume.array.reshape(volume.num_channels, -1)
    candidates = foreground if foreground.size else np.arange(flat.shape[1])
    # An evenly spaced subset needs no random numbers and is the same in every run.
    chosen = candidates[
        np.linspace(0, candidates.size - 1, min(NUM_SAMPLES, candidates.size)).astype(int)
    ]
    samples = flat[:, chosen].astype(np.float32)
    facts = CaseFingerprint(
        key=case.key,
        shape=volume.geometry.shape,
        spacing_mm=volume.geometry.spacing_mm,
        orientation=volume.geometry.orientation,
        num_channels=volume.num_channels,
        class_voxels=tuple(int((reference.array == n).sum()) for n in range(len(labels))),
        intensity=_statistics(samples),
    )
    return _Measured(examined.problems, (facts, samples))


def _log_warnings(problems: Sequence[CaseProblem]) -> None:
    """One line for each kind of problem that training can live with."""
    kinds: dict[str, list[CaseProblem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.code].append(problem)
    for alike in kinds.values():
        keys = ", ".join(problem.key for problem in alike[:MAX_LISTED])
        more = f" and {len(alike) - MAX_LISTED} more" if len(alike) > MAX_LISTED else ""
        logger.warning("%s: %s%s; %s", alike[0].what, keys, more, alike[0].remedy)


def _statistics(samples: np.ndarray) -> tuple[tuple[float, ...], ...]:
    low, high = np.percentile(samples, (0.5, 99.5), axis=1)
    mean, std = samples.mean(axis=1, dtype=np.float64), samples.std(axis=1, dtype=np.float64)
    return tuple(
        tuple(float(value) for value in row) for row in zip(mean, std, low, high, strict=True)
    )
