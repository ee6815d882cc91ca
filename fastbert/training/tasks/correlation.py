"""How well predicted numbers follow the true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


def correlations(predicted: Sequence[float], true: Sequence[float]) -> dict[str, float]:
    """Pearson's coefficient, and Spearman's, which is Pearson's of the ranks, equal values sharing their mean rank.

    Both are in [-1, 1], and 0 where a side is constant: there the definition has no value.
    """
    x, y = np.array(predicted, dtype=np.float64), np.array(true, dtype=np.float64)
    return {"pearson": pearson(x, y), "spearman": pearson(_ranks(x), _ranks(y))}


def pearson(x: Numbers, y: Numbers) -> float:
    """Pearson's coefficient of (n,) and (n,) values, 0 where a side is constant."""
    if not x.size or (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    x, y = (centred / np.abs(centred).max() for centred in (x - x.mean(), y - y.mean()))  # squares stay in range
    return float((x @ y) / np.sqrt((x @ x) * (y @ y)))


def _ranks(values: Numbers) -> Numbers:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank: Numbers = np.cumsum(count) - (count - 1) / 2
    return mean_rank[group]
