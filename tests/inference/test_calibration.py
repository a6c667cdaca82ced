import numpy as np
import pytest
import torch

from medseg.core.labels import LabelSet
from medseg.inference.calibration import (
    SAMPLES_PER_CASE,
    LogitSample,
    calibrate,
    fit_temperature,
    sample_logits,
)

LABELS = LabelSet.from_names(["background", "liver"], ignore_id=9)


def drawn(count: int, *, temperature: float, seed: int = 0) -> LogitSample:
    """Logits `temperature` times as large as those that the classes were drawn by."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0.0, 2.0, (count, 3))
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    classes = (shares.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return LogitSample((temperature * honest).astype(np.float32), classes)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_logits_were_multiplied_by_is_found(temperature):
    sample = drawn(20_000, temperature=temperature)

    # The standard error of the estimate is about 1 % at this number of samples.
    assert fit_temperature(sample) == pytest.approx(temperature, rel=0.05)


def test_calibration_lowers_error_and_brier_score_of_other_folds_cases():
    folds = [[drawn(4_000, temperature=3.0, seed=n)] for n in range(3)]

    found = calibrate(folds)

    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.num_samples == 12_000
    assert found.after["ece"] < 0.03 < 0.1 < found.before["ece"]
    assert found.after["brier"] < found.before["brier"]


def test_nothing_measured_changes_nothing():
    found = calibrate([[], []])

    assert found.temperature == 1.0
    assert found.num_samples == 0


def test_samples_come_from_the_box_around_the_foreground_and_never_from_ignored_voxels():
    reference = np.zeros((20, 20, 20), np.int16)
    reference[5:10, 5:10, 5:10] = 1  # grown by a fifth: 4 to 11 along each axis
    reference[5, 5, 5] = 9
    logits = torch.zeros(2, 20, 20, 20)
    logits[0] = 1.0
    logits[1, 4, 4, 4] = -7.0

    sample = sample_logits(logits, reference, LABELS)

    assert len(sample.classes) == 7**3 - 1
    assert sample.classes.sum() == 5**3 - 1
    assert (sample.logits[:, 1] == -7.0).sum() == 1


def test_large_cases_are_thinned_out():
    reference = np.ones((30, 30, 30), np.int16)

    sample = sample_logits(torch.zeros(2, 30, 30, 30), reference, LABELS)

    assert sample.logits.shape == (SAMPLES_PER_CASE, 2)


def test_each_region_is_a_question_of_its_own():
    labels = LabelSet.from_mapping(
        {"background": 0, "rim": 1, "core": 2, "regions": {"whole": [1, 2], "inner": [2]}}
    )
    logits = torch.tensor([3.0, -2.0]).view(2, 1, 1, 1)

    sample = sample_logits(logits, np.array([[[1]]]), labels)

    assert sample.logits.tolist() == [[0.0, 3.0], [0.0, -2.0]]
    assert sample.classes.tolist() == [1, 0]
