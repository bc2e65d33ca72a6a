import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s.schedules import confidence_weight, rate_factor, warmup_steps

SHAPES = st.sampled_from(["cosine", "linear", "constant"])


def test_the_rate_rises_linearly_over_the_warmup_and_no_step_is_at_zero():
    factors = [rate_factor(i, 100, schedule="linear", warmup=4) for i in range(4)]
    assert factors == [0.25, 0.5, 0.75, 1.0]


def test_without_warmup_the_first_step_has_the_peak():
    assert all(rate_factor(0, 10, schedule=shape) == 1.0 for shape in ("cosine", "linear", "constant"))


def test_the_linear_decay_would_reach_its_end_one_past_the_last_step():
    assert rate_factor(50, 100, schedule="linear") == pytest.approx(0.5)
    assert rate_factor(100, 100, schedule="linear", final=0.02) == pytest.approx(0.02)
    assert rate_factor(99, 100, schedule="linear") == pytest.approx(0.01)


def test_the_cosine_decay_is_a_half_wave_after_the_warmup():
    assert rate_factor(60, 110, schedule="cosine", warmup=10) == pytest.approx(0.5)
    assert rate_factor(35, 110, schedule="cosine", warmup=10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_constant_schedule_stays_at_the_peak():
    assert rate_factor(99, 100, schedule="constant", warmup=10) == 1.0


@given(SHAPES, st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_every_rate_lies_between_zero_and_the_peak(schedule, total, fraction, final):
    warmup = warmup_steps(total, fraction)
    factors = [rate_factor(i, total, schedule=schedule, warmup=warmup, final=final) for i in range(total)]
    assert all(0 < f <= 1 for f in factors)
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[:warmup] == sorted(factors[:warmup])


def test_the_confidence_weight_ramps_to_its_peak_without_a_jump():
    weight = [confidence_weight(s, warmup=0.2, peak=0.5) for s in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert weight == pytest.approx([0.0, 0.25, 0.5, 0.5, 0.5])
    assert confidence_weight(0.2 - 1e-9, warmup=0.2, peak=0.5) == pytest.approx(0.5, abs=1e-8)


def test_without_warmup_the_confidence_weight_is_at_its_peak_from_the_start():
    assert confidence_weight(0.0, warmup=0.0, peak=0.75) == 0.75


def test_a_warmup_over_all_of_training_never_quite_reaches_the_peak():
    assert confidence_weight(0.99, warmup=1.0, peak=0.5) == pytest.approx(0.495)
