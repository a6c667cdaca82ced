import numpy as np
import pytest
from scipy.stats import norm

from medseg.metrics.paired import holm_adjusted, paired_difference

NAN = float("nan")


def test_the_mean_difference_and_wins_are_those_of_the_pairs():
    found = paired_difference([0.5, 0.6, 0.7, NAN], [0.6, 0.6, 0.9, 1.0])

    assert (found.num_cases, found.num_higher, found.num_lower) == (3, 2, 0)
    assert found.difference == pytest.approx(0.1)
    assert (found.first, found.second) == pytest.approx((0.6, 0.7))


def test_the_test_counts_signed_ranks():
    # Five gaps of one sign: 2 of the 2**5 sign patterns are as extreme, so p = 1/16.
    found = paired_difference([1, 2, 3, 4, 5], [1.1, 2.2, 3.3, 4.4, 5.5])

    assert found.p_value == pytest.approx(1 / 16)


def test_the_interval_is_that_of_the_normal_approximation_for_many_cases():
    gaps = np.random.default_rng(3).normal(0.02, 0.1, 2000)

    found = paired_difference(np.zeros(2000), gaps)

    half = norm.ppf(0.975) * gaps.std(ddof=1) / np.sqrt(2000)
    assert found.low == pytest.approx(gaps.mean() - half, abs=3e-4)
    assert found.high == pytest.approx(gaps.mean() + half, abs=3e-4)


def test_equal_values_differ_in_nothing_and_one_case_says_nothing():
    same = paired_difference([0.4, 0.5], [0.4, 0.5])
    single = paired_difference([0.4], [0.5])

    assert (same.p_value, same.low, same.high) == (1.0, 0.0, 0.0)
    assert np.isnan([single.p_value, single.low, single.high]).all()
    assert paired_difference([NAN], [0.5]).num_cases == 0


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_falls():
    assert holm_adjusted([0.01, NAN, 0.04, 0.03]) == pytest.approx(
        [0.03, NAN, 0.06, 0.06], nan_ok=True
    )
