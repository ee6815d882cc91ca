"""Learning-rate schedules against their closed forms."""

from __future__ import annotations

import math

import pytest

from fastbert.training.schedule import learning_rate_factor, warmup_steps


@pytest.mark.parametrize(("warmup", "total", "expected"), [(0.1, 200, 20), (0.002, 1000, 2), (0, 50, 0), (30, 50, 30)])
def test_warmup_is_a_fraction_below_one_and_steps_above(warmup, total, expected):
    assert warmup_steps(warmup, total) == expected


def test_warmup_rises_linearly_and_peaks_where_it_ends():
    factors = [learning_rate_factor(step, 100, 4, "linear") for step in range(5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_linear_falls_to_zero():
    assert learning_rate_factor(55, 100, 10, "linear") == pytest.approx(0.5)
    assert learning_rate_factor(100, 100, 10, "linear") == 0.0


def test_cosine_is_half_a_wave():
    assert learning_rate_factor(25, 100, 0, "cosine") == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate_factor(100, 100, 0, "cosine") == pytest.approx(0.0)


def test_constant_stays():
    assert {learning_rate_factor(step, 100, 3, "constant") for step in range(3, 101)} == {1.0}
