"""Micro kernels: one instruction each, written in inline PTX, compiled by nvcc, run on edge values and random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, Options, run
from ptx_emulator.toolchain import compiled, nvcc_version

needs_nvcc = pytest.mark.skipif(not nvcc_version(), reason="needs nvcc to compile the micro kernels")

# PTX type -> C type, asm constraint, NumPy type. Halves travel as bits.
_TYPES = {
    "u16": ("unsigned short", "h", "u2"),
    "s16": ("short", "h", "i2"),
    "u32": ("unsigned", "r", "u4"),
    "s32": ("int", "r", "i4"),
    "u64": ("unsigned long long", "l", "u8"),
    "s64": ("long long", "l", "i8"),
    "f32": ("float", "f", "f4"),
    "f64": ("double", "d", "f8"),
}
_BITS = [0, 1, 2, 3, 5, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255, 0x7F, 0x80]
_FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 3.5, 0.1, 1 / 3, 1e-3, 7.0, 255.0, 65504.0, 65520.0, 1e10, -1e10]
_FLOATS += [
    np.inf,
    -np.inf,
    np.nan,
    2.0**-126,
    2.0**-130,
    -(2.0**-149),
    2.0**-24,
    2.0**-25,
    3.4e38,
    -3.4e38,
    2.0**31,
    2.0**32,
]
_FLOATS += [
    2147483520.0,
    -2147483648.0,
    1 + 2.0**-8,
    1 + 3 * 2.0**-8,
    1 + 2.0**-11,
    1 + 2.0**-10 + 2.0**-11,
    2.0**63,
    2.0**64,
]


def edge_values(kind: str, count: int = 12) -> np.ndarray:
    """The numbers of a type that go wrong first, and ``count`` random ones."""
    dtype, rng = np.dtype(_TYPES[kind][2]), np.random.default_rng(1729)
    if dtype.kind == "f":
        random = rng.standard_normal(count) * 2.0 ** rng.integers(-20, 20, count)
        return np.concatenate([_FLOATS, random]).astype(dtype)
    bits = dtype.itemsize * 8
    top = [1 << bits - 1, (1 << bits - 1) - 1, (1 << bits) - 1, (1 << bits) - 2, 0x5A5A5A5A5A5A5A5A & (1 << bits) - 1]
    random = [int.from_bytes(rng.bytes(bits // 8), "little") for _ in range(count)]
    return np.array([*_BITS, *top, *random], np.uint64).astype(f"u{bits // 8}").view(dtype)


def half_values(kind: str) -> np.ndarray:
    """Bits of float16 or bfloat16, edges first."""
    special = {
        "f16": [0x0000, 0x8000, 0x3C00, 0xBC00, 0x7C00, 0xFC00, 0x7E00, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3555],
        "bf16": [
            0x0000,
            0x8000,
            0x3F80,
            0xBF80,
            0x7F80,
            0xFF80,
            0x7FC0,
            0x0001,
            0x807F,
            0x0080,
            0x7F7F,
            0xFF7F,
            0x3EAB,
        ],
    }[kind]
    middle = 0x3C00 if kind == "f16" else 0x3F80
    rng = np.random.default_rng(1729)
    near = rng.integers(-0x400, 0x400, 12) + middle
    return np.concatenate([special, near, rng.integers(0, 1 << 16, 6)]).astype(np.uint16)


@dataclass(frozen=True)
class Case:
    """One instruction.

    Attributes:
        name: of the kernel.
        ptx: the asm text; %0 is the result, %1 on are the arguments.
        result, arguments: PTX types.
        expected: the definition, from whole arrays to an array, or from Python numbers to a number (``each``).
        each: call ``expected`` once for each element.
        values: the arguments' values, edge values by default.
        tolerance: relative; 0 requires equal bits (any NaN equals any NaN).
    """

    name: str
    ptx: str
    result: str
    arguments: tuple[str, ...]
    expected: Callable[..., object]
    each: bool = True
    values: tuple[np.ndarray, ...] | None = None
    tolerance: float = 0.0

    @property
    def source(self) -> str:
        out, constraint, _ = _TYPES[self.result]
        inputs = [_TYPES[kind] for kind in self.arguments]
        formal = "".join(f", const {c}* a{n}" for n, (c, _, _) in enumerate(inputs))
        actual = ", ".join(f'"{letter}"(a{n}[i])' for n, (_, letter, _) in enumerate(inputs))
        return (
            f'extern "C" __global__ void k_{self.name}({out}* out, int n{formal}) {{\n'
            f"  int i = blockIdx.x * blockDim.x + threadIdx.x;\n  if (i >= n) return;\n  {out} r;\n"
            f'  asm volatile("{self.ptx}" : "={constraint}"(r) : {actual});\n  out[i] = r;\n}}\n'
        )

    def inputs(self) -> list[np.ndarray]:
        """The product of the arguments' values, or 1000 picks from it."""
        lists = self.values or tuple(edge_values(kind) for kind in self.arguments)
        sizes = [len(values) for values in lists]
        total = int(np.prod(sizes))
        picks = np.arange(total) if total <= 1500 else np.random.default_rng(total).choice(total, 1000, replace=False)
        indices = np.unravel_index(picks, sizes)
        return [np.ascontiguousarray(values[index]) for values, index in zip(lists, indices, strict=True)]


def check(case: Case, source: str, arch: str = "sm_80") -> None:
    """Runs a case's kernel out of a whole file's source and compares."""
    inputs = case.inputs()
    count = inputs[0].size
    memory = Memory()
    buffers = [memory.upload(values) for values in inputs]
    dtype = np.dtype(_TYPES[case.result][2])
    out = memory.empty(count * dtype.itemsize)
    grid = (-(-count // 96),)
    run(
        compiled(source, arch=arch),
        Launch(f"k_{case.name}", grid, (96,), [out, count, *buffers]),
        memory,
        Options(races=False),
    )
    actual = memory.read(out, dtype)
    if case.each:
        rows = zip(*(values.tolist() for values in inputs), strict=True)
        bits = 8 * dtype.itemsize
        results = [case.expected(*row) for row in rows]
        if dtype.kind != "f":
            results = [int(value) & (1 << bits) - 1 for value in results]
            expected = np.array(results, np.uint64).astype(f"u{bits // 8}").view(dtype)
        else:
            expected = np.array(results, dtype)
    else:
        with np.errstate(all="ignore"):
            expected = np.asarray(case.expected(*inputs), dtype)
    same = actual == expected
    if dtype.kind == "f":
        both_nan = np.isnan(actual) & np.isnan(expected)
        if case.tolerance:
            with np.errstate(all="ignore"):
                near = np.abs(actual - expected) <= case.tolerance * np.abs(expected) + np.finfo(dtype).tiny
            same = same | both_nan | near
        else:
            same = (same & (np.signbit(actual) == np.signbit(expected))) | both_nan
    wrong = np.flatnonzero(~same)
    if wrong.size:
        n = wrong[0]
        given = ", ".join(str(values[n]) for values in inputs)
        raise AssertionError(
            f"{case.name}({given}) = {actual[n]}, expected {expected[n]} ({wrong.size} of {count} differ)"
        )


def source_of(cases: Sequence[Case]) -> str:
    return "".join(case.source for case in cases)


def rounded(value: Fraction | float, precision: int, smallest: int, largest: float, mode: str = "rn") -> float:
    """An exact number rounded to a binary format, by integer arithmetic alone.

    Infinities and NaN come back as they are; past the largest number rounding gives infinity, or that number where
    the mode
    rounds towards zero there.
    """
    if isinstance(value, float):
        if value != value or value in (np.inf, -np.inf) or value == 0:
            return value
        value = Fraction(value)
    if value == 0:
        return 0.0
    negative, magnitude = value < 0, abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, smallest) - precision + 1)
    whole, rest = divmod(magnitude, unit)
    half = unit / 2
    up = {
        "rn": rest > half or (rest == half and whole % 2 == 1),
        "rna": rest >= half,
        "rz": False,
        "rm": negative and rest > 0,
        "rp": not negative and rest > 0,
    }[mode]
    result = (whole + up) * unit
    if result > Fraction(largest):
        stays = mode == "rz" or (mode == "rm" and not negative) or (mode == "rp" and negative)
        return float(np.copysign(largest if stays else np.inf, -1.0 if negative else 1.0))
    return -float(result) if negative else float(result)


def to_f32(value: Fraction | float, mode: str = "rn") -> float:
    return rounded(value, 24, -126, float(np.finfo(np.float32).max), mode)
