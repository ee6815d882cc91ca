"""Random generators that are a pure function of what they are for.

Every random choice in the data comes from Philox, a counter-based generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), keyed by the seed and the purpose and started at a counter made of epoch and index. No
generator is carried from one example to the next, so any example of any epoch can be made on its own and a resumed
run makes the same ones.
"""

from __future__ import annotations

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What random numbers are drawn for; each has a stream of its own."""

    BATCHES = 0
    SENTENCE_PAIRS = 1
    MASKING = 2


def generator(seed: int, epoch: int, index: int, purpose: Purpose) -> np.random.Generator:
    """The generator of one (seed, epoch, index) for one purpose. Seeds may be any integer; they count modulo 2^64."""
    mask = 2**64 - 1
    # The lowest counter word stays 0 and is the one that runs, so no two (epoch, index) streams can meet.
    bits = np.random.Philox(
        key=np.array([seed & mask, int(purpose)], dtype=np.uint64),
        counter=np.array([0, index & mask, epoch & mask, 0], dtype=np.uint64),
    )
    return np.random.Generator(bits)
