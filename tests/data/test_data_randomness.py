"""Generators keyed by seed, epoch, index and purpose."""

from __future__ import annotations

import itertools

import numpy as np

from fastbert.data.randomness import Purpose, generator


def test_same_key_same_numbers_and_any_other_key_others() -> None:
    keys = list(itertools.product((0, 1, -1, 2**63), (0, 1), (0, 1, 2), Purpose))
    draws = [tuple(generator(*key).integers(0, 2**63, 4).tolist()) for key in keys]
    assert draws == [tuple(generator(*key).integers(0, 2**63, 4).tolist()) for key in keys]
    assert len(set(draws)) == len(keys)


def test_streams_of_neighbouring_indices_do_not_overlap() -> None:
    first = generator(5, 0, 0, Purpose.MASKING).integers(0, 2**63, 10_000)
    second = generator(5, 0, 1, Purpose.MASKING).integers(0, 2**63, 10_000)
    assert np.intersect1d(first, second).size == 0


def test_numbers_are_philox_4x64_at_that_counter() -> None:
    expected = np.random.Philox(key=[7, 2], counter=[0, 3, 1, 0]).random_raw(8)
    drawn = generator(7, 1, 3, Purpose.MASKING).bit_generator.random_raw(8)
    assert drawn.tolist() == expected.tolist()
