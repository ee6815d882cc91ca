"""Fixtures that tests of several parts share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def seed() -> int:
    """Seeds torch's generators; returns the seed, for numpy's and Python's."""
    value = 20180611
    torch.manual_seed(value)
    return value


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch, and the kernels with it, on two threads; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
