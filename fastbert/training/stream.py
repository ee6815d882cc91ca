"""Which examples each optimizer step trains on: a pure function of (seed, epoch, index), cut for the processes.

A *window* is what one optimizer step consumes: ``gradient_accumulation`` micro-batches on each process. Windows are
made for all processes together and dealt out, so every process takes equally many steps, and a run can continue from
three integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastbert.data import EpochView, Examples, collate, token_budget_batches
from fastbert.packing import PackedBatch


@dataclass(frozen=True)
class Position:
    """Where a run stands: ``step`` steps are done; the next one takes ``window`` of ``epoch`` (of its phase)."""

    step: int = 0
    epoch: int = 0
    window: int = 0


@dataclass(frozen=True)
class Segment:
    """A stretch of the run on one set of examples."""

    examples: Examples
    steps: int


@dataclass(frozen=True)
class Share:
    """One process's micro-batch, made of the examples ``indices`` of the epoch.

    ``weight`` is 0 where a process only keeps step: no data was left for it.
    """

    batch: PackedBatch
    weight: float
    indices: Sequence[int] = ()


@dataclass(frozen=True)
class WindowStream:
    """All the windows of a run, for the process ``rank`` of ``world_size``."""

    segments: Sequence[Segment]
    tokens_per_batch: int
    gradient_accumulation: int
    seed: int
    rank: int = 0
    world_size: int = 1

    @property
    def total_steps(self) -> int:
        return sum(segment.steps for segment in self.segments)

    def iterate(self, start: Position) -> Iterator[tuple[list[Share], Position]]:
        """Yield (this process's share of a window, the position after it), from ``start`` to the end of the run."""
        position, first = start, 0
        for segment in self.segments:
            end = first + segment.steps
            if position.step == first:  # a phase counts its own epochs
                position = Position(first)
            while position.step < end:
                view = segment.examples.epoch(position.epoch)
                windows = self.windows(view, position.epoch)
                for index in range(position.window, min(len(windows), position.window + end - position.step)):
                    over = index + 1 == len(windows)
                    position = Position(position.step + 1, position.epoch + over, 0 if over else index + 1)
                    yield self._fetch(view, windows[index]), position
            first = end

    def windows(self, view: EpochView, epoch: int) -> list[list[list[int]]]:
        """The windows of an epoch over all processes: lists of micro-batches, which are lists of example indices."""
        return epoch_windows(
            view,
            tokens_per_batch=self.tokens_per_batch,
            micro_batches=self.gradient_accumulation * self.world_size,
            seed=self.seed,
            epoch=epoch,
        )

    def _fetch(self, view: EpochView, window: list[list[int]]) -> list[Share]:
        mine = window[self.rank :: self.world_size]
        if mine:
            return [Share(collate([view[i] for i in indices]), 1.0, indices) for indices in mine]
        return [Share(collate([view[i] for i in window[0]]), 0.0, window[0])]


def epoch_windows(
    view: EpochView, *, tokens_per_batch: int, micro_batches: int, seed: int, epoch: int
) -> list[list[list[int]]]:
    """Cut an epoch into windows of ``micro_batches`` token-budgeted batches; the last window may be smaller."""
    batches = token_budget_batches(view.lengths, tokens_per_batch, seed=seed, epoch=epoch, shuffle=True)
    return [batches[i : i + micro_batches] for i in range(0, len(batches), micro_batches)]
