"""bar.sync, bar.arrive and bar.red: sixteen barriers a block, counted in warps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.errors import DivergenceError, IllegalInstructionError
from ptx_emulator.lanes import Lanes, Writer
from ptx_emulator.module import Instruction

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine
    from ptx_emulator.scheduler import WarpGroup

REDUCTIONS: dict[str, Callable[[np.ndarray], np.generic]] = {
    "popc": lambda votes: np.uint32(np.count_nonzero(votes)),
    "and": lambda votes: np.bool_(votes.all()),
    "or": lambda votes: np.bool_(votes.any()),
}


@dataclass(frozen=True)
class Arrival:
    """What one bar instruction asks for."""

    instruction: Instruction
    barrier: int
    threads: int | None  # expected number; None: every thread of the block that has not left
    waits: bool
    reduction: str = ""
    votes: np.ndarray | None = None  # for every thread of the machine
    writer: Writer | None = None


@dataclass
class Barrier:
    number: int
    block: int
    instruction: Instruction
    expected: int | None = None  # warps
    arrived: dict[int, bool] = field(default_factory=dict)  # warp -> whether it waits
    lanes: list[Lanes] = field(default_factory=list)
    votes: list[np.ndarray] = field(default_factory=list)
    waiting: list[tuple[WarpGroup, Lanes, Arrival]] = field(default_factory=list)

    def __str__(self) -> str:
        expected = "every warp" if self.expected is None else f"{self.expected} warps"
        return (
            f"barrier {self.number} of resident block {self.block} (PTX line {self.instruction.line}), which has seen "
            f"{len(self.arrived)} of {expected}"
        )


class Barriers:
    """The barriers of the resident blocks."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.open: dict[tuple[int, int], Barrier] = {}

    def arrive(self, group: WarpGroup | None, lanes: Lanes, arrival: Arrival) -> None:
        """Takes note that whole warps reached a barrier; their group waits where it has to."""
        machine = self.machine
        self._whole_warps(lanes, arrival.instruction)
        if (
            arrival.waits
            and arrival.threads is None
            and not self.open
            and not arrival.reduction
            and lanes.count == machine.live_threads
        ):
            if machine.races is not None:  # everybody at once, the usual case
                machine.races.barrier_all(lanes)
            return
        block_of_warp = np.arange(machine.warps) // machine.block_warps
        parts = [None] if group is None else machine.scheduler.split(group, block_of_warp)
        for part in parts:
            here = (
                lanes
                if part is None or len(parts) == 1
                else lanes.where(np.isin(lanes.index >> 5, part.entries[0].lanes.warps))
            )
            for block in np.unique(here.block):
                mask = here.block == block
                mine = here if mask.all() else here.where(mask)
                self._arrive(part, mine, int(block), arrival)

    def _arrive(self, group: WarpGroup | None, lanes: Lanes, block: int, arrival: Arrival) -> None:
        key = (block, arrival.barrier)
        barrier = self.open.setdefault(key, Barrier(arrival.barrier, block, arrival.instruction))
        expected = None if arrival.threads is None else arrival.threads // 32
        if barrier.arrived and barrier.expected != expected:
            raise self._illegal(lanes, arrival.instruction, f"{barrier} now hears of {arrival.threads} threads")
        barrier.expected = expected
        twice = [warp for warp in lanes.warps.tolist() if warp in barrier.arrived]
        if twice:
            raise self._illegal(lanes, arrival.instruction, f"warps {twice} arrive a second time at {barrier}")
        barrier.arrived.update(dict.fromkeys(lanes.warps.tolist(), arrival.waits))
        barrier.lanes.append(lanes)
        if arrival.votes is not None:
            barrier.votes.append(arrival.votes[lanes.index])
        if self.machine.races is not None:
            self.machine.races.barrier_arrive(key, lanes)
        if group is not None:
            group.waiting = barrier
            barrier.waiting.append((group, lanes, arrival))
        self._complete(key)

    def left(self, block: int) -> None:
        """Threads of a block have exited: barriers that wait for everybody may be complete now."""
        for key in [key for key in self.open if key[0] == block]:
            self._complete(key)

    def _complete(self, key: tuple[int, int]) -> None:
        barrier = self.open[key]
        machine = self.machine
        needed = machine.live_warps(barrier.block) if barrier.expected is None else barrier.expected
        if len(barrier.arrived) > needed:
            lanes = barrier.lanes[-1]
            raise self._illegal(lanes, barrier.instruction, f"{barrier}, more than it expects")
        if len(barrier.arrived) < needed:
            return
        del self.open[key]
        waiting = [lanes for _, lanes, _ in barrier.waiting]
        if machine.races is not None:
            machine.races.barrier_complete(key, waiting)
        for group, lanes, arrival in barrier.waiting:
            if arrival.reduction and arrival.writer is not None:
                arrival.writer(lanes, REDUCTIONS[arrival.reduction](np.concatenate(barrier.votes)))
            group.waiting = None

    def _whole_warps(self, lanes: Lanes, instruction: Instruction) -> None:
        machine = self.machine
        if lanes.count == machine.live_threads:
            return
        here = np.bincount(lanes.index >> 5, minlength=machine.warps)
        wanted = np.count_nonzero(machine.live.reshape(-1, 32), axis=1)
        partial = (here != 0) & (here != wanted)
        if partial.any():
            warp = int(partial.argmax())
            thread = int(lanes.index[(lanes.index >> 5) == warp][0])
            detail = f"{here[warp]} of the warp's {wanted[warp]} threads reach the barrier, the others stand elsewhere"
            raise DivergenceError(detail, machine.place(instruction, thread))

    def _illegal(self, lanes: Lanes, instruction: Instruction, detail: str) -> IllegalInstructionError:
        return IllegalInstructionError(detail, self.machine.place(instruction, int(lanes.index[0])))
