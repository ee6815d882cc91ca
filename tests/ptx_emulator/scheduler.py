"""Groups of warps at the same instruction, their divergence, and who goes next.

Warps that stand at the same instruction with the same history of divergence form a group and are executed together.
Each group has a stack, as a warp has on hardware: where threads part, the entry below waits at the immediate
post-dominator and the parted threads run one after the other until they are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.errors import DeadlockError
from ptx_emulator.lanes import Lanes

if TYPE_CHECKING:
    from ptx_emulator.barriers import Barrier
    from ptx_emulator.machine import Machine

# A spinning group must not starve the one it waits for: it steps back after so many rounds of one block, and of so many
# steps one is for whoever waited longest.
_SPINS = 4
_FAIR_SHARE = 64


@dataclass
class Entry:
    block: int | None  # basic block to run next; None: the kernel's end
    lanes: Lanes
    rejoin: int | None  # block at which this entry ends; -1: never


class WarpGroup:
    """Warps that move together."""

    def __init__(self, entries: list[Entry], gang: int):
        self.entries = entries
        self.gang = gang
        self.waiting: Barrier | None = None
        self.last_run = 0
        self.spins = 0  # how often in a row it ran the same block

    @property
    def top(self) -> Entry:
        return self.entries[-1]

    @property
    def key(self) -> tuple[object, ...]:
        return (self.gang, *((entry.block, entry.rejoin) for entry in self.entries))

    def settle(self) -> None:
        """Drops entries that are empty or have reached the place where they meet the rest."""
        while self.entries:
            top = self.entries[-1]
            if top.lanes.count and (len(self.entries) == 1 or top.block != top.rejoin):
                return
            self.entries.pop()

    def goto(self, block: int | None) -> None:
        self.top.block = block
        self.settle()

    def restricted(self, keep: np.ndarray) -> WarpGroup:
        """The part of the group whose warps (by number) are kept."""
        entries = []
        for entry in self.entries:
            lanes = entry.lanes
            entries.append(Entry(entry.block, lanes.where(keep[lanes.index >> 5]), entry.rejoin))
        return WarpGroup(entries, self.gang)


class Scheduler:
    """Runs the resident blocks of a machine to their end."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.groups: list[WarpGroup] = []
        self.steps = 0
        gangs = machine.gangs
        for gang in np.unique(gangs):
            index = np.flatnonzero(machine.live & np.repeat(gangs == gang, 32))
            if index.size:
                self.groups.append(WarpGroup([Entry(0, Lanes(machine, index), -1)], int(gang)))

    def run(self, step: Callable[[WarpGroup], None]) -> None:
        """Calls ``step`` on group after group until all threads have left. Raises DeadlockError when none can go on."""
        while self.groups:
            runnable = [group for group in self.groups if group.waiting is None]
            if not runnable:
                raise self.deadlock()
            group = self.merged(runnable) if len(runnable) > 1 else runnable[0]
            self.steps += 1
            group.last_run = self.steps
            block = group.top.block
            step(group)
            group.spins = group.spins + 1 if group.entries and group.top.block == block else 0
            if not group.entries and group in self.groups:
                self.groups.remove(group)

    def merged(self, runnable: list[WarpGroup]) -> WarpGroup:
        """Joins groups that stand alike, and picks the next to run."""
        alike: dict[tuple[object, ...], WarpGroup] = {}
        for group in runnable:
            first = alike.setdefault(group.key, group)
            if first is not group:
                for mine, other in zip(first.entries, group.entries, strict=True):
                    mine.lanes = Lanes(self.machine, np.sort(np.concatenate([mine.lanes.index, other.lanes.index])))
                self.groups.remove(group)
        candidates = list(alike.values())
        candidates = [group for group in candidates if group.spins < _SPINS] or candidates
        order = self.machine.order
        if self.steps % _FAIR_SHARE == 0:
            return min(candidates, key=lambda group: group.last_run)
        if order.name == "shuffled":
            gangs = sorted({group.gang for group in candidates})
            chosen = gangs[int(order.random.integers(len(gangs)))]
        else:
            chosen = max(group.gang for group in candidates)
        return min((group for group in candidates if group.gang == chosen), key=lambda group: group.top.block)

    def split(self, group: WarpGroup, label: np.ndarray) -> list[WarpGroup]:
        """Parts a group by a label for every warp of the machine; the parts take the group's place."""
        warps = group.entries[0].lanes.warps
        values = np.unique(label[warps])
        if values.size == 1:
            return [group]
        self.groups.remove(group)
        parts = []
        for value in values:
            part = group.restricted(label == value)
            part.settle()
            if part.entries:
                parts.append(part)
        self.groups.extend(parts)
        return parts

    def branch(
        self, group: WarpGroup, taken: np.ndarray, target: int | None, follow: int | None, meeting: int | None
    ) -> None:
        """Sends the lanes of the top entry to ``target`` where ``taken``, else to ``follow``."""
        if taken.all() or target == follow:
            group.goto(target)
            return
        if not taken.any():
            group.goto(follow)
            return
        lanes = group.top.lanes
        warp = lanes.index >> 5
        total = np.bincount(warp, minlength=self.machine.warps)
        ones = np.bincount(warp[taken], minlength=self.machine.warps)
        # 0: nobody of the warp is here, 1: all jump, 2: none jumps, 3: the warp diverges
        label = np.where(total == 0, 0, np.where(ones == total, 1, np.where(ones == 0, 2, 3)))
        goes = np.zeros(self.machine.threads, np.bool_)
        goes[lanes.index[taken]] = True
        for part in self.split(group, label):
            kind = int(label[part.entries[0].lanes.warps[0]])
            if kind in (1, 2):
                part.goto(target if kind == 1 else follow)
            elif kind == 3:
                self.diverge(part, goes, target, follow, meeting)

    def diverge(
        self, group: WarpGroup, goes: np.ndarray, target: int | None, follow: int | None, meeting: int | None
    ) -> None:
        top = group.top
        mask = goes[top.lanes.index]
        sides = [Entry(follow, top.lanes.where(~mask), meeting), Entry(target, top.lanes.where(mask), meeting)]
        top.block = meeting
        if len(group.entries) > 1 and meeting == top.rejoin:
            group.entries.pop()  # the entry below already waits there; a loop must not grow the stack
        group.entries.extend(side for side in sides if side.block != meeting)
        group.settle()

    def exit(self, group: WarpGroup, leaving: np.ndarray) -> None:
        """Takes threads out of every entry of the group."""
        gone = np.zeros(self.machine.threads, np.bool_)
        gone[leaving] = True
        for entry in group.entries:
            mask = gone[entry.lanes.index]
            if mask.any():
                entry.lanes = entry.lanes.where(~mask)
        group.settle()

    def deadlock(self) -> DeadlockError:
        """The report of who waits where."""
        waits = [f"warps {group.top.lanes.warps.tolist()} at {group.waiting}" for group in self.groups]
        first = self.groups[0]
        assert first.waiting is not None
        place = self.machine.place(first.waiting.instruction, int(first.top.lanes.index[0]))
        return DeadlockError("nobody can go on: " + "; ".join(waits), place)
