"""Floating-point formats and roundings that NumPy lacks, exact for every input.

A value is rounded once. Where a sum or quotient does not fit float64, its last bit is made odd if anything was lost
(rounding to odd), after which a second rounding to at most 51 bits gives what one rounding of the exact value would;
see Boldo and
Melquiond, "Emulation of FMA and correctly rounded sums" (2008).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    precision: int  # bits, the hidden one included
    smallest: int  # exponent of the smallest normal number
    largest: float

    @property
    def overflow(self) -> float:
        return self.largest


F32 = Format(24, -126, float(np.finfo(np.float32).max))
F16 = Format(11, -14, 65504.0)
BF16 = Format(8, -126, float.fromhex("0x1.fep127"))
TF32 = Format(11, -126, float.fromhex("0x1.ffcp127"))
E4M3 = Format(4, -6, 448.0)
E5M2 = Format(3, -14, 57344.0)

ROUNDINGS = {
    "rn": np.rint,
    "rz": np.trunc,
    "rm": np.floor,
    "rp": np.ceil,
    "rna": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
}


def round_to(value: np.ndarray, form: Format, mode: str) -> np.ndarray:
    """float64 rounded to a format, as float64; past its range infinity, or the largest number if the mode says so."""
    value = np.asarray(value, np.float64)
    exponent = np.frexp(value)[1].astype(np.int32) - 1
    last = np.maximum(exponent, form.smallest) - (form.precision - 1)
    rounded = np.ldexp(ROUNDINGS[mode](np.ldexp(value, -last)), last)
    over = np.abs(rounded) > form.largest
    if over.any():
        to_largest = {"rz": True, "rm": value > 0, "rp": value < 0}.get(mode, False) & np.isfinite(value)
        rounded = np.where(
            over, np.where(to_largest, np.copysign(form.largest, value), np.copysign(np.inf, value)), rounded
        )
    return np.where(np.isfinite(value), rounded, value)


def _to_odd(value: np.ndarray, error: np.ndarray) -> np.ndarray:
    """float64 ``value`` with sticky last bit, ``error`` being what the rounding to it lost."""
    value = np.atleast_1d(np.asarray(value, np.float64))
    bits = value.view(np.int64)
    step = np.where((error > 0) == (value > 0), 1, -1)
    adjust = np.isfinite(value) & np.isfinite(error) & (error != 0) & (bits & 1 == 0)
    return np.where(adjust, bits + step, bits).view(np.float64)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    product = a * b
    high_a, high_b = _high(a), _high(b)
    low_a, low_b = a - high_a, b - high_b
    return product, ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


def _high(a: np.ndarray) -> np.ndarray:
    return (np.atleast_1d(np.asarray(a, np.float64)).view(np.int64) & -(1 << 27)).view(np.float64)


def sum_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b of float64, rounded to odd."""
    return _to_odd(*_two_sum(np.asarray(a, np.float64), np.asarray(b, np.float64)))


def quotient_odd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b of float32 values, in float64 rounded to odd."""
    a, b = np.atleast_1d(np.asarray(a, np.float64)), np.atleast_1d(np.asarray(b, np.float64))
    quotient = a / b
    product, low = _two_product(quotient, b)
    return _to_odd(quotient, ((a - product) - low) * np.sign(b))


def root_odd(a: np.ndarray) -> np.ndarray:
    """The square root of float32 values, in float64 rounded to odd."""
    a = np.atleast_1d(np.asarray(a, np.float64))
    root = np.sqrt(a)
    product, low = _two_product(root, root)
    return _to_odd(root, (a - product) - low)


def to_f32(value: np.ndarray, mode: str = "rn") -> np.ndarray:
    """float64 (exact, or rounded to odd) to float32."""
    if mode == "rn":
        return np.asarray(value, np.float64).astype(np.float32)
    return round_to(value, F32, mode).astype(np.float32)


def fma_f32(a: np.ndarray, b: np.ndarray, c: np.ndarray, mode: str = "rn") -> np.ndarray:
    """a * b + c of float32 with one rounding."""
    product = np.multiply(a, b, dtype=np.float64)  # exact: 48 bits
    c = np.asarray(c, np.float64)
    total = product + c
    # Most sums fit float64 or lie clear of a tie; only where the low 29 bits look like a tie can double rounding bite.
    if mode == "rn":
        low = np.atleast_1d(total).view(np.int64) & 0x1FFF_FFFF
        near = (low == 0x1000_0000) | (np.abs(total) < 1.2e-38)
        if not near.any():
            return total.astype(np.float32)
    return down_to_zero(to_f32(sum_odd(product, c), mode), product, c, mode)


def down_to_zero(result: np.ndarray, a: np.ndarray, b: np.ndarray, mode: str) -> np.ndarray:
    """A sum a + b in float32; where it is exactly zero, -0 when rounding down unless both terms are +0."""
    if mode != "rm":
        return result
    zero = (np.asarray(a) + b == 0) & (np.signbit(a) | np.signbit(b))
    return np.where(zero, np.float32(-0.0), result)


def fma_f64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float64 with one rounding. Products near the ends of the exponent range lose the guarantee."""
    a, b, c = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, np.float64)) for x in (a, b, c)))
    high, low = _two_product(a, b)
    top, rest = _two_sum(c, low)
    total, error = _two_sum(high, top)
    exact = total + sum_odd(rest, error)
    plain = a * b + c
    return np.where(np.isfinite(plain) & np.isfinite(exact) & (exact != 0), exact, plain)  # plain has the zero's sign


def flush(value: np.ndarray) -> np.ndarray:
    """float32 with subnormal numbers replaced by zero of the same sign (.ftz)."""
    tiny = np.abs(value) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(np.float32(0), value), value) if tiny.any() else value


def canonical(value: np.ndarray) -> np.ndarray:
    """float32 with every NaN the one that the hardware produces, 0x7fffffff."""
    nan = np.isnan(value)
    return np.where(nan, np.uint32(0x7FFF_FFFF).view(np.float32), value) if nan.any() else value


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits (uint16) to float32."""
    return (np.asarray(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(value: np.ndarray, mode: str = "rn") -> np.ndarray:
    """float32 to bfloat16 bits (uint16); NaN becomes 0x7fff."""
    value = np.asarray(value, np.float32)
    if mode == "rn":
        bits = value.view(np.uint32)
        rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    else:
        rounded = round_to(value, BF16, mode).astype(np.float32).view(np.uint32) >> np.uint32(16)
    return np.where(np.isnan(value), np.uint32(0x7FFF), rounded).astype(np.uint16)


def f64_to_bf16(value: np.ndarray, mode: str = "rn") -> np.ndarray:
    """float64 (exact, or rounded to odd) to bfloat16 bits."""
    return f32_to_bf16(round_to(value, BF16, mode).astype(np.float32), mode)


def f64_to_f16(value: np.ndarray, mode: str = "rn") -> np.ndarray:
    """float64 (exact, or rounded to odd) to float16; NaN becomes 0x7fff."""
    rounded = round_to(value, F16, mode).astype(np.float16)
    nan = np.isnan(rounded)
    return np.where(nan, np.uint16(0x7FFF).view(np.float16), rounded) if nan.any() else rounded


def f32_to_tf32(value: np.ndarray, mode: str) -> np.ndarray:
    """float32 to TensorFloat-32, as the bits (uint32) of a float32 whose low 13 bits are zero."""
    bits = np.where(
        np.isnan(value), np.uint32(0x7FFF_FFFF), round_to(value, TF32, mode).astype(np.float32).view(np.uint32)
    )
    return np.where(np.isnan(value), bits, bits & np.uint32(0xFFFF_E000))


def fp8_values(name: str) -> np.ndarray:
    """The value of each of the 256 bytes of e4m3 or e5m2, float64."""
    exponent_bits, mantissa_bits, bias = (4, 3, 7) if name == "e4m3" else (5, 2, 15)
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = codes & (1 << mantissa_bits) - 1
    scale = 2.0 ** (np.maximum(exponent, 1) - bias - mantissa_bits)
    value = sign * scale * (mantissa + np.where(exponent > 0, 1 << mantissa_bits, 0))
    if name == "e4m3":
        return np.where(codes & 0x7F == 0x7F, np.nan, value)
    return np.where(exponent == 31, np.where(mantissa > 0, np.nan, sign * np.inf), value)


def f64_to_fp8(value: np.ndarray, name: str) -> np.ndarray:
    """Float64 to e4m3 or e5m2 codes (uint8), to nearest, past the range to the largest number (.satfinite)."""
    form = E4M3 if name == "e4m3" else E5M2
    value = np.asarray(value, np.float64)
    rounded = np.clip(round_to(value, form, "rn"), -form.largest, form.largest)
    table = fp8_values(name)[:0x80]
    finite = np.flatnonzero(np.isfinite(table))
    codes = finite[np.searchsorted(table[finite], np.abs(np.nan_to_num(rounded)))]
    return np.where(np.isnan(value), 0x7F, codes | np.where(np.signbit(value), 0x80, 0)).astype(np.uint8)
