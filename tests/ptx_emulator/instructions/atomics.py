"""atom and red, in global and shared memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_emulator import formats
from ptx_emulator.instructions.common import SCOPES, Modifiers
from ptx_emulator.instructions.floating import select_extreme
from ptx_emulator.instructions.half import narrow, widen
from ptx_emulator.instructions.load_store import address_reader
from ptx_emulator.lanes import NUMPY, Action, Lanes, Linker, Reader, unknown
from ptx_emulator.module import TYPE_BITS, Instruction, Operand, Vector

Update = Callable[..., np.ndarray]
_ORDERS = ("relaxed", "acquire", "release", "acq_rel")
_BITWISE = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
_INTEGER = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "inc": lambda old, b: np.where(old >= b, old.dtype.type(0), old + old.dtype.type(1)),
    "dec": lambda old, b: np.where((old == 0) | (old > b), b, old - old.dtype.type(1)),
}
_CHOICES = {
    "and": ("b32", "b64"),
    "or": ("b32", "b64"),
    "xor": ("b32", "b64"),
    "exch": ("b32", "b64"),
    "cas": ("b16", "b32", "b64"),
    "add": ("u32", "s32", "u64", "s64", "f32", "f64", "f16", "bf16", "f16x2", "bf16x2"),
    "min": ("u32", "s32", "u64", "s64", "f32", "f16", "bf16", "f16x2", "bf16x2"),
    "max": ("u32", "s32", "u64", "s64", "f32", "f16", "bf16", "f16x2", "bf16x2"),
    "inc": ("u32",),
    "dec": ("u32",),
}


def _update(operation: str, kind: str, instruction: Instruction) -> Update:
    """new = update(old, operands), on the type's NumPy values (bits for halves)."""
    if kind not in _CHOICES[operation]:
        raise unknown(instruction)
    if operation in _BITWISE:
        return _BITWISE[operation]
    if operation == "exch":
        return lambda old, b: b
    if operation == "cas":
        return lambda old, compare, b: np.where(old == compare, b, old)
    if kind in ("f32", "f64"):
        if operation == "add":
            return (lambda old, b: formats.canonical(old + b)) if kind == "f32" else np.add
        return select_extreme(operation == "min", False)
    if "f16" in kind:
        return _half_update(operation, kind)
    return _INTEGER[operation]


def _half_update(operation: str, kind: str) -> Update:
    function = formats.sum_odd if operation == "add" else select_extreme(operation == "min", False)

    def update(old: np.ndarray, b: np.ndarray) -> np.ndarray:
        x, y = (np.ascontiguousarray(value).view(np.uint16) for value in (old, b))
        return narrow(function(widen(x, kind), widen(y, kind)), kind).view(old.dtype)

    return update


def _ranks(address: np.ndarray) -> np.ndarray:
    """For every lane how many lanes before it have the same address."""
    order = np.argsort(address, kind="stable")
    ordered = address[order]
    start = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    first = np.maximum.accumulate(np.where(start, np.arange(address.size), 0))
    ranks = np.empty(address.size, np.int64)
    ranks[order] = np.arange(address.size) - first
    return ranks


def atomic(instruction: Instruction, linker: Linker) -> Action:
    """atom (with the old value) and red (without), of one item or a vector of them."""
    modifiers = Modifiers(instruction)
    order = modifiers.one_of(_ORDERS, "relaxed")
    modifiers.one_of(SCOPES, "gpu")
    space = modifiers.one_of(("global", "shared", "shared::cta"), "generic").split("::")[0]
    operation = modifiers.one_of(tuple(_CHOICES))
    modifiers.flag("noftz")
    modifiers.one_of(("L2::cache_hint",), "none")
    count = int(modifiers.one_of(("v2", "v4", "v8"), "v1")[1:])
    kind = modifiers.type()
    modifiers.done()
    update = _update(operation, kind, instruction)
    given = list(instruction.operands)
    destination = given.pop(0) if instruction.opcode == "atom" else None
    where, *sources = given
    wanted = 2 if operation == "cas" else 1
    if len(sources) < wanted:
        raise unknown(instruction)
    bits, dtype = TYPE_BITS[kind], NUMPY[kind]
    readers = [
        [linker.reader(item, kind, instruction) for item in _items(source, count, instruction)]
        for source in sources[:wanted]
    ]
    writers = (
        []
        if destination is None
        else [linker.writer(item, kind, instruction) for item in _items(destination, count, instruction)]
    )
    address = address_reader(where, linker, instruction)

    def action(lanes: Lanes) -> None:
        access = lanes.machine.access
        place = access.broadcast(lanes, address(lanes))
        inside, local = (space, place) if space != "generic" else access.space_of(lanes, place, instruction)
        turns = lanes.machine.order.lanes(lanes.count)
        races = lanes.machine.races
        if races is not None:
            races.synchronise(lanes, place, order, reads=True, writes=True, turns=turns)
        values = [_columns(part, lanes, dtype) for part in readers]
        old = np.empty((lanes.count, count), dtype)
        identity = local + lanes.block.astype(np.uint64) * np.uint64(1 << 40) if inside == "shared" else local
        ranks = np.empty(lanes.count, np.int64)
        ranks[turns] = _ranks(identity[turns])
        for rank in range(int(ranks.max()) + 1):  # one address is served once in a round
            mask = ranks == rank
            part = lanes if mask.all() else lanes.where(mask)
            before = access.load(part, inside, local[mask], bits, count, instruction, "atomic").view(dtype)
            old[mask] = before
            after = np.ascontiguousarray(update(before, *[value[mask] for value in values]), dtype)
            access.store(part, inside, local[mask], after.view(f"u{bits // 8}"), instruction, "atomic")
        for column, write in enumerate(writers):
            write(lanes, np.ascontiguousarray(old[:, column]))

    return action


def _items(operand: Operand, count: int, instruction: Instruction) -> tuple[Operand, ...]:
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != count:
        raise unknown(instruction)
    return items


def _columns(readers: list[Reader], lanes: Lanes, dtype: np.dtype) -> np.ndarray:
    values = np.empty((lanes.count, len(readers)), dtype)
    for column, reader in enumerate(readers):
        values[:, column] = reader(lanes)
    return values


TABLE = {"atom": atomic, "red": atomic}
