"""Integer instructions against Python's own integers."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.cases import Case, check, needs_nvcc, source_of


def towards_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def quotient(a: int, b: int) -> int:
    return towards_zero(a, b) if b else -1


def remainder(a: int, b: int) -> int:
    return a - towards_zero(a, b) * b if b else a


def clamp(value: int) -> int:
    return max(-(2**31), min(2**31 - 1, value))


def low24(value: int, signed: bool) -> int:
    value &= 0xFFFFFF
    return value - (1 << 24) if signed and value >> 23 else value


def octets(word: int, signed: bool) -> list[int]:
    return [int(v) for v in np.array([word & 0xFFFFFFFF], np.uint32).view("i1" if signed else "u1")]


CASES = [
    case
    for kind in ("u16", "s16", "u32", "s32", "u64", "s64")
    for case in (
        Case(f"add_{kind}", f"add.{kind} %0, %1, %2;", kind, (kind, kind), lambda a, b: a + b),
        Case(f"sub_{kind}", f"sub.{kind} %0, %1, %2;", kind, (kind, kind), lambda a, b: a - b),
        Case(f"mul_lo_{kind}", f"mul.lo.{kind} %0, %1, %2;", kind, (kind, kind), lambda a, b: a * b),
        Case(
            f"mul_hi_{kind}",
            f"mul.hi.{kind} %0, %1, %2;",
            kind,
            (kind, kind),
            lambda a, b, bits=int(kind[1:]): a * b >> bits,
        ),
        Case(f"div_{kind}", f"div.{kind} %0, %1, %2;", kind, (kind, kind), quotient),
        Case(f"rem_{kind}", f"rem.{kind} %0, %1, %2;", kind, (kind, kind), remainder),
        Case(f"min_{kind}", f"min.{kind} %0, %1, %2;", kind, (kind, kind), min),
        Case(f"max_{kind}", f"max.{kind} %0, %1, %2;", kind, (kind, kind), max),
        Case(f"mad_lo_{kind}", f"mad.lo.{kind} %0, %1, %2, %3;", kind, (kind,) * 3, lambda a, b, c: a * b + c),
        Case(f"sad_{kind}", f"sad.{kind} %0, %1, %2, %3;", kind, (kind,) * 3, lambda a, b, c: c + abs(a - b)),
    )
]
for _kind, _wide in (("u16", "u32"), ("s16", "s32"), ("u32", "u64"), ("s32", "s64")):
    CASES += [
        Case(f"mul_wide_{_kind}", f"mul.wide.{_kind} %0, %1, %2;", _wide, (_kind, _kind), lambda a, b: a * b),
        Case(
            f"mad_wide_{_kind}",
            f"mad.wide.{_kind} %0, %1, %2, %3;",
            _wide,
            (_kind, _kind, _wide),
            lambda a, b, c: a * b + c,
        ),
    ]
for _kind in ("s16", "s32", "s64"):
    CASES += [
        Case(f"abs_{_kind}", f"abs.{_kind} %0, %1;", _kind, (_kind,), abs),
        Case(f"neg_{_kind}", f"neg.{_kind} %0, %1;", _kind, (_kind,), lambda a: -a),
    ]
CASES += [
    Case("add_sat", "add.sat.s32 %0, %1, %2;", "s32", ("s32", "s32"), lambda a, b: clamp(a + b)),
    Case("sub_sat", "sub.sat.s32 %0, %1, %2;", "s32", ("s32", "s32"), lambda a, b: clamp(a - b)),
    Case("mad_hi_sat", "mad.hi.sat.s32 %0, %1, %2, %3;", "s32", ("s32",) * 3, lambda a, b, c: clamp((a * b >> 32) + c)),
    Case("mad_hi_u32", "mad.hi.u32 %0, %1, %2, %3;", "u32", ("u32",) * 3, lambda a, b, c: (a * b >> 32) + c),
    Case("mul24_u", "mul24.lo.u32 %0, %1, %2;", "u32", ("u32",) * 2, lambda a, b: low24(a, False) * low24(b, False)),
    Case("mul24_s", "mul24.lo.s32 %0, %1, %2;", "s32", ("s32",) * 2, lambda a, b: low24(a, True) * low24(b, True)),
    Case(
        "mul24_hi", "mul24.hi.s32 %0, %1, %2;", "s32", ("s32",) * 2, lambda a, b: low24(a, True) * low24(b, True) >> 16
    ),
    Case(
        "mad24",
        "mad24.lo.u32 %0, %1, %2, %3;",
        "u32",
        ("u32",) * 3,
        lambda a, b, c: low24(a, False) * low24(b, False) + c,
    ),
    Case(
        "dp4a_u",
        "dp4a.u32.u32 %0, %1, %2, %3;",
        "u32",
        ("u32",) * 3,
        lambda a, b, c: c + sum(x * y for x, y in zip(octets(a, False), octets(b, False), strict=True)),
    ),
    Case(
        "dp4a_s",
        "dp4a.s32.s32 %0, %1, %2, %3;",
        "s32",
        ("s32",) * 3,
        lambda a, b, c: c + sum(x * y for x, y in zip(octets(a, True), octets(b, True), strict=True)),
    ),
    Case(
        "dp4a_us",
        "dp4a.u32.s32 %0, %1, %2, %3;",
        "s32",
        ("u32", "s32", "s32"),
        lambda a, b, c: c + sum(x * y for x, y in zip(octets(a, False), octets(b, True), strict=True)),
    ),
    # 64-bit sums and differences made of 32-bit halves and the carry
    Case(
        "carry_add",
        "{ .reg .u32 a, b, c, d; mov.b64 {a, b}, %1; mov.b64 {c, d}, %2; add.cc.u32 a, a, c;"
        " addc.u32 b, b, d; mov.b64 %0, {a, b}; }",
        "u64",
        ("u64", "u64"),
        lambda a, b: a + b,
    ),
    Case(
        "carry_sub",
        "{ .reg .u32 a, b, c, d; mov.b64 {a, b}, %1; mov.b64 {c, d}, %2; sub.cc.u32 a, a, c;"
        " subc.u32 b, b, d; mov.b64 %0, {a, b}; }",
        "u64",
        ("u64", "u64"),
        lambda a, b: a - b,
    ),
]


@needs_nvcc
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_integer_instruction(case):
    check(case, source_of(CASES))
