import math

import pytest

from medseg.training.schedules import constant, cosine, poly


def test_poly_falls_as_a_power_of_what_is_left():
    assert [poly(x, power=2.0) for x in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.25, 0.0])


def test_cosine_falls_from_one_to_its_final_value():
    found = [cosine(x, final=0.1) for x in (0.0, 1 / 3, 0.5, 1.0)]

    assert found == pytest.approx([1.0, 0.1 + 0.9 * 0.75, 0.55, 0.1])


def test_constant_stays():
    assert constant(0.0) == constant(0.7) == 1.0


@pytest.mark.parametrize("schedule", [poly, cosine])
def test_warm_up_begins_near_zero_and_ends_at_the_schedule(schedule):
    assert 0 < schedule(0.0, warmup=0.1) < 0.02
    assert schedule(0.05, warmup=0.1) == pytest.approx(0.51 * schedule(0.05))
    assert schedule(0.1, warmup=0.1) == schedule(0.1)


@pytest.mark.parametrize("schedule", [poly, cosine])
def test_progress_beyond_the_end_stays_at_the_end(schedule):
    value = schedule(1.2)

    assert not isinstance(value, complex)
    assert math.isclose(value, schedule(1.0), abs_tol=1e-12)
