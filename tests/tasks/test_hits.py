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


def test_the_best_score_keeps_true_objects_and_leaves_out_others():
    pairs = pairs_of([0.32, 0.34, 0.36, 0.18, 0.12, 0.08], true=[0, 1, 2])

    # From 0.2 to 0.3 all true objects are kept, and no other.
    assert best_score(counts_by_score(pairs)) == pytest.approx(0.25)


def test_one_object_alone_makes_no_peak():
    # 0.9 is true; below 0.6 four are true and two are not, so that the low scores have the higher
    # F1 over many values, 0.8, and the one at 0.9 is no match (0.4).
    pairs = pairs_of([0.9, 0.6, 0.6, 0.6, 0.3, 0.3], true=[0, 1, 2, 3])

    assert best_score(counts_by_score(pairs)) == pytest.approx(0.5)


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


@pytest.mark.parametrize(("num_objects", "wanted"), [(10, 0.5), (10000, 0.9)])
def test_few_objects_leave_the_score_at_a_half_and_many_decide_it(num_objects, wanted):
    share = torch.where(torch.tensor(SCORES) > 0.83, 0.6, 0.5)
    right = (num_objects * share).expand(2, -1)
    counts = torch.stack([right, right * 0, num_objects - right, right], dim=-1)[:, :, None]

    # F1 is 0.75 from 0.9 on and 0.67 below.
    assert best_score(counts.double()) == pytest.approx(wanted)
