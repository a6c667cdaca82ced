"""Scores of drawn cases, against the scores of the cases themselves, each as often as drawn."""

import numpy as np
import pytest

from medseg.metrics.detection import HitCounts, average_precision, hit_counts
from medseg.metrics.object_bootstrap import (
    Bootstrap,
    resampled_average_precision,
    resampled_hits,
    resampled_shares,
)
from medseg.metrics.object_pairs import ObjectPairs
from medseg.metrics.panoptic import panoptic_quality


def case_of(rng, num_references: int, num_predictions: int) -> ObjectPairs:
    """Objects of which some overlap; cases share some scores, so that there are ties."""
    num_pairs = min(num_references, num_predictions)
    return ObjectPairs(
        "c",
        1,
        np.ones(num_references),
        np.ones(num_predictions),
        rng.permutation(14)[:num_predictions] / 20 + 0.3,
        np.zeros(num_predictions, bool),
        rng.permutation(num_references)[:num_pairs],
        rng.permutation(num_predictions)[:num_pairs],
        rng.uniform(0.3, 1, num_pairs),
    )


@pytest.fixture
def cases():
    rng = np.random.default_rng(3)
    sizes = [(4, 6), (7, 3), (0, 2), (5, 0), (9, 12), (0, 0)]
    return [case_of(rng, *size) for size in sizes]


DRAWS = np.array([[1, 1, 1, 1, 1, 1], [0, 2, 1, 0, 2, 1], [3, 0, 0, 0, 3, 0], [0, 0, 6, 0, 0, 0]])


def repeated(cases, times):
    return [case for case, count in zip(cases, times, strict=True) for _ in range(count)]


def test_average_precision_of_a_draw_is_that_of_the_cases_drawn(cases):
    found = resampled_average_precision(cases, 0.5, DRAWS.astype(float))

    expected = [average_precision(repeated(cases, times), 0.5) for times in DRAWS]
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert np.isnan(found[3])  # no reference object was drawn
    assert 0 < found[1] < 1


def test_hits_and_quality_of_a_draw_are_those_of_the_cases_drawn(cases):
    counts = [hit_counts(pairs, 0.5) for pairs in cases]

    found = resampled_hits(counts, DRAWS.astype(float))

    for n, times in enumerate(DRAWS):
        total = sum(repeated(counts, times), HitCounts())
        quality = panoptic_quality(repeated(cases, times))
        expected = {
            "accuracy": total.accuracy, "f1": total.f1,
            "pq": quality.pq, "sq": quality.sq, "rq": quality.rq,
        }  # fmt: skip
        for name, value in expected.items():
            assert found[name][n] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_shares_are_of_sums():
    found = resampled_shares([1, 0], [2, 4], np.array([[1.0, 1.0], [2.0, 0.0]]))

    assert found == pytest.approx([1 / 6, 1 / 2])


def test_an_interval_holds_the_middle_of_the_draws_and_needs_two_cases():
    bootstrap = Bootstrap(confidence=0.8)

    assert bootstrap.interval(np.arange(101.0), 2) == pytest.approx((10, 90))
    assert np.isnan(bootstrap.interval(np.arange(101.0), 1)).all()
    assert bootstrap.draws(7).sum(axis=1) == pytest.approx(np.full(2000, 7))
