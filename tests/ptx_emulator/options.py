"""How a launch is to be run: the order of blocks and warps, and what is watched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ORDERS = ("forward", "reverse", "shuffled")


@dataclass(frozen=True)
class Options:
    """Choices of a run; none of them may change what a correct kernel computes.

    Attributes:
        order: "forward": all warps of the resident blocks together, blocks in order. "reverse": the last blocks first,
            and in a block the last quarter of its warps as far as it can go, then the one before. "shuffled": blocks in
            random order, warps in two random halves that take turns at random.
        seed: of "shuffled".
        races: report unordered accesses.
        counters: count instructions, bank conflicts and sectors.
        mma: "exact" sums every dot product exactly and rounds once; "ampere" and "hopper" truncate as these tensor
        cores do.
        max_instructions: of one group of warps' steps, after which a launch counts as stuck.
        resident_threads: blocks run side by side up to so many threads (at least one block).
    """

    order: str = "forward"
    seed: int = 0
    races: bool = True
    counters: bool = False
    mma: str = "exact"
    max_instructions: int = 5_000_000
    resident_threads: int = 2048

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order {self.order!r} is none of {ORDERS}")
        if self.mma not in ("exact", "ampere", "hopper"):
            raise ValueError(f"mma {self.mma!r} is none of exact, ampere, hopper")


class Order:
    """The decisions that an order makes, in one place."""

    def __init__(self, options: Options):
        self.name = options.order
        self.random = np.random.default_rng(options.seed)

    def blocks(self, count: int) -> np.ndarray:
        """The block numbers in the order they become resident."""
        if self.name == "reverse":
            return np.arange(count)[::-1]
        return self.random.permutation(count) if self.name == "shuffled" else np.arange(count)

    def gangs(self, blocks: int, warps: int) -> np.ndarray:
        """For every resident warp the number of the gang it walks with; gangs of higher number go first."""
        if self.name == "reverse":
            return np.tile(np.arange(warps) * min(warps, 4) // warps, blocks)
        if self.name == "shuffled":
            return self.random.integers(0, 2, blocks * warps)
        return np.zeros(blocks * warps, np.int64)

    def lanes(self, count: int) -> np.ndarray:
        """The order in which the threads of one instruction reach an atomic."""
        if self.name == "reverse":
            return np.arange(count)[::-1]
        return self.random.permutation(count) if self.name == "shuffled" else np.arange(count)
