"""What the threads of a warp do together: shfl, vote, match, redux, elect, activemask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_emulator.errors import DivergenceError, IllegalInstructionError
from ptx_emulator.instructions.common import Modifiers, operands
from ptx_emulator.lanes import Action, Lanes, Linker, Reader, unknown
from ptx_emulator.module import Instruction, Pair, Sink


def check_members(lanes: Lanes, mask: np.ndarray, instruction: Instruction) -> np.ndarray:
    """The member mask for every lane, once it is sure that exactly its living threads stand here.

    Raises DivergenceError otherwise: threads in the mask stand at another instruction, or one here is not in the mask.
    """
    machine = lanes.machine
    mask = np.broadcast_to(np.asarray(mask, np.uint32), lanes.count)
    here = lanes.lane_mask
    alive = machine.pack_lanes(machine.live)[lanes.index >> 5]
    own = mask >> (lanes.index & 31).astype(np.uint32) & np.uint32(1)
    wrong = ((mask & alive) & ~here != 0) | (own == 0)
    if wrong.any():
        lane = int(wrong.argmax())
        missing = int(mask[lane] & alive[lane] & ~here[lane])
        what = f"its lanes {missing:#010x} stand elsewhere" if missing else "this thread is not in it"
        detail = f"member mask {int(mask[lane]):#010x}, but {what}"
        raise DivergenceError(detail, machine.place(instruction, int(lanes.index[lane])))
    return mask & here


def grouped(lanes: Lanes, mask: np.ndarray) -> tuple[np.ndarray, int]:
    """A number for every lane's (warp, mask) group, and how many groups there are."""
    key = (lanes.index >> 5).astype(np.uint64) << np.uint64(32) | mask.astype(np.uint64)
    if (key == key[0]).all():
        return np.zeros(lanes.count, np.int64), 1
    _, group = np.unique(key, return_inverse=True)
    return group, int(group.max()) + 1


def shuffle(instruction: Instruction, linker: Linker) -> Action:
    """shfl.sync: a value from another lane."""
    modifiers = Modifiers(instruction)
    if not modifiers.flag("sync"):
        raise unknown(instruction)
    mode = modifiers.one_of(("up", "down", "bfly", "idx"))
    modifiers.type(("b32",))
    modifiers.done()
    destination, source, distance, clamp, members = operands(instruction, 5)
    first, second = (destination.first, destination.second) if isinstance(destination, Pair) else (destination, Sink())
    write, write_valid = linker.writer(first, "b32", instruction), linker.writer(second, "pred", instruction)
    value, b, c, member = (linker.reader(o, "b32", instruction) for o in (source, distance, clamp, members))

    def action(lanes: Lanes) -> None:
        check_members(lanes, member(lanes), instruction)
        lane = lanes.index & 31
        step = np.asarray(b(lanes)).astype(np.int64) & 31
        control = np.asarray(c(lanes)).astype(np.int64)
        segment, limit = control >> 8 & 31, control & 31
        last = lane & segment | limit & ~segment
        first_lane = lane & segment
        if mode == "up":
            chosen = lane - step
            valid = chosen >= last
        else:
            chosen = lane + step if mode == "down" else lane ^ step if mode == "bfly" else first_lane | step & ~segment
            valid = chosen <= last
        chosen = np.where(valid, chosen, lane)
        thread = lanes.index - lane + chosen
        if not lanes.whole_warps and not lanes.present[thread].all():
            bad = int((~lanes.present[thread]).argmax())
            detail = f"reads from lane {int(chosen[bad])}, which takes no part"
            raise IllegalInstructionError(detail, lanes.machine.place(instruction, int(lanes.index[bad])))
        everyone = np.empty(lanes.machine.threads, np.uint32)
        everyone[lanes.index] = value(lanes)
        write(lanes, everyone[thread])
        write_valid(lanes, np.broadcast_to(valid, lanes.count))

    return action


def vote(instruction: Instruction, linker: Linker) -> Action:
    """vote.sync: all, any, uni, ballot."""
    modifiers = Modifiers(instruction)
    if not modifiers.flag("sync"):
        raise unknown(instruction)
    mode = modifiers.one_of(("all", "any", "uni", "ballot"))
    kind = modifiers.type(("pred", "b32"))
    modifiers.done()
    if (mode == "ballot") != (kind == "b32"):
        raise unknown(instruction)
    destination, source, members = operands(instruction, 3)
    write = linker.writer(destination, kind, instruction)
    predicate, member = linker.reader(source, "pred", instruction), linker.reader(members, "b32", instruction)

    def action(lanes: Lanes) -> None:
        mask = check_members(lanes, member(lanes), instruction)
        everyone = np.zeros(lanes.machine.threads, np.bool_)
        everyone[lanes.index] = predicate(lanes)
        ballot = lanes.machine.pack_lanes(everyone)[lanes.index >> 5] & mask
        if mode == "ballot":
            write(lanes, ballot)
        elif mode == "any":
            write(lanes, ballot != 0)
        else:
            write(lanes, (ballot == mask) | ((ballot == 0) & (mode == "uni")))

    return action


def match(instruction: Instruction, linker: Linker) -> Action:
    """match.sync: which lanes of the mask hold the same value (any), or whether all do (all)."""
    modifiers = Modifiers(instruction)
    if not modifiers.flag("sync"):
        raise unknown(instruction)
    mode = modifiers.one_of(("any", "all"))
    kind = modifiers.type(("b32", "b64"))
    modifiers.done()
    destination, source, members = operands(instruction, 3)
    first, second = (destination.first, destination.second) if isinstance(destination, Pair) else (destination, Sink())
    write, write_all = linker.writer(first, "b32", instruction), linker.writer(second, "pred", instruction)
    value, member = linker.reader(source, kind, instruction), linker.reader(members, "b32", instruction)

    def action(lanes: Lanes) -> None:
        mask = check_members(lanes, member(lanes), instruction)
        group, _ = grouped(lanes, mask)
        values = np.broadcast_to(value(lanes), lanes.count)
        alike = (values[:, None] == values[None, :]) & (group[:, None] == group[None, :])
        bit = np.uint32(1) << (lanes.index & 31).astype(np.uint32)
        found = np.where(alike, bit[None, :], np.uint32(0)).sum(axis=1, dtype=np.uint32)
        if mode == "any":
            write(lanes, found)
        else:
            write(lanes, np.where(found == mask, mask, np.uint32(0)))
            write_all(lanes, found == mask)

    return action


_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def redux(instruction: Instruction, linker: Linker) -> Action:
    """redux.sync: a reduction over the lanes of the mask."""
    modifiers = Modifiers(instruction)
    if not modifiers.flag("sync"):
        raise unknown(instruction)
    name = modifiers.one_of(tuple(_REDUCTIONS))
    kind = modifiers.type(("u32", "s32", "b32", "f32"))
    keeps_nan, magnitude = modifiers.flag("NaN"), modifiers.flag("abs")
    modifiers.done()
    if kind == "f32" and name not in ("min", "max"):
        raise unknown(instruction)
    function = _REDUCTIONS[name]
    if kind == "f32" and not keeps_nan:
        function = np.fmin if name == "min" else np.fmax
    destination, source, members = operands(instruction, 3)
    write = linker.writer(destination, kind, instruction)
    value, member = linker.reader(source, kind, instruction), linker.reader(members, "b32", instruction)

    def action(lanes: Lanes) -> None:
        mask = check_members(lanes, member(lanes), instruction)
        group, count = grouped(lanes, mask)
        values = np.broadcast_to(value(lanes), lanes.count)
        values = np.abs(values) if magnitude else values
        totals = np.array([function.reduce(values[group == number]) for number in range(count)], values.dtype)
        write(lanes, totals[group])

    return action


def elect(instruction: Instruction, linker: Linker) -> Action:
    """elect.sync: one leader of the mask, here its lowest lane."""
    if instruction.modifiers != ("sync",):
        raise unknown(instruction)
    destination, members = operands(instruction, 2)
    if not isinstance(destination, Pair):
        raise unknown(instruction)
    write, write_leader = (
        linker.writer(destination.first, "b32", instruction),
        linker.writer(destination.second, "pred", instruction),
    )
    member = linker.reader(members, "b32", instruction)

    def action(lanes: Lanes) -> None:
        mask = check_members(lanes, member(lanes), instruction)
        lowest = np.log2((mask & (~mask + np.uint32(1))).astype(np.float64)).astype(np.uint32)
        write(lanes, lowest)
        write_leader(lanes, lowest == (lanes.index & 31))

    return action


def activemask(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    modifiers.type(("b32",))
    modifiers.done()
    (destination,) = operands(instruction, 1)
    write = linker.writer(destination, "b32", instruction)
    return lambda lanes: write(lanes, lanes.lane_mask)


def uniform(value: Reader, lanes: Lanes, instruction: Instruction) -> int:
    """The value of an operand that all threads must agree on."""
    values = np.atleast_1d(value(lanes))
    if (values != values[0]).any():
        lane = int((values != values[0]).argmax())
        raise IllegalInstructionError(
            "an operand differs among threads", lanes.machine.place(instruction, int(lanes.index[lane]))
        )
    return int(values[0])


TABLE = {
    "shfl": shuffle,
    "vote": vote,
    "match": match,
    "redux": redux,
    "elect": elect,
    "activemask": activemask,
}
