"""cp.async: bytes on their way from global to shared memory.

A copy owns its destination from the instruction on. Its bytes arrive when the thread that issued it waits for its
group, no earlier: a kernel that reads them before is wrong even if the hardware would be quick enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.access import Space
from ptx_emulator.lanes import Lanes
from ptx_emulator.memory import ALLOCATED, PENDING, WRITTEN
from ptx_emulator.module import Instruction

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine


@dataclass
class Copy:
    """What one cp.async of many threads moves."""

    threads: np.ndarray
    offset: np.ndarray  # in the shared arena
    values: np.ndarray  # (threads, items) unsigned
    group: np.ndarray  # per thread the group it belongs to
    instruction: Instruction

    @property
    def size(self) -> int:
        return self.values.shape[1] * self.values.dtype.itemsize


class Copies:
    """The copies in flight of all resident threads, and the groups they are committed in."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.flying: list[Copy] = []
        self.group = np.zeros(machine.threads, np.int64)  # the number of the group that is open
        self.shared: Space | None = None

    def issue(
        self, lanes: Lanes, area: Space, offset: np.ndarray, values: np.ndarray, instruction: Instruction
    ) -> None:
        """Starts a copy whose destination is checked already."""
        self.shared = area
        copy = Copy(lanes.index, offset, values, self.group[lanes.index], instruction)
        self._mark(copy, slice(None), ALLOCATED | PENDING)
        self.flying.append(copy)

    def commit(self, lanes: Lanes) -> None:
        self.group[lanes.index] += 1

    def wait(self, lanes: Lanes, pending: int | None) -> None:
        """Completes what the threads wait for: all but the last ``pending`` groups, or everything, committed or not."""
        if not self.flying:
            return
        last = np.full(self.machine.threads, -1, np.int64)  # the last group of each thread to complete
        last[lanes.index] = self.group[lanes.index] - (1 + pending if pending is not None else 0)
        left = []
        for copy in self.flying:
            done = copy.group <= last[copy.threads]
            if done.all():
                self._land(copy, slice(None))
            elif done.any():
                self._land(copy, done)
                keep = ~done
                left.append(
                    Copy(copy.threads[keep], copy.offset[keep], copy.values[keep], copy.group[keep], copy.instruction)
                )
            else:
                left.append(copy)
        self.flying = left

    def owner(self, area: Space, offset: int, size: int) -> str:
        """Words for the copy that owns some bytes."""
        for copy in self.flying:
            hit = (copy.offset < offset + size) & (copy.offset + copy.size > offset)
            if area is self.shared and hit.any():
                place = self.machine.place(copy.instruction, int(copy.threads[int(hit.argmax())]))
                return f"PTX line {place.line}, thread {place.thread}, not waited for"
        return "not waited for"

    def _land(self, copy: Copy, done: np.ndarray | slice) -> None:
        assert self.shared is not None
        bits, count = copy.values.dtype.itemsize * 8, copy.values.shape[1]
        self.shared.arena.view(bits, count)[copy.offset[done] // copy.size] = copy.values[done]
        self._mark(copy, done, ALLOCATED | WRITTEN)
        if self.machine.races is not None:
            lanes = Lanes(self.machine, copy.threads[done])
            self.machine.races.landed(lanes, self.shared, copy.offset[done], copy.size, copy.instruction)

    def _mark(self, copy: Copy, part: np.ndarray | slice, state: int) -> None:
        assert self.shared is not None
        view = self.shared.arena.view(copy.values.dtype.itemsize * 8, copy.values.shape[1], state=True)
        view[copy.offset[part] // copy.size] = np.array([state] * copy.values.dtype.itemsize, np.uint8).view(
            copy.values.dtype
        )
