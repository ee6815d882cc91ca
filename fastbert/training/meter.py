"""What a run measures of itself: its loss terms, its tokens and its time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A window as all processes see it: its tokens, the targets of each loss term, and whether to stop after it."""

    tokens: int
    targets: dict[str, float]
    interrupted: bool


class Meter:
    """Means of the loss terms between two records, and the tokens and seconds of training.

    The clock runs while examples are drawn and steps are made; evaluating and saving stop it.
    """

    def __init__(self, weights: Mapping[str, float], device: torch.device, *, every: int) -> None:
        self._weights, self._device, self._every = weights, device, every
        self.tokens, self.seconds = 0, 0.0
        self._started = 0.0
        self._sums: dict[str, Tensor] = {}
        self._targets: dict[str, float] = {}
        self._norm: Tensor | None = None

    def start(self) -> None:
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += time.perf_counter() - self._started
        yield
        self.start()

    def add(self, sums: dict[str, Tensor], window: Window, norm: Tensor) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0) + value
            self._targets[name] = self._targets.get(name, 0.0) + window.targets[name]
        self._norm = norm
        self.tokens += window.tokens

    def due(self, step: int) -> bool:
        return step % self._every == 0

    def flush(self, sum_over_processes: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, float]:
        """The mean of each term since the last flush, their weighted sum, and the last gradient norm."""
        sums = sum_over_processes({name: float(value) for name, value in self._sums.items()})
        means = {name: value / max(self._targets[name], 1.0) for name, value in sums.items()}
        loss = sum(self._weights.get(name, 1.0) * value for name, value in means.items())
        norm = float(self._norm) if self._norm is not None else 0.0
        self._sums, self._targets, self._norm = {}, {}, None
        return {"loss": loss, **means, "gradient_norm": norm}

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0
