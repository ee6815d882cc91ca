"""Barriers, fences, and the ends of a kernel."""

from __future__ import annotations

import numpy as np

from ptx_emulator.barriers import Arrival
from ptx_emulator.errors import IllegalInstructionError
from ptx_emulator.instructions.common import SCOPES, Modifiers
from ptx_emulator.instructions.warp import check_members, uniform
from ptx_emulator.lanes import Action, Lanes, Linker, unknown
from ptx_emulator.module import Instruction, Symbol


def barrier(instruction: Instruction, linker: Linker) -> Action:
    """bar.sync, bar.arrive, bar.red and bar.warp.sync, under their longer names too.

    Those at which a thread may wait answer with an Arrival: the machine, not the instruction, lets threads wait.
    """
    modifiers = Modifiers(instruction)
    if modifiers.flag("warp"):
        return _warp_barrier(instruction, linker, modifiers)
    modifiers.flag("cta")
    modifiers.flag("aligned")
    what = modifiers.one_of(("sync", "arrive", "red"))
    reduction = modifiers.one_of(("popc", "and", "or")) if what == "red" else ""
    if what == "red":
        modifiers.type(("u32",) if reduction == "popc" else ("pred",))
    modifiers.done()
    given = list(instruction.operands)
    writer = votes = None
    if what == "red":
        writer = linker.writer(given.pop(0), "u32" if reduction == "popc" else "pred", instruction)
        votes = linker.reader(given.pop(), "pred", instruction)
    if len(given) not in (1, 2) or (what == "arrive" and len(given) != 2):
        raise unknown(instruction)
    number, *count = [linker.reader(operand, "u32", instruction) for operand in given]

    def arrival(lanes: Lanes) -> Arrival:
        identity = uniform(number, lanes, instruction)
        threads = uniform(count[0], lanes, instruction) if count else None
        if identity > 15 or (threads is not None and (threads % 32 or not threads)):
            detail = f"barrier {identity} with {threads} threads: 0 to 15, and a multiple of 32 threads"
            raise IllegalInstructionError(detail, lanes.machine.place(instruction, int(lanes.index[0])))
        everyone = None
        if votes is not None:
            everyone = np.zeros(lanes.machine.threads, np.bool_)
            everyone[lanes.index] = votes(lanes)
        return Arrival(instruction, identity, threads, what != "arrive", reduction, everyone, writer)

    if what != "arrive":
        return arrival

    def arrive(lanes: Lanes) -> None:
        lanes.machine.barriers.arrive(None, lanes, arrival(lanes))

    return arrive


def _warp_barrier(instruction: Instruction, linker: Linker, modifiers: Modifiers) -> Action:
    if not modifiers.flag("sync"):
        raise unknown(instruction)
    modifiers.done()
    member = linker.reader(instruction.operands[0], "b32", instruction)

    def action(lanes: Lanes) -> None:
        mask = check_members(lanes, member(lanes), instruction)
        if lanes.machine.races is not None:
            lanes.machine.races.warp_barrier(lanes, mask)

    return action


def fence(instruction: Instruction, linker: Linker) -> Action:
    """membar and fence: they order a thread's own accesses, for those who synchronise through an atomic."""
    modifiers = Modifiers(instruction)
    if instruction.opcode == "membar":
        modifiers.one_of(("cta", "gl", "sys"))
    else:
        modifiers.one_of(("sc", "acq_rel"), "acq_rel")
        modifiers.one_of(SCOPES)
    modifiers.done()

    def action(lanes: Lanes) -> None:
        if lanes.machine.races is not None:
            lanes.machine.races.fence(lanes)

    return action


def stop(instruction: Instruction, linker: Linker) -> Action:
    """Calls that were left: vprintf, __assertfail."""
    called = [operand.name for operand in instruction.operands if isinstance(operand, Symbol)]

    def action(lanes: Lanes) -> None:
        raise IllegalInstructionError(
            f"{' '.join([instruction.opcode, *called])} reached", lanes.machine.place(instruction, int(lanes.index[0]))
        )

    return action


def nanosleep(instruction: Instruction, linker: Linker) -> Action:
    return lambda lanes: None


TABLE = {
    "bar": barrier,
    "barrier": barrier,
    "membar": fence,
    "fence": fence,
    "call": stop,
    "nanosleep": nanosleep,
}
