"""Windows: every example once an epoch, dealt out evenly, continued from any position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fastbert.data import Example
from fastbert.training.stream import Position, Segment, WindowStream


@dataclass(frozen=True)
class Numbered:
    """Examples whose first token is their index and whose second is the epoch."""

    sizes: tuple[int, ...]
    number: int = 0

    def epoch(self, epoch: int) -> Numbered:
        return Numbered(self.sizes, epoch)

    @property
    def lengths(self) -> np.ndarray:
        return np.array(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Example:
        return Example(np.array([index, self.number] + [0] * (self.sizes[index] - 2)))


EXAMPLES = Numbered(tuple(2 + (7 * i) % 11 for i in range(40)))


def stream(steps: int, **options) -> WindowStream:
    return WindowStream([Segment(EXAMPLES, steps)], tokens_per_batch=24, gradient_accumulation=2, seed=5, **options)


def contents(shares) -> list[list[tuple[int, int]]]:
    """The (index, epoch) pairs of each micro-batch."""
    result = []
    for share in shares:
        starts = share.batch.cu_seqlens[:-1].long()
        ids = share.batch.input_ids
        result.append(list(zip(ids[starts].tolist(), ids[starts + 1].tolist(), strict=True)))
    return result


def steps_per_epoch() -> int:
    return len(stream(1).windows(EXAMPLES.epoch(0), 0))


def test_an_epoch_holds_every_example_once():
    steps = steps_per_epoch()
    seen = [pair for shares, _ in stream(steps).iterate(Position()) for batch in contents(shares) for pair in batch]
    assert sorted(seen) == [(i, 0) for i in range(40)]


def test_the_run_goes_on_into_the_next_epoch_in_another_order():
    steps = steps_per_epoch()
    windows = [contents(shares) for shares, _ in stream(2 * steps).iterate(Position())]
    assert {epoch for batch in windows[steps] for _, epoch in batch} == {1}
    order = [[index for batch in window for index, _ in batch] for window in windows]
    assert order[:steps] != order[steps:]


@pytest.mark.parametrize("stop", [1, 3, 9, 10, 17])
def test_a_run_continues_from_any_position(stop):
    whole = list(stream(20).iterate(Position()))
    position = whole[stop - 1][1]
    rest = list(stream(20).iterate(position))
    assert position.step == stop
    assert [contents(s) for s, _ in rest] == [contents(s) for s, _ in whole[stop:]]
    assert [p for _, p in rest] == [p for _, p in whole[stop:]]


def test_processes_share_one_window_and_take_equally_many_steps():
    one = [contents(s) for s, _ in stream(12, world_size=1).iterate(Position())]
    ranks = [
        list(
            WindowStream(
                [Segment(EXAMPLES, 12)], tokens_per_batch=24, gradient_accumulation=1, seed=5, rank=r, world_size=2
            ).iterate(Position())
        )
        for r in range(2)
    ]
    assert len(ranks[0]) == len(ranks[1]) == 12
    for step in range(12):
        dealt = [
            batch
            for shares, _ in (ranks[0][step], ranks[1][step])
            for batch, share in zip(contents(shares), shares, strict=True)
            if share.weight
        ]
        assert sorted(dealt) == sorted(one[step])


def test_a_process_without_data_keeps_step_with_weight_zero():
    few = Numbered((5,))
    shares, _ = next(
        WindowStream(
            [Segment(few, 1)], tokens_per_batch=8, gradient_accumulation=1, seed=0, rank=3, world_size=4
        ).iterate(Position())
    )
    assert [share.weight for share in shares] == [0.0]


def test_phases_follow_each_other_and_resume_across_the_border():
    other = Numbered((3,) * 9)
    two = WindowStream([Segment(EXAMPLES, 3), Segment(other, 4)], tokens_per_batch=24, gradient_accumulation=1, seed=5)
    whole = list(two.iterate(Position()))
    assert two.total_steps == len(whole) == 7
    assert all(len(batch) <= 8 for shares, _ in whole[3:] for batch in contents(shares))
    for stop in (2, 3, 4):
        rest = list(two.iterate(whole[stop - 1][1]))
        assert [contents(s) for s, _ in rest] == [contents(s) for s, _ in whole[stop:]]
