"""One temperature that makes the probabilities of a set of cases as often right as they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from medseg.core.labels import LabelSet
from medseg.inference.postprocess import bounding_box
from medseg.metrics.calibration import brier_score, expected_calibration_error
from medseg.metrics.case_scores import mask_of
from medseg.tasks.decoding import decode

SAMPLES_PER_CASE = 5_000
MARGIN = 0.2
"""Voxels are taken from the box around foreground, grown by this share on each side: far away all
probabilities are right and hide what happens at surfaces (Mehrtash et al. 2020, IEEE TMI 39:3868).
"""
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, eq=False)
class LogitSample:
    """Logits of some voxels of a case with what is true there.

    Args:
        logits: (n, C) float32; of a region its logit and that of its absence, 0.
        classes: (n,) true column.
    """

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """A temperature and what it does.

    Args:
        temperature: that logits are divided by; 1 where nothing can be measured.
        num_samples: voxels it was measured on.
        before, after: expected calibration error and Brier score without it and with it; "after"
            gives the cases of each fold the temperature of the other folds' cases.
    """

    temperature: float
    num_samples: int
    before: dict[str, float]
    after: dict[str, float]


def sample_logits(logits: Tensor, reference: NDArray[Any], labels: LabelSet) -> LogitSample:
    """Up to SAMPLES_PER_CASE evenly spaced voxels in and around the foreground.

    Args:
        logits: (channels, I, J, K).
        reference: (I, J, K) class numbers in network space.
        labels: of the channels; ignored voxels are left out.
    """
    found = decode(logits, labels).cpu().numpy()
    foreground = (found > 0) | mask_of(reference, [label.class_id for label in labels.foreground])
    chosen = np.zeros(reference.shape, dtype=bool)
    chosen[_grown(bounding_box(foreground), reference.shape) if foreground.any() else ...] = True
    if labels.ignore_id is not None:
        chosen &= reference != labels.ignore_id
    voxels = np.flatnonzero(chosen)
    if len(voxels) > SAMPLES_PER_CASE:
        voxels = voxels[np.linspace(0, len(voxels) - 1, SAMPLES_PER_CASE).astype(int)]
    flat = logits.reshape(logits.shape[0], -1)
    picked = flat[:, torch.from_numpy(voxels).to(flat.device)].T.float().cpu().numpy()  # (n, C)
    truth = reference.ravel()[voxels].astype(np.int64)
    if not labels.regions:
        return LogitSample(picked, truth)
    inside = np.stack([mask_of(truth, r.class_ids) for r in labels.regions], axis=1)
    columns = np.stack([np.zeros_like(picked), picked], axis=2).reshape(-1, 2)
    return LogitSample(columns, inside.ravel().astype(np.int64))


def calibrate(folds: Sequence[Sequence[LogitSample]]) -> Calibration:
    """The temperature of all samples, and its effect measured across the folds.

    Args:
        folds: samples of the cases that each fold validated.
    """
    joined = [_joined(samples) for samples in folds if samples]
    everything = _joined(joined)
    if not len(everything.classes):
        nothing = {"ece": float("nan"), "brier": float("nan")}
        return Calibration(1.0, 0, nothing, nothing)
    temperature = fit_temperature(everything)
    crossed = [temperature] * len(joined)
    if len(joined) > 1:
        crossed = [
            fit_temperature(_joined([*joined[:n], *joined[n + 1 :]])) for n in range(len(joined))
        ]
    scaled = [_softmax(part.logits / value) for part, value in zip(joined, crossed, strict=True)]
    return Calibration(
        temperature,
        len(everything.classes),
        _measured(_softmax(everything.logits), everything.classes),
        _measured(np.concatenate(scaled), everything.classes),
    )


def fit_temperature(sample: LogitSample) -> float:
    """The temperature of the lowest mean negative log-likelihood (Guo et al. 2017, ICML)."""
    logits = sample.logits.astype(np.float64)
    true = logits[np.arange(len(logits)), sample.classes]

    def cost(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        highest = logits.max(axis=1) * scale
        total = np.log(np.exp(logits * scale - highest[:, None]).sum(axis=1)) + highest
        return float((total - true * scale).mean())

    low, high = np.log(TEMPERATURES)
    best = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(best.x))


def _measured(probabilities: NDArray[np.float64], classes: NDArray[np.int64]) -> dict[str, float]:
    return {
        "ece": expected_calibration_error(probabilities, classes),
        "brier": brier_score(probabilities, classes),
    }


def _joined(samples: Sequence[LogitSample]) -> LogitSample:
    if not samples:
        return LogitSample(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    return LogitSample(
        np.concatenate([sample.logits for sample in samples]),
        np.concatenate([sample.classes for sample in samples]),
    )


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _grown(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    grown = []
    for part, extent in zip(box, shape, strict=True):
        more = int(np.ceil(MARGIN * (part.stop - part.start)))
        grown.append(slice(max(0, part.start - more), min(extent, part.stop + more)))
    return tuple(grown)
