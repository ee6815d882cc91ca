"""Batches by token budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbert.data import token_budget_batches


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), max_size=200),
    budget=st.integers(1, 400),
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
    bucket=st.integers(1, 5),
)
def test_every_index_once_and_within_budget(
    lengths: list[int], budget: int, seed: int, epoch: int, shuffle: bool, bucket: int
) -> None:
    def batches() -> list[list[int]]:
        return token_budget_batches(lengths, budget, seed=seed, epoch=epoch, shuffle=shuffle, bucket=bucket)

    result = batches()
    assert sorted(index for batch in result for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[i] for i in batch) <= budget for batch in result)
    assert all(result)
    assert batches() == result


def test_epochs_and_seeds_differ_and_batches_are_not_in_order_of_length() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 500)

    def batches(seed: int, epoch: int) -> list[list[int]]:
        return token_budget_batches(lengths, 256, seed=seed, epoch=epoch, shuffle=True)

    assert len({str(batches(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    firsts = [int(lengths[batch[0]]) for batch in batches(0, 0)]
    assert firsts != sorted(firsts)


def test_without_shuffle_the_shortest_come_first() -> None:
    assert token_budget_batches([5, 1, 9, 1, 4], 6, seed=0, epoch=0, shuffle=False) == [[1, 3, 4], [0], [2]]


def test_batches_are_full_and_padding_is_small() -> None:
    lengths = np.random.default_rng(1).integers(8, 129, 4000)
    batches = token_budget_batches(lengths, 2048, seed=3, epoch=0, shuffle=True)
    tokens = int(lengths.sum())
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert len(batches) <= 1.05 * tokens / 2048 + 1
    assert padded <= 1.15 * tokens


@pytest.mark.parametrize(("name", "value"), [("tokens_per_batch", 0), ("bucket", 0)])
def test_errors(name: str, value: int) -> None:
    arguments = {"tokens_per_batch": 8, "bucket": 4, name: value}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        token_budget_batches(
            [1], arguments["tokens_per_batch"], seed=0, epoch=0, shuffle=True, bucket=arguments["bucket"]
        )
