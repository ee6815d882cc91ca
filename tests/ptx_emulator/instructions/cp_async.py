"""cp.async: copies from global to shared memory that the thread has to wait for."""

from __future__ import annotations

import numpy as np

from ptx_emulator.errors import IllegalInstructionError
from ptx_emulator.instructions.common import Modifiers
from ptx_emulator.instructions.load_store import address_reader
from ptx_emulator.lanes import Action, Lanes, Linker, unknown
from ptx_emulator.module import Immediate, Instruction, Register


def cp(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    if not modifiers.flag("async"):
        raise unknown(instruction)
    if modifiers.flag("commit_group"):
        modifiers.done()
        return lambda lanes: lanes.machine.copies.commit(lanes)
    if modifiers.flag("wait_all"):
        modifiers.done()
        return lambda lanes: lanes.machine.copies.wait(lanes, None)
    if modifiers.flag("wait_group"):
        modifiers.done()
        pending = instruction.operands[0]
        if not isinstance(pending, Immediate):
            raise unknown(instruction)
        return lambda lanes: lanes.machine.copies.wait(lanes, int(pending.value))
    return _copy(instruction, linker, modifiers)


def _copy(instruction: Instruction, linker: Linker, modifiers: Modifiers) -> Action:
    level = modifiers.one_of(("ca", "cg"))
    modifiers.one_of(("shared", "shared::cta"))
    modifiers.one_of(("global",))
    hint = modifiers.flag("L2::cache_hint")
    modifiers.one_of(("L2::64B", "L2::128B", "L2::256B"), "none")
    modifiers.done()
    destination, source, width, *rest = instruction.operands
    if not isinstance(width, Immediate) or width.value not in ((16,) if level == "cg" else (4, 8, 16)):
        raise unknown(instruction, "the number of bytes")
    size = int(width.value)
    if hint and rest:
        rest.pop()  # the cache policy
    given = ignored = None
    if rest:
        (option,) = rest
        if isinstance(option, Register) and option.type == "pred":
            ignored = linker.reader(option, "pred", instruction)
        else:
            given = linker.reader(option, "u32", instruction)
    to, of = address_reader(destination, linker, instruction), address_reader(source, linker, instruction)

    def action(lanes: Lanes) -> None:
        machine, access = lanes.machine, lanes.machine.access
        where, origin = access.broadcast(lanes, to(lanes)), access.broadcast(lanes, of(lanes))
        length = np.full(lanes.count, size, np.int64)
        if given is not None:
            length[:] = given(lanes)
        if ignored is not None:
            length[np.broadcast_to(ignored(lanes), lanes.count)] = 0
        if (length > size).any():
            lane = int((length > size).argmax())
            detail = f"src-size {length[lane]} is above {size}"
            raise IllegalInstructionError(detail, machine.place(instruction, int(lanes.index[lane])))
        values = _fetched(lanes, origin, length, size, instruction)
        area, offset = access.locate(lanes, "shared", where, size, instruction, read=False)
        if machine.races is not None:
            machine.races.write(lanes, area, offset, size, instruction, "copy", values)
        if machine.counters is not None:
            machine.counters.access(lanes, area, offset, size, instruction)
        machine.copies.issue(lanes, area, offset, values, instruction)

    return action


def _fetched(lanes: Lanes, origin: np.ndarray, length: np.ndarray, size: int, instruction: Instruction) -> np.ndarray:
    """The source's first ``length`` bytes followed by zeros, (lanes, items) of at most 64 bits."""
    access, bits = lanes.machine.access, min(8 * size, 64)
    if (length == size).all():
        return access.load(lanes, "global", origin, bits, 8 * size // bits, instruction)
    octets = np.zeros((lanes.count, size), np.uint8)
    access.aligned(lanes, origin, size, instruction)
    for count in np.unique(length[length > 0]):
        mask = length == count
        part, at = lanes.where(mask), origin[mask]
        if count == size:
            octets[mask] = access.load(part, "global", at, bits, 8 * size // bits, instruction).view(np.uint8)
            continue
        for byte in range(int(count)):
            octets[mask, byte] = access.load(part, "global", at + np.uint64(byte), 8, 1, instruction)[:, 0]
    return octets.view(f"u{bits // 8}")


TABLE = {"cp": cp}
