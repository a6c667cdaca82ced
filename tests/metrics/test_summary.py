import dataclasses
import math

import numpy as np
import pytest

from medseg.metrics.case_scores import CaseScore
from medseg.metrics.summary import METRICS, summarise


def score(case: str, label: str = "liver", class_id: int = 1, **values) -> CaseScore:
    """A score with one number everywhere, or those given."""
    absent = CaseScore.absent(case, label, class_id)
    status = values.pop("status", "both")
    numbers = dict.fromkeys(METRICS, values.pop("all", 0.5)) | values
    return dataclasses.replace(absent, status=status, **numbers)


DICE = (0.9, 0.8, 0.95, 0.7, 0.6)
SCORES = [score(f"case_{n}", dice=value) for n, value in enumerate(DICE)]


def test_mean_median_and_spread_are_those_of_the_cases():
    statistics = summarise(SCORES).labels[0].statistics["dice"]

    assert statistics.num_cases == 5
    assert statistics.mean == pytest.approx(0.79)
    assert statistics.median == pytest.approx(0.8)
    assert statistics.std == pytest.approx(0.1431782106)  # sqrt(0.082 / 4)


def test_the_interval_is_that_of_means_of_cases_drawn_with_replacement():
    statistics = summarise(SCORES, num_resamples=20_000).labels[0].statistics["dice"]

    # All 5^5 = 3125 ordered draws: the exact distribution of the resampled mean.
    draws = np.stack(np.meshgrid(*[DICE] * 5), axis=-1).reshape(-1, 5).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    # 20000 draws leave the limits a standard error of about 0.001.
    assert statistics.low == pytest.approx(low, abs=0.005)
    assert statistics.high == pytest.approx(high, abs=0.005)


def test_a_lower_confidence_gives_a_narrower_interval():
    wide = summarise(SCORES, confidence=0.95).labels[0].statistics["dice"]
    narrow = summarise(SCORES, confidence=0.5).labels[0].statistics["dice"]

    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval_whatever_the_order_of_the_scores():
    values = np.random.default_rng(0).random(30)
    scores = [score(f"case_{n:02}", dice=float(value)) for n, value in enumerate(values)]

    first = summarise(scores, seed=3).labels[0].statistics["dice"]
    again = summarise(scores[::-1], seed=3).labels[0].statistics["dice"]
    other = summarise(scores, seed=4).labels[0].statistics["dice"]

    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_cases_without_a_value_are_left_out_and_counted():
    scores = [
        *SCORES,
        CaseScore.absent("case_5", "liver", 1),
        score("case_6", status="missed", all=0.0, hd95_mm=math.nan),
        score("case_7", status="spurious", all=0.0, hd95_mm=math.nan),
    ]

    liver = summarise(scores).labels[0]

    assert (liver.num_both, liver.num_missed, liver.num_spurious, liver.num_absent) == (5, 1, 1, 1)
    assert liver.statistics["dice"].num_cases == 7
    assert liver.statistics["dice"].mean == pytest.approx(sum(DICE) / 7)
    assert liver.statistics["hd95_mm"].num_cases == 5
    assert liver.statistics["hd95_mm"].mean == 0.5


def test_overall_is_the_mean_over_the_classes():
    scores = [
        score("a", all=0.9),
        score("b", all=0.7),
        score("a", "tumour", 2, all=0.3),
        CaseScore.absent("b", "tumour", 2),
    ]

    summary = summarise(scores)

    assert summary.num_cases == 2
    assert [label.label for label in summary.labels] == ["liver", "tumour"]
    assert summary.overall.label == "overall"
    assert summary.overall.statistics["dice"].mean == pytest.approx((0.8 + 0.3) / 2)
    assert summary.overall.statistics["dice"].num_cases == 2
    assert summary.overall.num_absent == 1


def test_the_overall_interval_keeps_the_classes_of_a_case_together():
    # What one class gains in a case the other loses: the mean over classes is 0.5 in every draw.
    scores = [
        score(f"case_{n}", label, class_id, all=value if class_id == 1 else 1 - value)
        for n, value in enumerate(DICE)
        for label, class_id in (("liver", 1), ("tumour", 2))
    ]

    overall = summarise(scores).overall.statistics["dice"]

    assert (overall.low, overall.mean, overall.high) == pytest.approx((0.5, 0.5, 0.5))


def test_one_case_has_no_spread_and_no_interval():
    statistics = summarise(SCORES[:1]).labels[0].statistics["dice"]

    assert (statistics.num_cases, statistics.mean) == (1, 0.9)
    assert math.isnan(statistics.std)
    assert math.isnan(statistics.low)
    assert math.isnan(statistics.high)


def test_a_class_absent_everywhere_has_no_mean_and_does_not_enter_the_overall():
    scores = [*SCORES, *(CaseScore.absent(f"case_{n}", "tumour", 2) for n in range(5))]

    summary = summarise(scores)

    assert math.isnan(summary.labels[1].statistics["dice"].mean)
    assert summary.overall.statistics["dice"].mean == pytest.approx(0.79)


def test_a_class_without_scores_for_a_case_counts_as_absent_there():
    summary = summarise([score("a"), score("b"), score("a", "tumour", 2)])

    assert summary.labels[1].num_absent == 1


def test_no_scores_make_an_empty_summary():
    summary = summarise([])

    assert summary.num_cases == 0
    assert summary.labels == ()
    assert math.isnan(summary.overall.statistics["dice"].mean)
