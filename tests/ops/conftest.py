"""Which of the contract's tests the emulated CUDA kernels take in the ordinary tier: they need seconds each."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from emulated_cuda import NAME

ONE_IN = 10


def sample(n: int) -> set[int]:
    """One in ten of n, at least one, evenly spread."""
    picks = -(-n // ONE_IN)
    return {(2 * i + 1) * n // (2 * picks) for i in range(picks)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    emulated = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            chosen = item.callspec.params
            # float32 is none of theirs, and skipped at once.
            if chosen.get("backend") == NAME and chosen.get("dtype") != torch.float32:
                emulated[item.path, item.originalname].append(item)
    for tests in emulated.values():
        ordinary = sample(len(tests))
        for number, test in enumerate(tests):
            if number not in ordinary:
                test.add_marker(pytest.mark.slow)
