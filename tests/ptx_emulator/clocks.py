"""Who knows of whose accesses: the vector clocks behind race detection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.lanes import Lanes
from ptx_emulator.memory import GLOBAL_BASE

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine

Knowledge = dict[int, np.ndarray]  # block number in the grid -> for each of its threads the moment known


def _join(into: Knowledge, other: Knowledge) -> None:
    for block, moments in other.items():
        into[block] = np.maximum(into[block], moments) if block in into else moments.copy()


class Clocks:
    """Happens-before among the threads of a launch.

    Inside a block it is exact. Between blocks knowledge travels only through atomics (acquire and release, or a fence
    beside a relaxed one) and is kept per thread in a dictionary, as few threads ever have any.
    """

    def __init__(self, fences: bool):
        self.fences = fences  # without any fence in the kernel a relaxed atomic orders nothing
        self.published: dict[tuple[int, int], Knowledge] = {}  # by address: what its releases passed on

    def begin(self, machine: Machine) -> None:
        self.machine = machine
        blocks, width = machine.block_numbers.size, machine.block_threads
        self.known = np.zeros((blocks, width, width), np.int64)  # [block, thread, of thread]
        self.base = np.zeros(blocks, np.int64)  # the last barrier of the whole block
        self.met = np.zeros(machine.warps, np.int64)  # the last barrier of a whole warp, or of its block
        self.foreign: dict[int, Knowledge] = {}  # by resident thread
        self.pending: dict[int, list[Knowledge]] = {}  # read by relaxed atomics, waiting for a fence
        self.fenced = np.zeros(machine.threads, np.int64)
        self.arrived: dict[tuple[int, int], list[tuple[np.ndarray, int, np.ndarray]]] = {}

    def settled(self, lanes: Lanes, thread: np.ndarray, lane: np.ndarray) -> np.ndarray:
        """The moment up to which accesses of other threads (of the grid) are in order for sure."""
        machine = self.machine
        if machine.block_numbers.size == 1 and lanes.machine.layout.grid == (1, 1, 1):
            return self.base[0]
        block = lanes.block[lane]
        return np.where(thread // machine.block_threads == machine.block_numbers[block], self.base[block], 0)

    def ordered(self, mine: np.ndarray, thread: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Whether accesses of grid threads at a time happened before what resident threads do now."""
        machine = self.machine
        width = machine.block_threads
        block, own = mine // width, mine % width
        other_block, other = thread // width, thread % width
        same = machine.block_numbers[block] == other_block
        known = np.where(same, np.maximum(self.known[block, own, other], self.base[block]), 0)
        for number in np.flatnonzero(~same):
            moments = self.foreign.get(int(mine[number]), {}).get(int(other_block[number]))
            if moments is not None:
                known[number] = moments[other[number]]
        return (time <= known) | (same & (own == other))

    # Barriers

    def barrier_all(self, lanes: Lanes) -> None:
        """Every living thread of every resident block stands at a barrier."""
        machine = self.machine
        if machine.live_threads == machine.layout.threads * machine.block_numbers.size:
            self.base[:] = machine.now
            self.met[:] = machine.now
            self._share_foreign(lanes.index)
            return
        for block in np.unique(lanes.block):
            members = lanes.index[lanes.block == block]
            self._meet(members, members, np.full(members.size, machine.now), None)

    def barrier_arrive(self, key: tuple[int, int], lanes: Lanes) -> None:
        block = key[0]
        rows = self.known[block, lanes.index % self.machine.block_threads].max(axis=0)
        self.arrived.setdefault(key, []).append((lanes.index, self.machine.now, rows))

    def barrier_complete(self, key: tuple[int, int], waiting: list[Lanes]) -> None:
        """The threads that waited know what those that arrived knew when they did."""
        parts = self.arrived.pop(key)
        members = np.concatenate([index for index, _, _ in parts])
        moments = np.concatenate([np.full(index.size, now) for index, now, _ in parts])
        waiters = np.concatenate([lanes.index for lanes in waiting]) if waiting else members[:0]
        if waiters.size == members.size == self.machine.layout.threads:
            self.base[key[0]] = self.machine.now
            warps = self.machine.block_warps
            self.met[key[0] * warps : (key[0] + 1) * warps] = self.machine.now
            self._share_foreign(members)
            return
        self._meet(waiters, members, moments, np.max([rows for _, _, rows in parts], axis=0))

    def warp_barrier(self, lanes: Lanes, mask: np.ndarray) -> None:
        """bar.warp.sync: the lanes of each mask know of each other."""
        width, now = self.machine.block_threads, self.machine.now
        if lanes.whole_warps and (mask == 0xFFFF_FFFF).all():
            thread = (lanes.index % width).reshape(-1, 32)
            block = lanes.block.reshape(-1, 32)[:, :1]
            rows = self.known[block, thread].max(axis=1)
            self.known[block, thread] = rows[:, None]
            self.known[block[:, :, None], thread[:, :, None], thread[:, None, :]] = now
            self.met[lanes.warps] = now
            self._share_foreign_by_warp(lanes.index)
            return
        key = (lanes.index >> 5).astype(np.int64) << 32 | mask.astype(np.int64)
        for group in np.unique(key):
            members = lanes.index[key == group]
            self._meet(members, members, np.full(members.size, now), None)

    def _meet(self, waiters: np.ndarray, members: np.ndarray, moments: np.ndarray, rows: np.ndarray | None) -> None:
        if not waiters.size:
            return
        width = self.machine.block_threads
        block = int(waiters[0]) // width
        known, own, of = self.known[block], waiters % width, members % width
        rows = known[of].max(axis=0) if rows is None else rows
        joined = np.maximum(known[own], rows)
        joined[:, of] = np.maximum(joined[:, of], moments)
        known[own] = joined
        self._share_foreign(members)

    def _share_foreign_by_warp(self, index: np.ndarray) -> None:
        if self.foreign:
            for members in index.reshape(-1, 32):
                self._share_foreign(members)

    def _share_foreign(self, members: np.ndarray) -> None:
        if not self.foreign:
            return
        by_block: dict[int, Knowledge] = {}
        for thread in members.tolist():
            if thread in self.foreign:
                _join(by_block.setdefault(thread // self.machine.block_threads, {}), self.foreign[thread])
        for thread in members.tolist():
            knowledge = by_block.get(thread // self.machine.block_threads)
            if knowledge:
                self.foreign[thread] = dict(knowledge)

    # Atomics and fences

    def fence(self, lanes: Lanes) -> None:
        self.fenced[lanes.index] = self.machine.now
        for thread in lanes.index.tolist() if self.pending else ():
            for knowledge in self.pending.pop(thread, []):
                self._learn(thread, knowledge)

    def synchronise(
        self, lanes: Lanes, address: np.ndarray, order: str, reads: bool, writes: bool, turns: np.ndarray | None = None
    ) -> None:
        """Atomic, volatile, acquire or release accesses, one lane after another (``turns``), may pass knowledge on."""
        strong = order in ("acquire", "release", "acq_rel")
        if not strong and not self.fences:
            return
        places = np.broadcast_to(address, lanes.count).tolist()
        threads, blocks = lanes.index.tolist(), lanes.block.tolist()
        for lane in range(lanes.count) if turns is None else turns.tolist():
            thread, block, place = threads[lane], blocks[lane], places[lane]
            key = (-1 if place >= GLOBAL_BASE else block, place)
            if reads and key in self.published:
                if order in ("acquire", "acq_rel"):
                    self._learn(thread, self.published[key])
                elif self.fences:
                    self.pending.setdefault(thread, []).append(dict(self.published[key]))
            releases = order in ("release", "acq_rel")
            if writes and (releases or self.fenced[thread]):
                moment = self.machine.now if releases else int(self.fenced[thread])
                _join(self.published.setdefault(key, {}), self._knowledge(thread, moment))

    def _knowledge(self, thread: int, moment: int) -> Knowledge:
        """What a thread passes on: its own accesses up to a moment, and all it knows."""
        width = self.machine.block_threads
        block, own = divmod(thread, width)
        row = np.maximum(self.known[block, own], self.base[block])
        row[own] = moment
        knowledge = {int(self.machine.block_numbers[block]): row}
        _join(knowledge, self.foreign.get(thread, {}))
        return knowledge

    def _learn(self, thread: int, knowledge: Knowledge) -> None:
        block, own = divmod(thread, self.machine.block_threads)
        number = int(self.machine.block_numbers[block])
        for other, moments in knowledge.items():
            if other == number:
                self.known[block, own] = np.maximum(self.known[block, own], moments)
            else:
                _join(self.foreign.setdefault(thread, {}), {other: moments})
