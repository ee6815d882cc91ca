"""Race detection: which accesses to the same bytes does nothing order?

Every thread knows, for each other thread of its block, up to which moment that thread's accesses happened before its
own next one: a vector clock, with the machine's instruction count as time. Barriers, bar.warp.sync and
acquire/release pairs pass this knowledge on. For every few bytes the shadow holds the last write and the last
readers, as in Flanagan and Freund, "FastTrack" (2009); an access is in order if the earlier one's moment lies within
the knowledge of the thread behind the later.
A barrier of the whole block is one number for the block, so that well synchronised kernels never look at the clocks.

Not seen: a third reader's warp, once two later ones have read the same bytes; a write that leaves the bits as they
were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.access import Space
from ptx_emulator.clocks import Clocks
from ptx_emulator.errors import RaceError
from ptx_emulator.lanes import Lanes
from ptx_emulator.module import TYPE_BITS, Function, Instruction
from ptx_emulator.options import Options

if TYPE_CHECKING:
    from ptx_emulator.machine import Machine

_STRONG = {"volatile", "relaxed", "acquire", "release"}
_MEMORY = ("ld", "st", "atom", "red")


class Writes:
    """The last write of every granule: when, by which thread of the grid, where."""

    def __init__(self, count: int):
        self.time, self.thread, self.line = (
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count, np.int32),
        )


class Shadow:
    """The last plain and the last atomic write, and the last two reading warps, of every granule of an arena."""

    def __init__(self, size: int, granule: int, atomics: bool):
        count = size // granule
        self.granule = granule
        self.plain = Writes(count)
        self.atomic = Writes(count) if atomics else None
        self.turn = np.zeros(count, np.int32)
        self.readers = [Readers(count), Readers(count)]

    def granules(self, offset: np.ndarray, size: int) -> np.ndarray:
        """(lanes, granules of an access), flat."""
        return (offset // self.granule)[:, None] + np.arange(size // self.granule)


class Readers:
    """A warp that read a granule: when, where, and which of its lanes."""

    def __init__(self, count: int):
        self.time, self.warp, self.line = (
            np.zeros(count, np.int64),
            np.full(count, -1, np.int64),
            np.zeros(count, np.int32),
        )
        self.lanes = np.zeros(count, np.uint32)

    def replace(self, at: np.ndarray, other: Readers) -> None:
        for name in ("time", "warp", "line", "lanes"):
            getattr(self, name)[at] = getattr(other, name)[at]


def granules(function: Function) -> dict[str, int]:
    """The smallest access of a kernel to shared and to global memory, in bytes, at most 4."""
    smallest = {"shared": 4, "global": 4}
    for instruction in function.instructions:
        if instruction.opcode not in _MEMORY:
            continue
        kinds = [name for name in instruction.modifiers if name in TYPE_BITS]
        spaces = [name for name in smallest if any(m.split("::")[0] == name for m in instruction.modifiers)]
        if any(name in instruction.modifiers for name in ("local", "param", "const")):
            continue
        for space in spaces or smallest:
            smallest[space] = min(smallest[space], max(1, TYPE_BITS[kinds[-1]] // 8) if kinds else 4)
    return smallest


class Races:
    """The detector of one launch."""

    def __init__(self, function: Function, options: Options):
        self.granule = granules(function)
        self.atomics = any(i.opcode in ("atom", "red") or _STRONG & set(i.modifiers) for i in function.instructions)
        self.clocks = Clocks(any(i.opcode in ("membar", "fence") for i in function.instructions))
        self.everywhere: Shadow | None = None  # of global memory, for the whole launch
        self.shared: Shadow | None = None

    def begin(self, machine: Machine) -> None:
        """New resident blocks."""
        self.machine = machine
        self.clocks.begin(machine)
        size = machine.access.spaces["global"].arena.size
        if self.everywhere is None:
            self.everywhere = Shadow(size, self.granule["global"], self.atomics)
        self.shared = Shadow(machine.access.spaces["shared"].arena.size, self.granule["shared"], self.atomics)
        numbers = np.repeat(machine.block_numbers, machine.block_threads)
        self.identity = numbers * machine.block_threads + machine.thread_in_block  # of a thread in the whole grid
        for name in ("barrier_all", "barrier_arrive", "barrier_complete", "warp_barrier", "fence", "synchronise"):
            setattr(self, name, getattr(self.clocks, name))

    def read(
        self, lanes: Lanes, area: Space, offset: np.ndarray, size: int, instruction: Instruction, atomic: bool = False
    ) -> None:
        """A read of ``size`` bytes by each lane. Raises RaceError."""
        shadow = self._shadow(area)
        at, lane = self._flat(shadow, offset, size)
        self._after_write(lanes, shadow, at, lane, instruction, area, offset, atomic, None)
        if atomic:
            return
        warp = (self.identity[lanes.index] >> 5)[lane]
        last, other = shadow.readers
        foreign = last.warp[at] != warp
        if foreign.any():
            where = at[foreign]
            other.replace(where, last)
            last.warp[where] = warp[foreign]
        # Reads that a barrier has ordered before this one need not be remembered: who follows this one follows them.
        forgotten = foreign | (last.time[at] <= self.clocks.met[lanes.index >> 5][lane])
        last.lanes[at[forgotten]] = 0
        bit = (np.uint32(1) << (lanes.index & 31).astype(np.uint32))[lane]
        mine = last.warp[at] == warp
        np.bitwise_or.at(last.lanes, at[mine], bit[mine])
        last.time[at], last.line[at] = self.machine.now, instruction.line

    def write(
        self,
        lanes: Lanes,
        area: Space,
        offset: np.ndarray,
        size: int,
        instruction: Instruction,
        kind: str,
        values: np.ndarray,
    ) -> None:
        """A write ("write"), an atomic one ("atomic") or the start of a cp.async ("copy"). Raises RaceError."""
        shadow = self._shadow(area)
        at, lane = self._flat(shadow, offset, size)
        pieces = np.ascontiguousarray(values).view(f"u{shadow.granule}").reshape(-1)
        atomic = kind == "atomic"
        self._after_write(lanes, shadow, at, lane, instruction, area, offset, atomic, pieces)
        self._after_reads(lanes, shadow, at, lane, instruction, area, offset)
        if not atomic:
            self._same_instruction(lanes, shadow, at, lane, instruction, offset, pieces)
        self._record(lanes, shadow, at, lane, instruction, atomic)

    def landed(self, lanes: Lanes, area: Space, offset: np.ndarray, size: int, instruction: Instruction) -> None:
        """A cp.async arrives: from now on it is a write of the thread that waited."""
        shadow = self._shadow(area)
        at, lane = self._flat(shadow, offset, size)
        self._record(lanes, shadow, at, lane, instruction, False)

    def _shadow(self, area: Space) -> Shadow:
        shadow = self.shared if area.name == "shared" else self.everywhere
        assert shadow is not None
        return shadow

    @staticmethod
    def _flat(shadow: Shadow, offset: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The granules of all lanes in one row, and the lane (by position) of each."""
        at = shadow.granules(offset, size)
        return at.reshape(-1), np.repeat(np.arange(offset.size), at.shape[1])

    def _record(
        self, lanes: Lanes, shadow: Shadow, at: np.ndarray, lane: np.ndarray, instruction: Instruction, atomic: bool
    ) -> None:
        writes = shadow.atomic if atomic else shadow.plain
        assert writes is not None
        writes.time[at], writes.line[at] = self.machine.now, instruction.line
        writes.thread[at] = self.identity[lanes.index][lane]

    def _after_write(
        self,
        lanes: Lanes,
        shadow: Shadow,
        at: np.ndarray,
        lane: np.ndarray,
        instruction: Instruction,
        area: Space,
        offset: np.ndarray,
        atomic: bool,
        pieces: np.ndarray | None,
    ) -> None:
        """Whether the last writes are in order with an access. Atomics need no order among each other."""
        self._after(shadow.plain, lanes, shadow, at, lane, instruction, area, offset, pieces)
        if shadow.atomic is not None and not atomic:
            self._after(shadow.atomic, lanes, shadow, at, lane, instruction, area, offset, pieces)

    def _after(
        self,
        writes: Writes,
        lanes: Lanes,
        shadow: Shadow,
        at: np.ndarray,
        lane: np.ndarray,
        instruction: Instruction,
        area: Space,
        offset: np.ndarray,
        pieces: np.ndarray | None,
    ) -> None:
        time, thread = writes.time[at], writes.thread[at]
        suspect = (time > self.clocks.settled(lanes, thread, lane)) & (thread != self.identity[lanes.index][lane])
        if not suspect.any():
            return
        if pieces is not None:  # the same bits again change nothing
            suspect &= area.arena.view(8 * shadow.granule, 1)[at, 0] != pieces
        suspects = np.flatnonzero(suspect)
        wrong = suspects[~self.clocks.ordered(lanes.index[lane[suspects]], thread[suspects], time[suspects])]
        if wrong.size:
            first = wrong[0]
            what = "reads" if pieces is None else "writes"
            earlier = f"{self._who(int(thread[first]))} wrote at PTX line {writes.line[at[first]]}"
            self._raise(lanes, int(lane[first]), instruction, offset, area, f"{what} bytes that {earlier}")

    def _after_reads(
        self,
        lanes: Lanes,
        shadow: Shadow,
        at: np.ndarray,
        lane: np.ndarray,
        instruction: Instruction,
        area: Space,
        offset: np.ndarray,
    ) -> None:
        """Whether the last reads are in order with a write."""
        me = self.identity[lanes.index][lane]
        own_bit = np.uint32(1) << (me & 31).astype(np.uint32)
        for readers in shadow.readers:
            time, warp = readers.time[at], readers.warp[at]
            suspect = (time > self.clocks.settled(lanes, warp << 5, lane)) & (warp >= 0)
            if not suspect.any():
                continue
            others = np.where(warp == me >> 5, readers.lanes[at] & ~own_bit, readers.lanes[at])
            for number in np.flatnonzero(suspect & (others != 0)):
                bits = np.flatnonzero(int(others[number]) >> np.arange(32) & 1)
                threads = (int(warp[number]) << 5) + bits
                mine = np.full(bits.size, lanes.index[lane[number]])
                wrong = ~self.clocks.ordered(mine, threads, np.full(bits.size, time[number]))
                if wrong.any():
                    reader = self._who(int(threads[wrong.argmax()]))
                    detail = f"writes bytes that {reader} read at PTX line {readers.line[at[number]]}"
                    self._raise(lanes, int(lane[number]), instruction, offset, area, detail)

    def _same_instruction(
        self,
        lanes: Lanes,
        shadow: Shadow,
        at: np.ndarray,
        lane: np.ndarray,
        instruction: Instruction,
        offset: np.ndarray,
        pieces: np.ndarray,
    ) -> None:
        """Whether two lanes of the instruction write different bits to one place."""
        turn = np.arange(at.size, dtype=np.int32)
        shadow.turn[at] = turn
        winner = shadow.turn[at]
        clash = (winner != turn) & (pieces[winner] != pieces)
        if clash.any():
            first = int(clash.argmax())
            other = self._who(int(self.identity[lanes.index[lane[winner[first]]]]))
            detail = f"writes bytes that {other} writes with other bits at PTX line {instruction.line}"
            self._raise(lanes, int(lane[first]), instruction, offset, None, detail)

    def _who(self, identity: int) -> str:
        """Words for a thread of the grid."""
        machine = self.machine
        number, thread = divmod(identity, machine.block_threads)
        x, y = machine.layout.block[0], machine.layout.block[1]
        return f"thread {(thread % x, thread // x % y, thread // (x * y))} of block {machine.layout.block_at(number)}"

    def _raise(
        self, lanes: Lanes, lane: int, instruction: Instruction, offset: np.ndarray, area: Space | None, detail: str
    ) -> None:
        address = None
        if area is not None:
            address = self.machine.access.address_at(area, int(offset[lane]))
        raise RaceError(
            f"{detail}; nothing orders the two", self.machine.place(instruction, int(lanes.index[lane])), address
        )
