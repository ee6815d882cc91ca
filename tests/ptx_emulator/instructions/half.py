"""Arithmetic in float16 and bfloat16, single or in pairs.

Sums and products of two such numbers are exact in float64, or rounded to odd there; one rounding follows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_emulator import formats
from ptx_emulator.instructions.common import Modifiers, elementwise
from ptx_emulator.instructions.floating import APPROXIMATE, select_extreme
from ptx_emulator.lanes import Action, Linker, unknown
from ptx_emulator.module import Instruction

HALVES = ("f16", "f16x2", "bf16", "bf16x2")
Function = Callable[..., np.ndarray]


def widen(bits: np.ndarray, kind: str) -> np.ndarray:
    """Bits of float16 or bfloat16 (uint16) as float64."""
    bits = np.atleast_1d(bits)
    return (bits.view(np.float16) if kind.startswith("f16") else formats.bf16_to_f32(bits)).astype(np.float64)


def narrow(value: np.ndarray, kind: str, mode: str = "rn") -> np.ndarray:
    """float64 to the bits (uint16) of float16 or bfloat16."""
    if kind.startswith("f16"):
        return formats.f64_to_f16(value, mode).view(np.uint16)
    return formats.f64_to_bf16(value, mode)


def _halves(function: Function, kind: str, count: int) -> tuple[str, list[str], Function]:
    """The operand types and the function over registers for a function over uint16 bits."""
    if not kind.endswith("x2"):
        return "b16", ["b16"] * count, function

    def paired(*values: np.ndarray) -> np.ndarray:
        parts = [np.ascontiguousarray(np.atleast_1d(value)).view(np.uint16) for value in np.broadcast_arrays(*values)]
        return np.ascontiguousarray(function(*parts)).view(np.uint32)

    return "b32", ["b32"] * count, paired


def _flush(bits: np.ndarray, kind: str, active: bool) -> np.ndarray:
    if not active or not kind.startswith("f16"):
        return bits
    return np.where(np.asarray(bits) & 0x7C00, bits, np.asarray(bits) & 0x8000).astype(np.uint16)


def arithmetic(instruction: Instruction, linker: Linker) -> Action:
    """add, sub, mul, fma."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(HALVES)
    modifiers.one_of(("rn",), "rn")
    ftz, saturate, relu = (modifiers.flag(name) for name in ("ftz", "sat", "relu"))
    modifiers.done()

    def compute(*bits: np.ndarray) -> np.ndarray:
        values = [widen(_flush(value, kind, ftz), kind) for value in bits]
        if instruction.opcode == "fma":
            result = formats.sum_odd(values[0] * values[1], values[2])
        elif instruction.opcode == "mul":
            result = values[0] * values[1]
        else:
            result = formats.sum_odd(values[0], values[1] if instruction.opcode == "add" else -values[1])
        if saturate:
            result = np.where(np.isnan(result), 0.0, np.clip(result, 0.0, 1.0))
        if relu:
            result = np.where(result < 0, 0.0, result)
        return _flush(narrow(result, kind), kind, ftz)

    result, arguments, function = _halves(compute, kind, 3 if instruction.opcode == "fma" else 2)
    return elementwise(instruction, linker, result, arguments, function)


def extreme(instruction: Instruction, linker: Linker) -> Action:
    """min and max; the result is one of the operands, or the NaN 0x7fff."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(HALVES)
    ftz, keeps_nan, magnitude = (modifiers.flag(name) for name in ("ftz", "NaN", "xorsign"))
    if magnitude and not modifiers.flag("abs"):
        raise unknown(instruction)
    modifiers.done()
    choose = select_extreme(instruction.opcode == "min", keeps_nan)

    def compute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        x, y = widen(_flush(a, kind, ftz), kind), widen(_flush(b, kind, ftz), kind)
        if magnitude:
            return narrow(
                np.copysign(choose(np.abs(x), np.abs(y)), np.where(np.signbit(x) ^ np.signbit(y), -1.0, 1.0)), kind
            )
        return narrow(choose(x, y), kind)

    result, arguments, function = _halves(compute, kind, 2)
    return elementwise(instruction, linker, result, arguments, function)


def sign(instruction: Instruction, linker: Linker) -> Action:
    """abs and neg, on the sign bit."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(HALVES)
    ftz = modifiers.flag("ftz")
    modifiers.done()
    negate = instruction.opcode == "neg"

    def compute(a: np.ndarray) -> np.ndarray:
        bits = _flush(a, kind, ftz)
        return bits ^ np.uint16(0x8000) if negate else bits & np.uint16(0x7FFF)

    result, arguments, function = _halves(compute, kind, 1)
    return elementwise(instruction, linker, result, arguments, function)


def approximate(instruction: Instruction, linker: Linker) -> Action:
    """ex2 and tanh."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(HALVES)
    ftz = modifiers.flag("ftz")
    if not modifiers.flag("approx") or instruction.opcode not in ("ex2", "tanh"):
        raise unknown(instruction)
    modifiers.done()
    exact = APPROXIMATE[instruction.opcode]
    flushes = ftz and kind.startswith("f16")
    result, arguments, function = _halves(
        lambda a: _flush(narrow(exact(widen(_flush(a, kind, flushes), kind)), kind), kind, flushes), kind, 1
    )
    return elementwise(instruction, linker, result, arguments, function)


SHARED = {
    "add": arithmetic,
    "sub": arithmetic,
    "mul": arithmetic,
    "fma": arithmetic,
    "min": extreme,
    "max": extreme,
    "abs": sign,
    "neg": sign,
    "ex2": approximate,
    "tanh": approximate,
}
