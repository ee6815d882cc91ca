"""Arithmetic in float32 and float64.

The approximate instructions (ex2, lg2, rcp, sqrt, rsqrt, sin, cos, tanh, div.full, div.approx) give the correctly
rounded float32 of the exact function. Hardware is allowed an error of a few units in the last place there, so a
kernel must not count on their bits, and a test of one needs that much tolerance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_emulator import formats
from ptx_emulator.instructions.common import Modifiers, elementwise
from ptx_emulator.lanes import Action, Linker, unknown
from ptx_emulator.module import Instruction

FLOATS = ("f32", "f64")
_MODES = ("rn", "rz", "rm", "rp")
Function = Callable[..., np.ndarray]


def _finished(function: Function, flush: bool, saturate: bool) -> Function:
    """A float32 function with .ftz on its inputs and output, .sat, and the hardware's NaN."""

    def whole(*values: np.ndarray) -> np.ndarray:
        if flush:
            values = tuple(formats.flush(value) for value in values)
        result = function(*values)
        if flush:
            result = formats.flush(result)
        if saturate:
            result = np.where(np.isnan(result), np.float32(0), np.clip(result, np.float32(0), np.float32(1)))
        return formats.canonical(result)

    return whole


def _add(mode: str) -> Function:
    if mode == "rn":
        return np.add
    return lambda a, b: formats.down_to_zero(
        formats.to_f32(formats.sum_odd(a, b), mode), np.float64(a), np.float64(b), mode
    )


def _multiply(mode: str) -> Function:
    if mode == "rn":
        return np.multiply
    return lambda a, b: formats.to_f32(np.multiply(a, b, dtype=np.float64), mode)


def arithmetic(instruction: Instruction, linker: Linker) -> Action:
    """add, sub, mul, fma and mad."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type((*FLOATS, "f32x2"))
    mode = modifiers.one_of(_MODES, "rn")
    flush, saturate = modifiers.flag("ftz"), modifiers.flag("sat")
    modifiers.done()
    opcode, count = instruction.opcode, 3 if instruction.opcode in ("fma", "mad") else 2
    if kind == "f64":
        if mode != "rn":
            raise unknown(instruction, "directed rounding of float64 is not modelled")
        function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}.get(opcode, formats.fma_f64)
        return elementwise(instruction, linker, kind, [kind] * count, function)
    add, multiply = _add(mode), _multiply(mode)
    function = {
        "add": add,
        "sub": lambda a, b: add(a, np.negative(b)),
        "mul": multiply,
    }.get(opcode, lambda a, b, c: formats.fma_f32(a, b, c, mode))
    function = _finished(function, flush, saturate)
    if kind == "f32x2":
        return elementwise(instruction, linker, "b64", ["b64"] * count, _paired(function))
    return elementwise(instruction, linker, kind, [kind] * count, function)


def _paired(function: Function) -> Function:
    def both(*values: np.ndarray) -> np.ndarray:
        halves = [np.ascontiguousarray(np.atleast_1d(value)).view(np.float32) for value in np.broadcast_arrays(*values)]
        return np.ascontiguousarray(function(*halves)).view(np.uint64)

    return both


def divide(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind = modifiers.type(FLOATS)
    mode = modifiers.one_of((*_MODES, "full", "approx"), "rn")
    flush = modifiers.flag("ftz")
    modifiers.done()
    if kind == "f64":
        if mode != "rn":
            raise unknown(instruction, "directed rounding of float64 is not modelled")
        return elementwise(instruction, linker, kind, [kind] * 2, np.divide)
    if mode in ("rn", "full", "approx"):
        function: Function = np.divide
    else:
        function = lambda a, b: formats.to_f32(formats.quotient_odd(a, b), mode)  # noqa: E731
    return elementwise(instruction, linker, kind, [kind] * 2, _finished(function, flush, False))


def _through_f64(function: Callable[[np.ndarray], np.ndarray]) -> Function:
    return lambda a: function(np.asarray(a, np.float64)).astype(np.float32)


_EXACT = {
    "rcp": (lambda a: np.divide(np.float32(1), a), lambda a: formats.quotient_odd(np.ones_like(a), a)),
    "sqrt": (np.sqrt, formats.root_odd),
}
APPROXIMATE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rsqrt": lambda a: 1.0 / np.sqrt(a),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


def root(instruction: Instruction, linker: Linker) -> Action:
    """rcp and sqrt, approximate or with a rounding."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(FLOATS)
    mode = modifiers.one_of((*_MODES, "approx"))
    flush = modifiers.flag("ftz")
    modifiers.done()
    nearest, to_odd = _EXACT[instruction.opcode]
    if kind == "f64":
        if mode == "approx" and instruction.opcode == "rcp":  # keeps the upper 32 bits, from which nvcc iterates
            return elementwise(instruction, linker, kind, [kind], _upper_half(lambda a: 1.0 / a))
        if mode != "rn":
            raise unknown(instruction, "directed rounding of float64 is not modelled")
        function: Function = (lambda a: 1.0 / a) if instruction.opcode == "rcp" else np.sqrt
        return elementwise(instruction, linker, kind, [kind], function)
    function = nearest if mode in ("rn", "approx") else lambda a: formats.to_f32(to_odd(a), mode)
    return elementwise(instruction, linker, kind, [kind], _finished(function, flush, False))


def _upper_half(function: Function) -> Function:
    def cut(a: np.ndarray) -> np.ndarray:
        value = np.atleast_1d(function(a))
        return np.where(
            np.isnan(value), value, (value.view(np.uint64) & np.uint64(0xFFFF_FFFF_0000_0000)).view(np.float64)
        )

    return cut


def approximate(instruction: Instruction, linker: Linker) -> Action:
    """ex2, lg2, rsqrt, sin, cos, tanh."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(FLOATS)
    flush = modifiers.flag("ftz")
    if not modifiers.flag("approx"):
        raise unknown(instruction)
    modifiers.done()
    exact = APPROXIMATE[instruction.opcode]
    if kind == "f64":
        if instruction.opcode != "rsqrt":
            raise unknown(instruction)
        return elementwise(instruction, linker, kind, [kind], _upper_half(exact))
    return elementwise(instruction, linker, kind, [kind], _finished(_through_f64(exact), flush, False))


def select_extreme(smaller: bool, keeps_nan: bool) -> Function:
    """min or max of floats: a NaN gives way to a number unless it is kept; -0 is below +0."""
    function = np.minimum if smaller else np.maximum

    def choose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result = function(a, b)
        equal = np.asarray(a == b) & (np.asarray(a) == 0)
        if equal.any():
            negative = np.signbit(a) | np.signbit(b) if smaller else np.signbit(a) & np.signbit(b)
            result = np.where(equal, np.where(negative, result.dtype.type(-0.0), result.dtype.type(0.0)), result)
        if not keeps_nan:
            result = np.where(np.isnan(a), b, np.where(np.isnan(b), a, result))
        return result

    return choose


def extreme(instruction: Instruction, linker: Linker) -> Action:
    """min and max."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(FLOATS)
    flush, keeps_nan = modifiers.flag("ftz"), modifiers.flag("NaN")
    magnitude = modifiers.flag("xorsign")
    if magnitude and not modifiers.flag("abs"):
        raise unknown(instruction)
    modifiers.done()
    choose = select_extreme(instruction.opcode == "min", keeps_nan)
    if kind == "f64":
        return elementwise(instruction, linker, kind, [kind] * 2, choose)

    def of_magnitudes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sign = np.where(np.signbit(a) ^ np.signbit(b), np.float32(-1), np.float32(1))
        return np.copysign(choose(np.abs(a), np.abs(b)), sign)

    def of_three(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return choose(choose(a, b), c)

    function = of_magnitudes if magnitude else choose if len(instruction.operands) == 3 else of_three
    count = len(instruction.operands) - 1
    return elementwise(instruction, linker, kind, [kind] * count, _finished(function, flush, False))


def sign(instruction: Instruction, linker: Linker) -> Action:
    """abs and neg."""
    modifiers = Modifiers(instruction)
    kind = modifiers.type(FLOATS)
    flush = modifiers.flag("ftz")
    modifiers.done()
    function = np.abs if instruction.opcode == "abs" else np.negative
    if flush:
        return elementwise(instruction, linker, kind, [kind], lambda a: function(formats.flush(a)))
    return elementwise(instruction, linker, kind, [kind], function)


def copysign(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind = modifiers.type(FLOATS)
    modifiers.done()
    return elementwise(instruction, linker, kind, [kind] * 2, lambda a, b: np.copysign(b, a))


_TESTS = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda a: ~np.isnan(a),
    "notanumber": np.isnan,
    "normal": lambda a: np.isfinite(a) & (np.abs(a) >= np.finfo(a.dtype).tiny),
    "subnormal": lambda a: (a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny),
}


def testp(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    kind = modifiers.type(FLOATS)
    question = modifiers.one_of(tuple(_TESTS))
    modifiers.done()
    return elementwise(instruction, linker, "pred", [kind], _TESTS[question])


TABLE = {"copysign": copysign, "testp": testp}
SHARED = {
    "add": arithmetic,
    "sub": arithmetic,
    "mul": arithmetic,
    "fma": arithmetic,
    "mad": arithmetic,
    "div": divide,
    "rcp": root,
    "sqrt": root,
    "min": extreme,
    "max": extreme,
    "abs": sign,
    "neg": sign,
} | dict.fromkeys(APPROXIMATE, approximate)
