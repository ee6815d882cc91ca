"""ld, st and their kin, in every state space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ptx_emulator.instructions.common import SCOPES, Modifiers, operands
from ptx_emulator.lanes import NUMPY, Action, Lanes, Linker, Reader, unknown
from ptx_emulator.module import TYPE_BITS, Address, Immediate, Instruction, Operand, Register, Symbol, Vector

SPACES = ("global", "shared", "shared::cta", "local", "param", "param::entry", "param::func", "const")
_CACHE = ("ca", "cg", "cs", "lu", "cv", "wb", "wt")
_LEVELS = ("L1::evict_normal", "L1::evict_first", "L1::evict_last", "L1::evict_unchanged", "L1::no_allocate")
_PREFETCH = ("L2::64B", "L2::128B", "L2::256B")


def address_reader(operand: Operand, linker: Linker, instruction: Instruction) -> Reader:
    """The address of a memory operand as uint64."""
    if not isinstance(operand, Address):
        raise unknown(instruction, f"{operand} is no address")
    offset = operand.offset
    if isinstance(operand.base, Symbol):
        return linker.reader(Symbol(operand.base.name, operand.base.offset + offset), "u64", instruction)
    if isinstance(operand.base, Immediate):
        return linker.reader(Immediate(int(operand.base.value) + offset), "u64", instruction)
    assert isinstance(operand.base, Register)
    if TYPE_BITS[operand.base.type] == 32:
        narrow = linker.reader(operand.base, "u32", instruction)
        shift = np.uint32(offset & 0xFFFF_FFFF)
        return lambda lanes: (narrow(lanes) + shift).astype(np.uint64)
    wide = linker.reader(operand.base, "u64", instruction)
    if not offset:
        return wide
    distance = np.uint64(offset & 0xFFFF_FFFF_FFFF_FFFF)
    return lambda lanes: wide(lanes) + distance


def space_and_function(name: str, operand: Operand, linker: Linker) -> str:
    """The state space an instruction names; parameters of inlined functions lie in local memory."""
    space = name.split("::")[0]
    if space == "param" and isinstance(operand, Address) and isinstance(operand.base, Symbol):
        return linker.facts.space_of_parameter(operand.base.name)
    return space


@dataclass(frozen=True)
class _Form:
    space: str
    kind: str  # the type of one item
    count: int
    order: str  # "weak", "volatile", "relaxed", "acquire" or "release"


def _form(instruction: Instruction, operand: Operand, linker: Linker, orders: tuple[str, ...]) -> _Form:
    modifiers = Modifiers(instruction)
    count = int(modifiers.one_of(("v2", "v4", "v8"), "v1")[1:])
    kind = modifiers.type()
    order = modifiers.one_of(orders, "weak")
    if order in ("relaxed", "acquire", "release"):
        modifiers.one_of(SCOPES)
    space = modifiers.one_of(SPACES, "generic")
    if space == "global":
        modifiers.flag("nc")
    modifiers.one_of(_CACHE, "none")
    modifiers.one_of(_LEVELS, "none")
    modifiers.one_of(_PREFETCH, "none")
    modifiers.flag("L2::cache_hint")
    modifiers.done()
    if TYPE_BITS[kind] == 128:
        raise unknown(instruction)
    return _Form(space_and_function(space, operand, linker), kind, count, order)


def load(instruction: Instruction, linker: Linker) -> Action:
    """ld, its .nc, .volatile, .relaxed and .acquire forms included."""
    destination, source = operands(instruction, 2, 3)[:2]
    form = _form(instruction, source, linker, ("weak", "volatile", "relaxed", "acquire"))
    bits, dtype = TYPE_BITS[form.kind], NUMPY[form.kind]
    items = linker.items(destination)
    if len(items) != form.count:
        raise unknown(instruction, f"{len(items)} destinations")
    writers = [linker.writer(item, form.kind, instruction) for item in items]
    address = address_reader(source, linker, instruction)
    kind = "read" if form.order == "weak" else "atomic"

    def action(lanes: Lanes) -> None:
        where = address(lanes)
        values = lanes.machine.access.load(lanes, form.space, where, bits, form.count, instruction, kind)
        for column, write in enumerate(writers):
            write(lanes, np.ascontiguousarray(values[:, column]).view(dtype))
        if kind == "atomic" and lanes.machine.races is not None:
            lanes.machine.races.synchronise(lanes, where, form.order, reads=True, writes=False)

    return action


def store(instruction: Instruction, linker: Linker) -> Action:
    """st, its .volatile, .relaxed and .release forms included."""
    destination, source = operands(instruction, 2, 3)[:2]
    form = _form(instruction, destination, linker, ("weak", "volatile", "relaxed", "release"))
    dtype = NUMPY[f"b{TYPE_BITS[form.kind]}"]
    items = linker.items(source)
    if len(items) != form.count:
        raise unknown(instruction, f"{len(items)} sources")
    readers = [linker.reader(item, form.kind, instruction) for item in items]
    address = address_reader(destination, linker, instruction)
    kind = "write" if form.order == "weak" else "atomic"

    def action(lanes: Lanes) -> None:
        where = address(lanes)
        if kind == "atomic" and lanes.machine.races is not None:
            lanes.machine.races.synchronise(lanes, where, form.order, reads=False, writes=True)
        values = np.empty((lanes.count, form.count), dtype)
        for column, reader in enumerate(readers):
            values[:, column] = reader(lanes).view(dtype)
        lanes.machine.access.store(lanes, form.space, where, values, instruction, kind)

    return action


def nothing(instruction: Instruction, linker: Linker) -> Action:
    """prefetch and its kin: hints about caches, which are not modelled."""
    if not isinstance(instruction.operands[0], Address | Vector):
        raise unknown(instruction)
    return lambda lanes: None


def cache_policy(instruction: Instruction, linker: Linker) -> Action:
    """createpolicy.fractional: a handle that loads and stores carry and nothing here looks at."""
    if instruction.modifiers[:1] != ("fractional",):
        raise unknown(instruction)
    write = linker.writer(instruction.operands[0], "b64", instruction)
    return lambda lanes: write(lanes, np.uint64(0))


TABLE = {
    "ld": load,
    "st": store,
    "prefetch": nothing,
    "createpolicy": cache_policy,
}
