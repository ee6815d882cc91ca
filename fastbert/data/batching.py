"""Which examples share a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastbert.data.randomness import Purpose, generator


def token_budget_batches(
    lengths: npt.ArrayLike,
    tokens_per_batch: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool,
    bucket: int = 50,
) -> list[list[int]]:
    """Group examples into batches of at most ``tokens_per_batch`` tokens, examples of like length together.

    Packed batches hold no padding, but a backend may pad inside, and then like lengths waste little. With ``shuffle``
    the examples are shuffled, sorted by length only within pools of about ``bucket`` batches, and the batches are
    shuffled again; without it they are sorted by length, shortest first. A pure function: the same arguments give the
    same batches, and every index is in exactly one batch. An example longer than the budget is a batch of its own.

    Args:
        lengths: (n,) tokens of every example.
        tokens_per_batch: the budget, counted without padding.
        seed: of the run.
        epoch: of the run.
        shuffle: random order, or shortest first.
        bucket: pool size in batches; 1 gives nearly unsorted batches, a large one nearly uniform lengths.

    Raises:
        ValueError: ``tokens_per_batch`` or ``bucket`` below 1.
    """
    if tokens_per_batch < 1:
        raise ValueError(f"tokens_per_batch must be at least 1, got {tokens_per_batch}")
    if bucket < 1:
        raise ValueError(f"bucket must be at least 1, got {bucket}")
    sizes = np.asarray(lengths, dtype=np.int64)
    if not shuffle:
        return _cut(np.argsort(sizes, kind="stable"), sizes, tokens_per_batch)
    rng = generator(seed, epoch, 0, Purpose.BATCHES)
    order = rng.permutation(sizes.size)
    pool = (np.cumsum(sizes[order]) - 1) // (bucket * tokens_per_batch)
    # One stable sort by (pool, length): inside a pool equal lengths keep their random order.
    order = order[np.lexsort((sizes[order], pool))]
    batches = _cut(order, sizes, tokens_per_batch)
    return [batches[i] for i in rng.permutation(len(batches))]


def _cut(order: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], tokens_per_batch: int) -> list[list[int]]:
    batches: list[list[int]] = []
    current: list[int] = []
    tokens = 0
    for index, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if current and tokens + size > tokens_per_batch:
            batches.append(current)
            current, tokens = [], 0
        current.append(index)
        tokens += size
    if current:
        batches.append(current)
    return batches
