"""From which score on objects are best kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import object_cases
import pytest
import torch

from medseg.metrics.object_pairs import compare_objects
from medseg.tasks.hits import SCORES, best_score, counts_by_score

# Six columns of an image, each an object of the prediction; the reference has some of them.
COLUMNS = np.zeros((30, 5), np.uint16)
for number in range(6):
    COLUMNS[5 * number : 5 * number + 4] = number + 1


def pairs_of(scores, true, *, cut=0):
    """Objects with scores, of which those at `true` are in the reference, with `cut` fewer rows."""
    wanted = np.where(np.isin(COLUMNS, [n + 1 for n in true]), COLUMNS, 0)
    wanted[:, 5 - cut :] = 0
    prediction = object_cases.instances(COLUMNS, labels=object_cases.NUCLEI)
    prediction = replace(prediction, scores=np.array(scores, np.float32))
    reference = object_cases.instances(wanted, labels=object_cases.NUCLEI)
    return compare_objects(reference, prediction, class_ids=[1])


def counts_with(f1):
    """Counts of 1000 objects, none of them wrong, whose F1 from each of SCORES on is as given."""
    shares = torch.tensor([value / (2 - value) for value in f1], dtype=torch.float64)
    right = (1000 * shares).expand(2, -1)
    return torch.stack([right, right * 0, 1000 - right, right], dim=-1)[:, :, None]


def test_the_best_score_keeps_true_objects_and_leaves_out_others():
    pairs = pairs_of([0.62, 0.64, 0.66, 0.18, 0.12, 0.08], true=[0, 1, 2])

    # From 0.2 to 0.6 all true objects are kept, and no other.
    assert 0.3 <= best_score(counts_by_score(pairs)) <= 0.5


@pytest.mark.parametrize("middle", [0.3, 0.5, 0.8])
def test_the_best_score_lies_in_the_middle_of_good_ones(middle):
    f1 = [0.8 - abs(score - middle) for score in SCORES]

    assert best_score(counts_with(f1)) == pytest.approx(middle)


def test_one_score_alone_makes_no_peak():
    f1 = [0.7 if 0.33 < score < 0.67 else 0.6 for score in SCORES]
    f1[-2] = 0.75

    assert best_score(counts_with(f1)) == pytest.approx(0.5)


def test_of_equally_good_scores_the_one_nearest_to_a_half_is_taken():
    f1 = [0.7 if score < 0.8 else 0.5 for score in SCORES]

    assert best_score(counts_with(f1)) == 0.5


def test_counts_are_taken_at_two_overlaps():
    # Of five rows the reference has two: an IoU of 0.4, found but not outlined.
    counts = counts_by_score(pairs_of([0.9] * 6, true=[0, 1, 2, 3, 4, 5], cut=3))

    assert counts.shape == (2, len(SCORES), 1, 4)
    assert counts[0, 0, 0, :3].tolist() == [0, 6, 6]
    assert counts[1, 0, 0, :3].tolist() == [6, 0, 0]
    assert counts[1, -1, 0, :3].tolist() == [0, 0, 6]


def test_a_half_is_taken_where_nothing_is_known():
    pairs = pairs_of([0.2] * 6, true=[])

    assert best_score(counts_by_score(pairs)) == 0.5
    assert best_score(torch.zeros(2, len(SCORES), 1, 4)) == 0.5
