"""A kernel made ready to run: every instruction turned into a function over lanes, block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ptx_emulator.control_flow import EXITS, blocks_barrier, branch_targets, control_flow
from ptx_emulator.instructions import TABLE
from ptx_emulator.lanes import Action, Lanes, Linker, Reader, unknown
from ptx_emulator.module import Function, Instruction

Guard = Callable[[Lanes], np.ndarray]


@dataclass
class LinkedBlock:
    """A basic block: actions, then perhaps a jump, an exit or a barrier."""

    first: int  # index of its first instruction
    actions: list[Action]
    last: Instruction
    kind: str  # "fall", "jump", "table", "exit" or "barrier"
    guard: Guard | None = None
    follow: int | None = None  # the next block
    targets: list[int | None] = field(default_factory=list)
    selector: Reader | None = None  # of brx.idx
    barrier: Callable[[Lanes], object] | None = None
    meeting: int | None = None


class Program:
    """A linked kernel."""

    def __init__(self, function: Function, linker: Linker):
        self.function = function
        flow = control_flow(function)
        count = len(function.instructions)
        self.blocks: list[LinkedBlock] = []
        for block in flow.blocks:
            last = function.instructions[block.end - 1]
            ends = last.opcode in ("bra", "brx", *EXITS) or blocks_barrier(last)
            inner = function.instructions[block.start : block.end - ends]
            linked = LinkedBlock(
                block.start, [link(i, linker) for i in inner], last, "fall", meeting=block.reconvergence
            )
            linked.follow = flow.block_of[block.end] if block.end < count else None
            if ends:
                linked.guard = _guard(last)
                self._end(linked, last, flow.block_of, linker)
            self.blocks.append(linked)

    def _end(self, linked: LinkedBlock, last: Instruction, block_of: dict[int, int], linker: Linker) -> None:
        if last.opcode in ("bra", "brx"):
            linked.kind = "jump" if last.opcode == "bra" else "table"
            if set(last.modifiers) - {"uni", "idx"}:
                raise unknown(last)
            linked.targets = [block_of.get(target) for target in branch_targets(self.function, last)]
            if linked.kind == "table":
                linked.selector = linker.reader(last.operands[0], "u32", last)
        elif last.opcode in EXITS:
            linked.kind = "exit"
        else:
            linked.kind = "barrier"
            linked.barrier = TABLE[last.opcode](last, linker)


def _guard(instruction: Instruction) -> Guard | None:
    if instruction.guard is None:
        return None
    register, negated = instruction.guard
    slot = register.slot
    return (lambda lanes: ~lanes.get(slot)) if negated else (lambda lanes: lanes.get(slot))


def link(instruction: Instruction, linker: Linker) -> Action:
    """The function that executes an instruction for the lanes that stand at it, its guard included."""
    if instruction.opcode not in TABLE:
        raise unknown(instruction)
    action: Action = TABLE[instruction.opcode](instruction, linker)
    guard = _guard(instruction)
    if guard is None:
        return action

    def guarded(lanes: Lanes) -> None:
        mask = guard(lanes)
        if mask.all():
            action(lanes)
        elif mask.any():
            action(lanes.where(mask))

    return guarded
