"""What a data set looks like: spacings, shapes, intensities and class volumes, measured case by
case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.atomic import write_text
from medseg.core.errors import GeometryError, InputError, LabelError, MedsegError, raise_all
from medseg.core.identity import Case
from medseg.core.labels import LabelSet

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
        InputError: a case cannot be read, its reference does not fit, or channel numbers differ.
    """

    def one(case: Case) -> tuple[CaseFingerprint, Any] | MedsegError:
        try:
            return _measure_case(case, labels)
        except MedsegError as error:
            return type(error)(
                f"case {case.key}, {error.where}", error.what, error.remedy, code=error.code
            )
        finally:
            if on_progress:
                on_progress()

    with ThreadPoolExecutor(num_threads) as pool:
        outcomes = list(pool.map(one, cases))
    raise_all(
        [outcome for outcome in outcomes if isinstance(outcome, MedsegError)],
        where="data.source",
        what="cases cannot be used",
    )
    measured = [outcome for outcome in outcomes if not isinstance(outcome, MedsegError)]
    counts = {facts.num_channels for facts, _ in measured}
    if len(counts) > 1:
        raise InputError(
            "data.source",
            f"cases have different numbers of channels: {sorted(counts)}",
            "give every case the same channels",
            code="E_CHANNELS",
        )
    if training is not None:
        measured = [(facts, samples) for facts, samples in measured if facts.key in training]
    pooled = np.concatenate([samples for _, samples in measured], axis=1)
    return Fingerprint(tuple(facts for facts, _ in measured), _statistics(pooled))


def _measure_case(case: Case, labels: LabelSet) -> tuple[CaseFingerprint, np.ndarray]:
    assert case.read_reference is not None
    volume = case.read_image()
    reference = case.read_reference()
    difference = volume.geometry.difference(reference.geometry)
    if difference:
        raise GeometryError(
            "reference",
            f"image and reference differ: {difference}",
            "resample the reference to the image",
        )
    unknown = labels.unknown_values(reference.array)
    if unknown:
        raise LabelError(
            "reference",
            f"holds the values {unknown[:5]}, but the labels are {labels.to_mapping()}",
            "correct the reference or data.labels",
        )
    if not np.isfinite(volume.array).all():
        raise InputError(
            "image", "holds NaN or infinite values", "repair the image", code="E_NOT_FINITE"
        )
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
    return facts, samples


def _statistics(samples: np.ndarray) -> tuple[tuple[float, ...], ...]:
    low, high = np.percentile(samples, (0.5, 99.5), axis=1)
    mean, std = samples.mean(axis=1, dtype=np.float64), samples.std(axis=1, dtype=np.float64)
    return tuple(
        tuple(float(value) for value in row) for row in zip(mean, std, low, high, strict=True)
    )
