"""Pearson's and Spearman's coefficients, against their definitions."""

from __future__ import annotations

import random
import statistics

import pytest

from fastbert.training.tasks.correlation import correlations


def pearson(x: list[float], y: list[float]) -> float:
    return statistics.correlation(x, y)  # Python's own


def ranks(values: list[float]) -> list[float]:
    """How many are smaller, and half of how many others are equal: the mean rank, from 0."""
    return [sum(other < v for other in values) + (values.count(v) - 1) / 2 for v in values]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_both_are_what_their_definitions_say(seed: int, scale: float) -> None:
    draw = random.Random(seed)
    true = [float(draw.randrange(6)) for _ in range(50)]  # with ties, as scores have
    predicted = [7.0 + scale * (value + draw.gauss(0, 2)) for value in true]
    found = correlations(predicted, true)
    assert found["pearson"] == pytest.approx(pearson(predicted, true), rel=1e-6)
    assert found["spearman"] == pytest.approx(pearson(ranks(predicted), ranks(true)), rel=1e-6)


def test_order_is_all_that_spearman_sees() -> None:
    found = correlations([1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 100.0, 1000.0])
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(pearson([1, 2, 3, 4], [1, 10, 100, 1000]))
    found = correlations([4.0, 3.0, 2.0], [1.0, 2.0, 3.0])
    assert found == {"pearson": pytest.approx(-1), "spearman": pytest.approx(-1)}


@pytest.mark.parametrize(("predicted", "true"), [([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0]), ([1.0], [2.0])])
def test_a_constant_correlates_with_nothing(predicted: list[float], true: list[float]) -> None:
    assert correlations(predicted, true) == {"pearson": 0.0, "spearman": 0.0}
