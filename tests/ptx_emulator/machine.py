"""The resident blocks of a launch: their registers and memory, and the execution of one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ptx_emulator.access import Access, Space
from ptx_emulator.barriers import Arrival, Barriers
from ptx_emulator.copies import Copies
from ptx_emulator.errors import DeadlockError, DivergenceError, IllegalInstructionError, Place
from ptx_emulator.lanes import STORAGE, Lanes, storage_bits
from ptx_emulator.memory import ALLOCATED, SHARED_START, WRITTEN, Arena, Memory
from ptx_emulator.module import Instruction
from ptx_emulator.options import Options, Order
from ptx_emulator.scheduler import Scheduler, WarpGroup

if TYPE_CHECKING:
    from ptx_emulator.counters import Counters
    from ptx_emulator.launch import Layout
    from ptx_emulator.program import LinkedBlock, Program
    from ptx_emulator.races import Races

_POISON = 0xB5  # what registers and local memory hold before they are written


class Machine:
    """Blocks that are resident together. Threads are padded to whole warps; the padding never runs."""

    def __init__(
        self,
        program: Program,
        layout: Layout,
        memory: Memory,
        options: Options,
        order: Order,
        blocks: np.ndarray,
        races: Races | None,
        counters: Counters | None,
    ):
        self.program, self.layout, self.memory, self.options, self.order = program, layout, memory, options, order
        self.races, self.counters = races, counters
        self.block_numbers = blocks  # in the grid
        width = layout.threads
        self.block_warps = -(-width // 32)
        self.block_threads = self.block_warps * 32
        self.warps = self.block_warps * blocks.size
        self.threads = self.warps * 32
        self.live = np.arange(self.threads) % self.block_threads < width
        self.live_threads = int(np.count_nonzero(self.live))
        self.gangs = order.gangs(blocks.size, self.block_warps)
        self._coordinates()
        self.carry = np.zeros(self.threads, np.bool_)
        self.registers = [self._register(storage_bits(register)) for register in program.function.registers]
        self.shared_bytes = layout.shared_bytes
        self.access = Access(self, self._spaces())
        self.copies = Copies(self)
        self.barriers = Barriers(self)
        self.now = 0
        self.scheduler = Scheduler(self)
        if races is not None:
            races.begin(self)

    def run(self, start: int) -> int:
        """Runs the blocks to their end, the clock starting at ``start``; returns the clock."""
        self.now = start
        self.limit = start + self.options.max_instructions
        self.scheduler.run(self.step)
        return self.now

    def step(self, group: WarpGroup) -> None:
        """One basic block of one group."""
        top = group.top
        if top.block is None:
            self._exit(group, top.lanes)
            return
        lanes = top.lanes
        block = self.program.blocks[top.block]
        if self.counters is not None:
            self.counters.block(top.block, lanes.warps.size)
        for action in block.actions:
            self.now += 1
            action(lanes)
        self.now += 1
        if self.now > self.limit:
            detail = f"{self.options.max_instructions} instructions and no end: a loop that waits for what never comes?"
            raise DeadlockError(detail, self.place(block.last, int(lanes.index[0])))
        self._end(group, block, lanes)

    def _end(self, group: WarpGroup, block: LinkedBlock, lanes: Lanes) -> None:
        if block.kind == "fall":
            group.goto(block.follow)
        elif block.kind == "jump" and block.guard is None:
            group.goto(block.targets[0])
        elif block.kind == "jump":
            self.scheduler.branch(group, block.guard(lanes), block.targets[0], block.follow, block.meeting)
        elif block.kind == "table":
            self._table(group, block, lanes)
        elif block.kind == "exit":
            self._leave(group, block, lanes)
        else:
            self._barrier(group, block, lanes)

    def _table(self, group: WarpGroup, block: LinkedBlock, lanes: Lanes) -> None:
        """brx.idx as a chain of two-way branches, which needs the same index for every lane of a group."""
        assert block.selector is not None
        choice = block.selector(lanes)
        if block.guard is not None or (choice != choice.flat[0]).any():
            raise DivergenceError(
                "a brx.idx whose index differs among threads is not modelled",
                self.place(block.last, int(lanes.index[0])),
            )
        group.goto(block.targets[int(choice.flat[0])])

    def _leave(self, group: WarpGroup, block: LinkedBlock, lanes: Lanes) -> None:
        leaving = lanes if block.guard is None else lanes.where(block.guard(lanes))
        if block.last.opcode == "trap" and leaving.count:
            raise IllegalInstructionError("the kernel traps", self.place(block.last, int(leaving.index[0])))
        if leaving.count == lanes.count:
            self._exit(group, lanes)
            return
        if leaving.count:
            self._exit(group, leaving)
        group.goto(block.follow)

    def _exit(self, group: WarpGroup, lanes: Lanes) -> None:
        self.live[lanes.index] = False
        self.live_threads -= lanes.count
        self.scheduler.exit(group, lanes.index)
        for block in np.unique(lanes.block):
            self.barriers.left(int(block))

    def _barrier(self, group: WarpGroup, block: LinkedBlock, lanes: Lanes) -> None:
        assert block.barrier is not None
        if (
            lanes.warps.size != group.entries[0].lanes.warps.size
        ):  # the others of the group stand elsewhere, they do not arrive
            here = np.zeros(self.warps, np.int64)
            here[lanes.warps] = 1
            group = self.scheduler.split(group, here)[-1]
            lanes = group.top.lanes
        if block.guard is not None:
            mask = block.guard(lanes)
            if not mask.all():
                self._guarded_barrier(group, block, lanes, mask)
                return
        group.goto(block.follow)
        arrival = block.barrier(lanes)
        assert isinstance(arrival, Arrival)
        self.barriers.arrive(group, lanes, arrival)

    def _guarded_barrier(self, group: WarpGroup, block: LinkedBlock, lanes: Lanes, mask: np.ndarray) -> None:
        if not mask.any():
            group.goto(block.follow)
            return
        label = np.zeros(self.warps, np.int64)
        label[lanes.index[mask] >> 5] = 1
        label[lanes.index[~mask] >> 5] += 2
        if (label == 3).any():
            thread = int(lanes.index[mask][0])
            raise DivergenceError(
                "a part of a warp reaches the barrier, the guard keeps the rest away", self.place(block.last, thread)
            )
        for part in self.scheduler.split(group, label):
            top = part.top
            if label[top.lanes.warps[0]] == 1:
                self._barrier(part, block, top.lanes)
            else:
                part.goto(block.follow)

    def place(self, instruction: Instruction, thread: int) -> Place:
        """Where a thread stands, in the launch's own coordinates."""
        block = int(self.block_numbers[thread // self.block_threads])
        coordinates = tuple(int(self.tid[axis][thread]) for axis in range(3))
        return Place(
            self.program.function.name, instruction.line, instruction.text, self.layout.block_at(block), coordinates
        )

    def live_warps(self, block: int) -> int:
        start = block * self.block_threads
        return int(np.count_nonzero(self.live[start : start + self.block_threads].reshape(-1, 32).any(axis=1)))

    @staticmethod
    def pack_lanes(mask: np.ndarray) -> np.ndarray:
        """A truth value for every thread as one 32-bit mask a warp."""
        return np.packbits(mask.reshape(-1, 32), axis=1, bitorder="little").view("<u4")[:, 0]

    def _coordinates(self) -> None:
        width, depth = self.layout.block[0], self.layout.block[1]
        thread = np.arange(self.threads) % self.block_threads
        self.tid = [
            part.astype(np.uint32) for part in (thread % width, thread // width % depth, thread // (width * depth))
        ]
        number = np.repeat(self.block_numbers, self.block_threads)
        across, up = self.layout.grid[0], self.layout.grid[1]
        self.ctaid = [
            part.astype(np.uint32) for part in (number % across, number // across % up, number // (across * up))
        ]
        self.thread_in_block = thread.astype(np.uint32)

    def _register(self, bits: int) -> np.ndarray:
        storage = STORAGE[bits]
        if bits == 1:
            return np.zeros(self.threads, storage)
        return np.full(self.threads * storage.itemsize, _POISON, np.uint8).view(storage)

    def _spaces(self) -> dict[str, Space]:
        layout, blocks = self.layout, self.block_numbers.size
        stride = -(-(SHARED_START + layout.shared_bytes) // 128) * 128
        shared = Arena(stride * blocks)
        shared.state.reshape(blocks, stride)[:, SHARED_START : SHARED_START + layout.shared_bytes] = ALLOCATED
        depth = -(-layout.local_bytes // 32) * 32 + 32  # the last bytes belong to nobody
        local = Arena(depth * self.threads)
        local.data[:] = _POISON
        local.state.reshape(-1, depth)[:, : layout.local_bytes] = ALLOCATED | WRITTEN
        param = Arena(max(len(layout.params), 1))
        param.data[: len(layout.params)] = np.frombuffer(layout.params, np.uint8)
        param.state[: len(layout.params)] = ALLOCATED | WRITTEN
        everything = Space("global", self.memory.arena, self.memory.arena.size, "all")
        return {
            "global": everything,
            "const": everything,
            "shared": Space("shared", shared, stride, "block"),
            "local": Space("local", local, depth, "thread"),
            "param": Space("param", param, param.size, "all"),
        }
