import pytest

from medseg.training.validation_time import ValidationTime


def started(*, is_unlimited: bool = False, elapsed_s: float = 50.0, progress: float = 0.25):
    time = ValidationTime(is_unlimited=is_unlimited)
    time.begin(elapsed_s=elapsed_s, progress=progress, training_s_per_voxel=0.001)
    return time


def test_one_validation_takes_at_most_a_twentieth_of_the_whole_training():
    # 50 s are a quarter, so the whole takes 200 s and a validation 10 s of it.
    time = started()

    affordable = []
    for _ in range(6):
        affordable.append(time.affords(1000))
        if affordable[-1]:
            time.add(3.0, num_voxels=1000)

    assert affordable == [True, True, True, False, False, False]
    assert time.spent_s == pytest.approx(9.0)


def test_before_the_first_case_its_cost_is_taken_from_the_training_steps():
    time = started()

    assert time.affords(10_000)
    assert not time.affords(10_001)


def test_cases_are_judged_by_their_size_once_one_was_looked_at():
    time = started()
    time.add(4.0, num_voxels=1000)

    assert time.affords(1500)
    assert not time.affords(1501)


def test_a_validation_is_due_when_those_before_took_less_than_a_twentieth():
    time = started()
    time.add(3.0, num_voxels=1000)

    assert not time.is_due(59.0)
    assert time.is_due(61.0)


def test_short_trainings_are_validated_for_a_second():
    time = started(elapsed_s=0.5, progress=1.0)

    assert time.affords(1000)
    assert not time.affords(1001)


def test_an_unlimited_validation_looks_at_everything():
    time = started(is_unlimited=True)
    time.add(1000.0, num_voxels=1)

    assert time.is_due(1.0)
    assert time.affords(10**12)
