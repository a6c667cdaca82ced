import numpy as np
import pytest

from medseg.core.labels import LabelSet
from medseg.metrics.calibration import brier_score, expected_calibration_error
from medseg.reports.case_facts import reliability_counts

LABELS = LabelSet.from_names(["background", "liver", "tumour"])


def test_reliability_gives_the_scores_of_the_voxels_around_the_structures():
    generator = np.random.default_rng(0)
    reference = np.zeros((30, 20, 10), np.uint8)
    reference[10:20, 5:15, 2:8] = generator.integers(0, 3, (10, 10, 6))
    shares = generator.dirichlet(np.ones(3), reference.size).T.reshape(3, *reference.shape)

    found = reliability_counts(reference, shares, labels=LABELS)

    box = (slice(8, 22), slice(3, 17), slice(0, 10))  # a fifth more on each side
    flat = shares[(slice(None), *box)].reshape(3, -1).T
    truth = reference[box].ravel()
    assert found.expected_calibration_error == pytest.approx(
        expected_calibration_error(flat, truth), abs=1e-12
    )
    assert found.brier_score == pytest.approx(brier_score(flat, truth), abs=1e-12)
    assert (found + found).expected_calibration_error == pytest.approx(
        found.expected_calibration_error
    )


def test_channels_that_are_not_the_classes_and_empty_references_have_no_reliability():
    shares = np.full((2, 4, 4, 4), 0.5)

    assert reliability_counts(np.ones((4, 4, 4), int), shares, labels=LABELS) is None
    assert (
        reliability_counts(np.zeros((4, 4, 4), int), np.ones((3, 4, 4, 4)), labels=LABELS) is None
    )
