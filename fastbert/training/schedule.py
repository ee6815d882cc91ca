"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from fastbert.training.config import Schedule


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Steps of warm-up: ``warmup`` itself, or that fraction of the run when it is below 1."""
    return round(warmup * total_steps) if warmup < 1 else int(warmup)


def learning_rate_factor(step: int, total_steps: int, warmup: int, schedule: Schedule) -> float:
    """What to multiply the peak learning rate with at ``step`` (0-based, of ``total_steps``).

    The warm-up rises linearly and reaches 1 at step ``warmup``; "linear" and "cosine" then fall to 0 at ``total_steps``
    (BERT and GPT-1, in that order), "constant" stays.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
