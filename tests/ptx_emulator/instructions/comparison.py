"""setp, set, selp, slct."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_emulator import formats
from ptx_emulator.instructions.common import Modifiers, elementwise, operands
from ptx_emulator.instructions.half import widen
from ptx_emulator.lanes import NUMPY, Action, Lanes, Linker, Reader, unknown
from ptx_emulator.module import Instruction, Operand, Pair, Sink

Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _number(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ~(np.isnan(a) | np.isnan(b))


_ORDERED: dict[str, Compare] = {
    "eq": np.equal,
    "ne": lambda a, b: (a != b) & _number(a, b),  # for floats; of integers every pair is ordered
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_INTEGER = _ORDERED | {"ne": np.not_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
_FLOAT = (
    _ORDERED
    | {name + "u": (lambda f: lambda a, b: f(a, b) | ~_number(a, b))(function) for name, function in _ORDERED.items()}
    | {"num": _number, "nan": lambda a, b: ~_number(a, b)}
)
_COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
_TYPES = ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f16", "bf16", "f16x2", "bf16x2", "f32", "f64")


def _comparison(modifiers: Modifiers, kind: str) -> Compare:
    table = _FLOAT if "f" in kind else _INTEGER
    names = tuple(name for name in modifiers.left if name in table)
    if not names:
        raise unknown(modifiers.instruction, "no comparison")
    compare = table[modifiers.one_of(names[:1])]
    if modifiers.flag("ftz") and kind == "f32":
        return lambda a, b: compare(formats.flush(a), formats.flush(b))
    return compare


def _sources(kind: str, sources: tuple[Operand, ...], linker: Linker, instruction: Instruction) -> list[Reader]:
    readers = [linker.reader(source, "b16" if kind == "bf16" else kind, instruction) for source in sources]
    if kind == "bf16":
        return [(lambda read: lambda lanes: widen(read(lanes), "bf16"))(reader) for reader in readers]
    return readers


def setp(instruction: Instruction, linker: Linker) -> Action:
    """A comparison into a predicate, perhaps combined with another, perhaps its opposite into a second."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(_TYPES)
    combine = modifiers.one_of(tuple(_COMBINE), "") if len(instruction.operands) == 4 else ""
    compare = _comparison(modifiers, kind)
    modifiers.done()
    destination, a, b, *more = operands(instruction, 3, 4)
    first, second = (destination.first, destination.second) if isinstance(destination, Pair) else (destination, Sink())
    write_first, write_second = (linker.writer(operand, "pred", instruction) for operand in (first, second))
    with_third = linker.reader(more[0], "pred", instruction) if more else None
    if kind.endswith("x2"):
        return _setp_pair(instruction, linker, kind, compare, (first, second))
    read_a, read_b = _sources(kind, (a, b), linker, instruction)

    def action(lanes: Lanes) -> None:
        result = compare(read_a(lanes), read_b(lanes))
        opposite = ~result
        if with_third is not None:
            third = with_third(lanes)
            result, opposite = _COMBINE[combine](result, third), _COMBINE[combine](opposite, third)
        write_first(lanes, result)
        write_second(lanes, opposite)

    return action


def _setp_pair(
    instruction: Instruction, linker: Linker, kind: str, compare: Compare, destinations: tuple[Operand, Operand]
) -> Action:
    """setp of a pair of halves: the first predicate is of the low ones, the second of the high ones."""
    if len(instruction.operands) != 3:
        raise unknown(instruction, "a third predicate with pairs")
    readers = [linker.reader(operand, "b32", instruction) for operand in instruction.operands[1:3]]
    writers = [linker.writer(operand, "pred", instruction) for operand in destinations]

    def action(lanes: Lanes) -> None:
        for half, write in enumerate(writers):
            values = [(np.atleast_1d(reader(lanes)) >> np.uint32(16 * half)).astype(np.uint16) for reader in readers]
            write(lanes, compare(*[widen(value, kind) for value in values]))

    return action


def set_value(instruction: Instruction, linker: Linker) -> Action:
    """set: a comparison into all ones or 1.0."""
    modifiers = Modifiers(instruction)
    result, kind = modifiers.types(2)
    combine = modifiers.one_of(tuple(_COMBINE), "") if len(instruction.operands) == 4 else ""
    compare = _comparison(modifiers, kind)
    modifiers.done()
    if kind.endswith("x2"):
        return _set_pair(instruction, linker, result, kind, compare)
    if result not in ("u32", "s32", "f32", "u16", "s16", "f16"):
        raise unknown(instruction)
    destination, a, b, *more = operands(instruction, 3, 4)
    read_a, read_b = _sources(kind, (a, b), linker, instruction)
    with_third = linker.reader(more[0], "pred", instruction) if more else None
    write = linker.writer(destination, result, instruction)
    dtype = NUMPY[result]
    one = dtype.type(1) if dtype.kind == "f" else np.array(-1).astype(dtype)

    def action(lanes: Lanes) -> None:
        truth = compare(read_a(lanes), read_b(lanes))
        if with_third is not None:
            truth = _COMBINE[combine](truth, with_third(lanes))
        write(lanes, np.where(truth, one, dtype.type(0)))

    return action


def _set_pair(instruction: Instruction, linker: Linker, result: str, kind: str, compare: Compare) -> Action:
    if result not in ("u32", kind):
        raise unknown(instruction)
    one = np.uint16(0xFFFF if result == "u32" else 0x3C00 if kind == "f16x2" else 0x3F80)

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (np.ascontiguousarray(x).view(np.uint16) for x in np.broadcast_arrays(np.atleast_1d(a), b))
        return np.where(compare(widen(a, kind), widen(b, kind)), one, np.uint16(0)).view(np.uint32)

    return elementwise(instruction, linker, "b32", ["b32"] * 2, function)


def selp(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind = modifiers.type(_TYPES[:9] + _TYPES[-2:])
    modifiers.done()
    kind = f"b{NUMPY[kind].itemsize * 8}" if kind[0] != "f" else kind  # bits, of literals too
    return elementwise(instruction, linker, kind, [kind, kind, "pred"], lambda a, b, p: np.where(p, a, b))


def slct(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind, decider = modifiers.types(2)
    flush = modifiers.flag("ftz")
    modifiers.done()

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.where((formats.flush(c) if flush else c) >= 0, a, b)

    return elementwise(instruction, linker, kind, [kind, kind, decider], function)


TABLE = {"setp": setp, "set": set_value, "selp": selp, "slct": slct}
