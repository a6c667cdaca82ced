import numpy as np
import pytest

from medseg.metrics.calibration import brier_score, expected_calibration_error


def test_calibration_error_worked_by_hand():
    # Ten bins. Two samples at 0.9 (bin 0.8 to 0.9), one right: gap |0.9 - 0.5| = 0.4.
    # Two at 0.6 (bin 0.5 to 0.6), both right: gap 0.4. Mean over the samples: 0.4.
    # One at 0.75, right: gap 0.25.
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.4, 0.6], [0.25, 0.75]])
    classes = np.array([0, 0, 0, 1, 1])

    error = expected_calibration_error(probabilities, classes, num_bins=10)

    assert error == pytest.approx((2 * 0.4 + 2 * 0.4 + 0.25) / 5)


def test_probabilities_that_come_true_as_often_as_they_say_have_no_error():
    probabilities = np.tile([0.75, 0.25], (4, 1))

    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0.0)


def test_certainty_counts_to_the_last_bin():
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]])

    assert expected_calibration_error(probabilities, np.array([0, 1])) == pytest.approx(0.5)


def test_brier_score_worked_by_hand():
    # (0.7 - 1)^2 + 0.2^2 + 0.1^2 = 0.14 and 0.5^2 + (0.5 - 1)^2 + 0 = 0.5.
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])

    assert brier_score(probabilities, np.array([0, 1])) == pytest.approx((0.14 + 0.5) / 2)


def test_the_worst_brier_score_is_two():
    assert brier_score(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(2.0)
