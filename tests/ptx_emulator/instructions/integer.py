"""Integer arithmetic."""

from __future__ import annotations

import numpy as np

from ptx_emulator.instructions.common import Modifiers, elementwise, operands
from ptx_emulator.lanes import NUMPY, Action, Lanes, Linker, unknown
from ptx_emulator.module import TYPE_BITS, Instruction

INTEGERS = ("u16", "u32", "u64", "s16", "s32", "s64")
_WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def _limits(kind: str) -> tuple[int, int]:
    info = np.iinfo(NUMPY[kind])
    return int(info.min), int(info.max)


def _saturated(value: np.ndarray) -> np.ndarray:
    return np.clip(value, *_limits("s32")).astype(np.int32)


def high_product(a: np.ndarray, b: np.ndarray, kind: str) -> np.ndarray:
    """The upper half of a product."""
    if TYPE_BITS[kind] < 64:
        wide = NUMPY[_WIDER[kind]]
        return (np.asarray(a).astype(wide) * np.asarray(b).astype(wide) >> wide.type(TYPE_BITS[kind])).astype(
            NUMPY[kind]
        )
    mask, half = np.uint64(0xFFFF_FFFF), np.uint64(32)
    x, y = np.atleast_1d(a).view(np.uint64), np.atleast_1d(b).view(np.uint64)
    low = (x & mask) * (y & mask)
    middle = (x >> half) * (y & mask) + (low >> half)
    other = (x & mask) * (y >> half) + (middle & mask)
    high = (x >> half) * (y >> half) + (middle >> half) + (other >> half)
    if kind == "s64":  # the unsigned product counts a negative factor 2^64 too high
        high = high - np.where(x >> np.uint64(63), y, np.uint64(0)) - np.where(y >> np.uint64(63), x, np.uint64(0))
    return high.view(NUMPY[kind])


def add_sub(instruction: Instruction, linker: Linker) -> Action:
    """add and sub of integers, .sat and the carry out included."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type((*INTEGERS, "u16x2", "s16x2"))
    saturate, carry = modifiers.flag("sat"), modifiers.flag("cc")
    modifiers.done()
    function = np.add if instruction.opcode == "add" else np.subtract
    if carry:
        return _with_carry(instruction, linker, kind, uses=False, sets=True)
    if saturate:
        if kind != "s32":
            raise unknown(instruction)
        return elementwise(
            instruction, linker, kind, [kind] * 2, lambda a, b: _saturated(function(a, b, dtype=np.int64))
        )
    return elementwise(instruction, linker, kind, [kind] * 2, function)


def carried(instruction: Instruction, linker: Linker) -> Action:
    """addc and subc."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("u32", "s32", "u64", "s64"))
    sets = modifiers.flag("cc")
    modifiers.done()
    return _with_carry(instruction, linker, kind, uses=True, sets=sets)


def _with_carry(instruction: Instruction, linker: Linker, kind: str, uses: bool, sets: bool) -> Action:
    destination, first, second = operands(instruction, 3)
    unsigned = "u" + kind[1:]
    a, b = (linker.reader(operand, unsigned, instruction) for operand in (first, second))
    write = linker.writer(destination, unsigned, instruction)
    subtract = instruction.opcode.startswith("sub")

    def action(lanes: Lanes) -> None:
        x, y = np.broadcast_arrays(np.atleast_1d(a(lanes)), b(lanes))
        flag = lanes.machine.carry[lanes.index] if uses else np.zeros(lanes.count, np.bool_)
        carry = flag.astype(x.dtype)
        total = x - y - carry if subtract else x + y + carry
        if sets:
            out = (x < y) | ((x == y) & flag) if subtract else (total < x) | ((total == x) & flag)
            lanes.machine.carry[lanes.index] = out
        write(lanes, total)

    return action


def multiply(instruction: Instruction, linker: Linker) -> Action:
    """mul and mad of integers: .lo, .hi, .wide and .sat."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(INTEGERS)
    part = modifiers.one_of(("lo", "hi", "wide"))
    saturate = modifiers.flag("sat")
    modifiers.done()
    if part == "wide":
        result = _WIDER.get(kind)
        if result is None:
            raise unknown(instruction)
        dtype = NUMPY[result]

        def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.multiply(a, b, dtype=dtype)
    else:
        result = kind

        def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.multiply(a, b) if part == "lo" else high_product(a, b, kind)

    if instruction.opcode == "mul":
        return elementwise(instruction, linker, result, [kind] * 2, product)
    if saturate:
        if kind != "s32" or part != "hi":
            raise unknown(instruction)
        return elementwise(
            instruction, linker, kind, [kind] * 3, lambda a, b, c: _saturated(product(a, b).astype(np.int64) + c)
        )
    return elementwise(instruction, linker, result, [kind, kind, result], lambda a, b, c: product(a, b) + c)


def multiply24(instruction: Instruction, linker: Linker) -> Action:
    """mul24 and mad24."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("u32", "s32"))
    shift = 16 if modifiers.one_of(("lo", "hi")) == "hi" else 0
    modifiers.done()

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        x, y = (np.asarray(v).astype(np.int64) << 40 for v in (a, b))
        x, y = (v >> 40 if kind == "s32" else v.view(np.uint64) >> np.uint64(40) for v in (x, y))
        return (x * y >> np.array(shift, x.dtype)).astype(NUMPY[kind])

    if instruction.opcode == "mul24":
        return elementwise(instruction, linker, kind, [kind] * 2, product)
    return elementwise(instruction, linker, kind, [kind] * 3, lambda a, b, c: product(a, b) + c)


def divide(instruction: Instruction, linker: Linker) -> Action:
    """div and rem of integers, towards zero. Division by zero gives all ones, its remainder the dividend."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(INTEGERS)
    modifiers.done()
    dtype, lowest = NUMPY[kind], _limits(kind)[0]

    def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = np.broadcast_arrays(np.atleast_1d(a), b)
        overflow = (a == lowest) & (b == dtype.type(-1)) if dtype.kind == "i" else np.zeros(a.shape, np.bool_)
        safe = np.where((b == 0) | overflow, dtype.type(1), b)
        floor = a // safe
        if dtype.kind == "i":
            floor = floor + ((floor * safe != a) & ((a < 0) != (safe < 0))).astype(dtype)
        return np.where(b == 0, np.array(-1).astype(dtype), floor)

    def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(b == 0, a, a - quotient(a, b) * b)

    return elementwise(instruction, linker, kind, [kind] * 2, quotient if instruction.opcode == "div" else remainder)


def minimum(instruction: Instruction, linker: Linker) -> Action:
    """min and max of integers."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(INTEGERS)
    relu = modifiers.flag("relu")
    modifiers.done()
    function = np.minimum if instruction.opcode == "min" else np.maximum
    if relu:
        return elementwise(
            instruction, linker, kind, [kind] * 2, lambda a, b: np.maximum(function(a, b), NUMPY[kind].type(0))
        )
    return elementwise(instruction, linker, kind, [kind] * 2, function)


def unary(instruction: Instruction, linker: Linker) -> Action:
    """abs and neg of integers."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(("s16", "s32", "s64"))
    modifiers.done()
    return elementwise(instruction, linker, kind, [kind], np.abs if instruction.opcode == "abs" else np.negative)


def sad(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind = modifiers.type(INTEGERS)
    modifiers.done()
    return elementwise(
        instruction, linker, kind, [kind] * 3, lambda a, b, c: c + np.where(a < b, np.subtract(b, a), np.subtract(a, b))
    )


def dot_bytes(instruction: Instruction, linker: Linker) -> Action:
    """dp4a: four products of bytes, added to a word."""
    modifiers = Modifiers(instruction)
    kinds = modifiers.types(2, ("u32", "s32"))
    modifiers.done()
    result = "s32" if "s32" in kinds else "u32"

    def split(value: np.ndarray, kind: str) -> np.ndarray:
        return np.atleast_1d(value).view("i1" if kind == "s32" else "u1").reshape(-1, 4).astype(np.int64)

    def dot(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        total = (split(a, kinds[0]) * split(b, kinds[1])).sum(axis=1)
        return (total + np.asarray(c).astype(np.int64)).astype(np.uint32).view(NUMPY[result])

    return elementwise(instruction, linker, result, [*kinds, result], dot)


TABLE = {
    "addc": carried,
    "subc": carried,
    "mul24": multiply24,
    "mad24": multiply24,
    "rem": divide,
    "sad": sad,
    "dp4a": dot_bytes,
}
# Opcodes that integers share with floating-point numbers; the instruction's type decides.
SHARED = {
    "add": add_sub,
    "sub": add_sub,
    "mul": multiply,
    "mad": multiply,
    "div": divide,
    "min": minimum,
    "max": minimum,
    "abs": unary,
    "neg": unary,
}
