"""cvt, cvta, isspacep: conversions among numbers and among address spaces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ptx_emulator import formats
from ptx_emulator.access import WINDOWS
from ptx_emulator.instructions.common import Modifiers, elementwise
from ptx_emulator.instructions.half import narrow, widen
from ptx_emulator.lanes import NUMPY, Action, Linker, unknown
from ptx_emulator.memory import WINDOW_BYTES
from ptx_emulator.module import TYPE_BITS, Instruction

_INTEGER_MODES = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}
_FLOAT_MODES = ("rn", "rz", "rm", "rp", "rna")
_FLOATS = ("f16", "bf16", "f32", "f64")
_PACKED = ("f16x2", "bf16x2", "e4m3x2", "e5m2x2")
Convert = Callable[[np.ndarray], np.ndarray]


def _carrier(kind: str) -> str:
    """The type in which a format's bits are read and written."""
    return {"bf16": "b16", "f16": "b16", "tf32": "b32"}.get(kind, kind)


def _to_f64(kind: str) -> Convert:
    """From an operand to float64; exact, or rounded to odd for 64-bit integers."""
    if kind in ("f16", "bf16"):
        return lambda a: widen(a, kind)
    if kind in ("u64", "s64"):

        def wide(a: np.ndarray) -> np.ndarray:
            high = (a >> a.dtype.type(32)).astype(np.float64) * 2.0**32
            return formats.sum_odd(high, (a & a.dtype.type(0xFFFF_FFFF)).astype(np.float64))

        return wide
    return lambda a: np.asarray(a).astype(np.float64)


def _to_integer(kind: str, source: str, mode: str) -> Convert:
    """From float64 to an integer type, clamped; NaN gives 0, or where 64 bits are involved the highest bit alone."""
    dtype = NUMPY[kind]
    info, bits = np.iinfo(dtype), TYPE_BITS[kind]
    not_a_number = 0 if source != "f64" and bits != 64 else 1 << (bits - 1)

    def convert(value: np.ndarray) -> np.ndarray:
        rounded = formats.ROUNDINGS[mode](value)
        high, low = rounded >= float(info.max), rounded <= float(info.min)
        inside = np.where(high | low | np.isnan(rounded), 0.0, rounded).astype(dtype)
        result = np.where(high, dtype.type(info.max), np.where(low, dtype.type(info.min), inside))
        return np.where(np.isnan(value), np.array(not_a_number, f"u{bits // 8}").astype(dtype), result)

    return convert


def _to_float(kind: str, mode: str) -> Convert:
    if kind == "f64":
        return lambda value: value
    if kind == "f32":
        return lambda value: formats.canonical(formats.to_f32(value, mode))
    return lambda value: narrow(value, kind, mode)


def convert(instruction: Instruction, linker: Linker) -> Action:
    """cvt of one number. Packed and tensor-core formats are told apart here."""
    kinds = [name for name in instruction.modifiers if name in TYPE_BITS]
    if len(kinds) != 2:
        raise unknown(instruction)
    if kinds[0] in _PACKED:
        return _convert_pair(instruction, linker)
    if kinds[0] == "tf32":
        return _convert_tf32(instruction, linker)
    modifiers = Modifiers(instruction)
    result, source = modifiers.types(2)
    flush, saturate, relu = modifiers.flag("ftz"), modifiers.flag("sat"), modifiers.flag("relu")
    finite = modifiers.flag("satfinite")
    integral = modifiers.one_of(tuple(_INTEGER_MODES), "")
    mode = modifiers.one_of(_FLOAT_MODES, "")
    modifiers.done()
    arguments = instruction, linker, _carrier(result), [_carrier(source)]
    if result not in _FLOATS and source not in _FLOATS:
        return elementwise(*arguments, _integer_to_integer(result, source, saturate))
    prepare = _to_f64(source)
    if result not in _FLOATS:
        finish = _to_integer(result, source, _INTEGER_MODES.get(integral, ""))  # saturates anyway
        if not integral:
            raise unknown(instruction, "no rounding to an integer")
    else:
        finish = _to_float(result, mode or "rn")

    def function(a: np.ndarray) -> np.ndarray:
        value = prepare(formats.flush(a) if flush and source == "f32" else a)
        if result in _FLOATS and integral:
            value = formats.ROUNDINGS[_INTEGER_MODES[integral]](value)
        if saturate and result in _FLOATS:
            value = np.where(np.isnan(value), 0.0, np.clip(value, 0.0, 1.0))
        if relu:
            value = np.where(value < 0, 0.0, value)
        if finite:
            largest = {"f16": formats.F16, "bf16": formats.BF16}[result].largest
            value = np.clip(value, -largest, largest)
        out = finish(value)
        return formats.flush(out) if flush and result == "f32" else out

    return elementwise(*arguments, function)


def _integer_to_integer(result: str, source: str, saturate: bool) -> Convert:
    dtype = NUMPY[result]
    if not saturate:
        return lambda a: np.asarray(a).astype(dtype)
    info = np.iinfo(dtype)

    def clamp(a: np.ndarray) -> np.ndarray:
        low = max(int(info.min), int(np.iinfo(a.dtype).min))
        high = min(int(info.max), int(np.iinfo(a.dtype).max))
        return np.clip(a, a.dtype.type(low), a.dtype.type(high)).astype(dtype)

    return clamp


def _convert_pair(instruction: Instruction, linker: Linker) -> Action:
    """cvt of two numbers into one register, the first into the upper half; or of two fp8 into two float16."""
    modifiers = Modifiers(instruction)
    result, source = modifiers.types(2)
    mode = modifiers.one_of(("rn", "rz"))
    relu, finite = modifiers.flag("relu"), modifiers.flag("satfinite")
    modifiers.done()

    def clean(value: np.ndarray) -> np.ndarray:
        value = np.asarray(value, np.float64)
        value = np.where(value < 0, 0.0, value) if relu else value
        if finite and not result.startswith("e"):
            largest = formats.F16.largest if result == "f16x2" else formats.BF16.largest
            value = np.clip(value, -largest, largest)
        return value

    if source == "f32" and result in ("f16x2", "bf16x2"):

        def words(high: np.ndarray, low: np.ndarray) -> np.ndarray:
            upper, lower = (narrow(clean(value), result, mode).astype(np.uint32) for value in (high, low))
            return upper << np.uint32(16) | lower

        return elementwise(instruction, linker, "b32", ["f32"] * 2, words)
    if result in ("e4m3x2", "e5m2x2") and finite:
        name = result[:4]

        def octets(high: np.ndarray, low: np.ndarray) -> np.ndarray:
            upper, lower = (formats.f64_to_fp8(clean(value), name).astype(np.uint16) for value in (high, low))
            return upper << np.uint16(8) | lower

        if source == "f32":
            return elementwise(instruction, linker, "b16", ["f32"] * 2, octets)
        if source == "f16x2":
            return elementwise(
                instruction, linker, "b16", ["b32"], lambda a: octets(*(widen(part, "f16") for part in _split(a)[::-1]))
            )
    if result == "f16x2" and source in ("e4m3x2", "e5m2x2"):
        table = formats.fp8_values(source[:4])

        def from_octets(a: np.ndarray) -> np.ndarray:
            upper, lower = (narrow(clean(table[byte]), "f16").astype(np.uint32) for byte in (a >> 8, a & 0xFF))
            return upper << np.uint32(16) | lower

        return elementwise(instruction, linker, "b32", ["b16"], from_octets)
    raise unknown(instruction)


def _split(word: np.ndarray) -> list[np.ndarray]:
    return [(np.atleast_1d(word) >> np.uint32(16 * half)).astype(np.uint16) for half in range(2)]


def _convert_tf32(instruction: Instruction, linker: Linker) -> Action:
    modifiers = Modifiers(instruction)
    modifiers.types(2, ("tf32", "f32"))
    mode = modifiers.one_of(("rna", "rn", "rz"))
    relu, finite = modifiers.flag("relu"), modifiers.flag("satfinite")
    modifiers.done()

    def function(a: np.ndarray) -> np.ndarray:
        a = np.where(a < 0, np.float32(0), a) if relu else a
        if finite:
            a = np.clip(a, np.float32(-formats.TF32.largest), np.float32(formats.TF32.largest))
        return formats.f32_to_tf32(a, mode)

    return elementwise(instruction, linker, "b32", ["f32"], function)


def address(instruction: Instruction, linker: Linker) -> Action:
    """cvta: from a space to the generic address, or back (.to)."""
    modifiers = Modifiers(instruction)
    modifiers.type(("u64",))
    back = modifiers.flag("to")
    space = modifiers.one_of(("global", "shared", "local", "const", "param", "shared::cta"))
    modifiers.done()
    window = np.uint64(WINDOWS[space.split("::")[0]])
    return elementwise(instruction, linker, "u64", ["u64"], lambda a: a - window if back else a + window)


def is_space(instruction: Instruction, linker: Linker) -> Action:
    """isspacep: whether a generic address lies in a space."""
    modifiers = Modifiers(instruction)
    space = modifiers.one_of(("global", "shared", "local", "const", "param", "shared::cta")).split("::")[0]
    modifiers.done()
    windows = [WINDOWS[name] // WINDOW_BYTES for name in ("shared", "local", "param")]

    def function(a: np.ndarray) -> np.ndarray:
        number = np.atleast_1d(a) >> np.uint64(36)
        if space == "global":
            return ~np.isin(number, windows)
        return number == WINDOWS[space] // WINDOW_BYTES

    if space == "const":
        raise unknown(instruction, "constants lie among the global allocations here")
    return elementwise(instruction, linker, "pred", ["u64"], function)


TABLE = {"cvt": convert, "cvta": address, "isspacep": is_space}
