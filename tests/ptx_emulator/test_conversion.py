"""cvt in all its forms, setp, set, selp, slct, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from ptx_emulator.cases import Case, check, edge_values, half_values, needs_nvcc, rounded, source_of, to_f32
from ptx_emulator.test_floating import FORMATS, bits_of, value_of

F32 = edge_values("f32", 30)
PICK = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
TF32 = (11, -126, float.fromhex("0x1.ffcp127"))
E4M3, E5M2 = (4, -6, 448.0), (3, -14, 57344.0)


def to_integer(kind: str, mode: str, source: str = "f32") -> object:
    bits, signed = int(kind[1:]), kind[0] == "s"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)

    def function(value: float) -> int:
        if value != value:
            return 1 << bits - 1 if bits == 64 or source == "f64" else 0
        if math.isinf(value):
            return high if value > 0 else low
        return max(low, min(high, PICK[mode](value)))

    return function


def half(value: float, kind: str, mode: str = "rn", relu: bool = False, finite: bool = False) -> int:
    if value != value:
        return 0x7FFF
    if relu and value < 0:
        value = 0.0
    precision, smallest, largest = FORMATS[kind]
    if finite:
        value = max(-largest, min(largest, value))
    return bits_of(rounded(value, precision, smallest, largest, mode), kind)


def tf32(value: float, mode: str) -> int:
    if value != value:
        return 0x7FFFFFFF
    return int(np.array([rounded(value, *TF32, mode)], np.float32).view(np.uint32)[0])


def clamp(kind: str) -> object:
    info = np.iinfo(
        {"u8": np.uint8, "s8": np.int8, "u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32}[kind]
    )
    return lambda a: max(int(info.min), min(int(info.max), a))


def fp8(value: float, name: str) -> int:
    """The nearest code by search over all of them."""
    if value != value:
        return 0x7F
    precision, smallest, largest = E4M3 if name == "e4m3" else E5M2
    value = max(-largest, min(largest, value))
    target = rounded(value, precision, smallest, largest)
    mantissa = precision - 1
    for code in range(128):
        exponent, fraction = code >> mantissa, code & (1 << mantissa) - 1
        number = 2.0 ** (max(exponent, 1) + smallest - 1 - mantissa) * (fraction + ((1 << mantissa) if exponent else 0))
        if number == abs(target):
            return code | (0x80 if math.copysign(1, target) < 0 else 0)
    raise AssertionError(value)


CASES = []
for _mode in PICK:
    for _kind in ("s32", "u32", "s64", "u64"):
        CASES += [
            Case(f"f32_{_kind}_{_mode}", f"cvt.{_mode}.{_kind}.f32 %0, %1;", _kind, ("f32",), to_integer(_kind, _mode))
        ]
    CASES += [
        Case(f"f64_s32_{_mode}", f"cvt.{_mode}.s32.f64 %0, %1;", "s32", ("f64",), to_integer("s32", _mode, "f64")),
        Case(
            f"f32_f32_{_mode}",
            f"cvt.{_mode}.f32.f32 %0, %1;",
            "f32",
            ("f32",),
            lambda a, f=PICK[_mode]: math.copysign(float(f(a)), a) if math.isfinite(a) else a,
        ),
        Case(
            f"f16_s16_{_mode}",
            f"cvt.{_mode}.s16.f16 %0, %1;",
            "s16",
            ("u16",),
            lambda a, m=_mode: to_integer("s16", m)(value_of(a, "f16")),
            values=(half_values("f16"),),
        ),
    ]
for _mode in ("rn", "rz", "rm", "rp"):
    for _kind in ("s32", "u32", "s64", "u64"):
        CASES.append(
            Case(
                f"{_kind}_f32_{_mode}",
                f"cvt.{_mode}.f32.{_kind} %0, %1;",
                "f32",
                (_kind,),
                lambda a, m=_mode: to_f32(float(a) if abs(a) < 2**53 else Fraction(a), m),
            )
        )
    CASES += [
        Case(
            f"f64_f32_{_mode}",
            f"cvt.{_mode}.f32.f64 %0, %1;",
            "f32",
            ("f64",),
            lambda a, m=_mode: to_f32(a, m),
            values=(
                np.concatenate([edge_values("f64", 60), [1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-52, 3e38, 1e39, 1e-46]]),
            ),
        ),
    ]
for _kind in ("f16", "bf16"):
    for _mode in ("rn", "rz"):
        CASES += [
            Case(
                f"f32_{_kind}_{_mode}",
                f"cvt.{_mode}.{_kind}.f32 %0, %1;",
                "u16",
                ("f32",),
                lambda a, k=_kind, m=_mode: half(a, k, m),
                values=(F32,),
            ),
            Case(
                f"f32_{_kind}x2_{_mode}",
                f"cvt.{_mode}.{_kind}x2.f32 %0, %1, %2;",
                "u32",
                ("f32", "f32"),
                lambda a, b, k=_kind, m=_mode: half(a, k, m) << 16 | half(b, k, m),
            ),
        ]
    CASES += [
        Case(
            f"{_kind}_f32",
            f"{{ .reg .b16 h; mov.u16 h, %1; cvt.f32.{_kind} %0, h; }}",
            "f32",
            ("u16",),
            lambda a, k=_kind: value_of(a, k),
            values=(half_values(_kind),),
        ),
        Case(
            f"relu_{_kind}x2",
            f"cvt.rn.relu.{_kind}x2.f32 %0, %1, %2;",
            "u32",
            ("f32", "f32"),
            lambda a, b, k=_kind: half(a, k, relu=True) << 16 | half(b, k, relu=True),
        ),
    ]
CASES += [
    Case("tf32_rna", "cvt.rna.tf32.f32 %0, %1;", "u32", ("f32",), lambda a: tf32(a, "rna")),
    Case("f32_sat", "cvt.sat.f32.f32 %0, %1;", "f32", ("f32",), lambda a: 0.0 if a != a else min(max(a, 0.0), 1.0)),
    Case("f32_f64", "cvt.f64.f32 %0, %1;", "f64", ("f32",), lambda a: a),
    Case("ftz", "cvt.ftz.rzi.s32.f32 %0, %1;", "s32", ("f32",), to_integer("s32", "rzi")),
    Case(
        "rpi_ftz",
        "cvt.rpi.ftz.s32.f32 %0, %1;",
        "s32",
        ("f32",),
        lambda a: 0 if abs(a) < 2.0**-126 else to_integer("s32", "rpi")(a),
    ),
    Case("s32_s64", "cvt.s64.s32 %0, %1;", "s64", ("s32",), lambda a: a),
    Case("u32_u64", "cvt.u64.u32 %0, %1;", "u64", ("u32",), lambda a: a),
    Case("u64_u32", "cvt.u32.u64 %0, %1;", "u32", ("u64",), lambda a: a),
    Case("s32_s8", "cvt.s32.s8 %0, %1;", "s32", ("s32",), lambda a: (a & 255) - (256 if a & 128 else 0)),
    Case("u32_u8", "cvt.u32.u8 %0, %1;", "u32", ("u32",), lambda a: a & 255),
    Case("s16_s32", "cvt.s32.s16 %0, %1;", "s32", ("s16",), lambda a: a),
    Case("s32_s16", "cvt.s16.s32 %0, %1;", "s16", ("s32",), lambda a: a),
]
for _kind in ("u8", "s8", "u16", "s16"):
    _wide = "s32" if _kind[0] == "s" else "u32"
    CASES.append(
        Case(
            f"sat_{_kind}", f"cvt.sat.{_kind}.s32 %0, %1;", "u32" if _kind[0] == "u" else "s32", ("s32",), clamp(_kind)
        )
    )
CASES += [
    Case("sat_u32_s64", "cvt.sat.u32.s64 %0, %1;", "u32", ("s64",), clamp("u32")),
    Case("sat_s32_u32", "cvt.sat.s32.u32 %0, %1;", "s32", ("u32",), clamp("s32")),
]

_INTEGERS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
for _name, _function in _INTEGERS.items():
    for _kind in ("s16", "u32", "s32", "u64", "s64"):
        CASES.append(
            Case(
                f"setp_{_name}_{_kind}",
                (f"{{ .reg .pred p; setp.{_name}.{_kind} p, %1, %2; selp.u32 %0, 1, 0, p; }}"),
                "u32",
                (_kind, _kind),
                _function,
            )
        )
    _ordered = lambda a, b, f=_function: f(a, b) and a == a and b == b  # noqa: E731
    _unordered = lambda a, b, f=_function: f(a, b) or a != a or b != b  # noqa: E731
    for _suffix, _compare in (("", _ordered), ("u", _unordered)):
        CASES.append(
            Case(
                f"setp_{_name}{_suffix}_f32",
                (f"{{ .reg .pred p; setp.{_name}{_suffix}.f32 p, %1, %2; selp.u32 %0, 1, 0, p; }}"),
                "u32",
                ("f32", "f32"),
                _compare,
            )
        )
for _name, _function in (
    ("lo", _INTEGERS["lt"]),
    ("ls", _INTEGERS["le"]),
    ("hi", _INTEGERS["gt"]),
    ("hs", _INTEGERS["ge"]),
):
    CASES.append(
        Case(
            f"setp_{_name}",
            (f"{{ .reg .pred p; setp.{_name}.u32 p, %1, %2; selp.u32 %0, 1, 0, p; }}"),
            "u32",
            ("u32", "u32"),
            _function,
        )
    )
CASES += [
    Case(
        "setp_num",
        ("{ .reg .pred p; setp.num.f32 p, %1, %2; selp.u32 %0, 1, 0, p; }"),
        "u32",
        ("f32", "f32"),
        lambda a, b: a == a and b == b,
    ),
    Case(
        "setp_nan",
        ("{ .reg .pred p; setp.nan.f32 p, %1, %2; selp.u32 %0, 1, 0, p; }"),
        "u32",
        ("f32", "f32"),
        lambda a, b: a != a or b != b,
    ),
    Case(
        "setp_two",
        ("{ .reg .pred p, q; setp.lt.s32 p|q, %1, %2; selp.u32 %0, 1, 2, p; @q add.u32 %0, %0, 8; }"),
        "u32",
        ("s32", "s32"),
        lambda a, b: 1 if a < b else 10,
    ),
    Case(
        "setp_and",
        (
            "{ .reg .pred p, q, r; setp.gt.s32 r, %1, 3; setp.lt.and.s32 p|q, %1, %2, r; selp.u32 %0, 1, 0, "
            "p; @q add.u32 %0, %0, 2; }"
        ),
        "u32",
        ("s32", "s32"),
        lambda a, b: (a < b and a > 3) + 2 * (not a < b and a > 3),
    ),
    Case(
        "setp_not",
        "{ .reg .pred p, r; setp.gt.s32 r, %1, 3; setp.lt.or.s32 p, %1, %2, !r; selp.u32 %0, 1, 0, p; }",
        "u32",
        ("s32", "s32"),
        lambda a, b: a < b or a <= 3,
    ),
    Case(
        "setp_f16",
        ("{ .reg .pred p; .reg .f16 x, y; mov.b16 x, %1; mov.b16 y, %2; setp.lt.f16 p, x, y; selp.u32 %0, 1, 0, p; }"),
        "u32",
        ("u16", "u16"),
        lambda a, b: value_of(a, "f16") < value_of(b, "f16"),
        values=(half_values("f16"),) * 2,
    ),
    Case(
        "setp_bf16",
        "{ .reg .pred p; setp.geu.bf16 p, %1, %2; selp.u32 %0, 1, 0, p; }",
        "u32",
        ("u16", "u16"),
        lambda a, b: not value_of(a, "bf16") < value_of(b, "bf16"),
        values=(half_values("bf16"),) * 2,
    ),
    Case(
        "setp_f16x2",
        ("{ .reg .pred p, q; setp.gt.f16x2 p|q, %1, %2; selp.u32 %0, 1, 0, p; @q add.u32 %0, %0, 2; }"),
        "u32",
        ("u32", "u32"),
        lambda a, b: (
            (value_of(a & 0xFFFF, "f16") > value_of(b & 0xFFFF, "f16"))
            + 2 * (value_of(a >> 16, "f16") > value_of(b >> 16, "f16"))
        ),
    ),
    Case(
        "set_f16x2",
        "set.lt.f16x2.f16x2 %0, %1, %2;",
        "u32",
        ("u32", "u32"),
        lambda a, b: sum(
            0x3C00 << s for s in (0, 16) if value_of(a >> s & 0xFFFF, "f16") < value_of(b >> s & 0xFFFF, "f16")
        ),
    ),
    Case("set_u32", "set.gt.u32.s32 %0, %1, %2;", "u32", ("s32", "s32"), lambda a, b: -(a > b)),
    Case("set_f32", "set.le.f32.f32 %0, %1, %2;", "f32", ("f32", "f32"), lambda a, b: float(a <= b)),
    Case("slct", "slct.u32.s32 %0, %1, %2, %3;", "u32", ("u32", "u32", "s32"), lambda a, b, c: a if c >= 0 else b),
    Case(
        "selp_f32",
        "{ .reg .pred p; setp.ne.u32 p, %3, 0; selp.f32 %0, %1, %2, p; }",
        "f32",
        ("f32", "f32", "u32"),
        lambda a, b, c: a if c else b,
    ),
]

SM90 = [
    Case("tf32_rn", "cvt.rn.tf32.f32 %0, %1;", "u32", ("f32",), lambda a: tf32(a, "rn")),
    Case("tf32_rz", "cvt.rz.tf32.f32 %0, %1;", "u32", ("f32",), lambda a: tf32(a, "rz")),
    Case(
        "e4m3",
        "{ .reg .b16 t; cvt.rn.satfinite.e4m3x2.f32 t, %1, %2; cvt.u32.u16 %0, t; }",
        "u32",
        ("f32", "f32"),
        lambda a, b: fp8(a, "e4m3") << 8 | fp8(b, "e4m3"),
    ),
    Case(
        "e5m2",
        "{ .reg .b16 t; cvt.rn.satfinite.e5m2x2.f32 t, %1, %2; cvt.u32.u16 %0, t; }",
        "u32",
        ("f32", "f32"),
        lambda a, b: fp8(a, "e5m2") << 8 | fp8(b, "e5m2"),
    ),
    Case(
        "from_e5m2",
        "cvt.rn.f16x2.e5m2x2 %0, %1;",
        "u32",
        ("u16",),
        lambda a: (
            (0x7FFF if (a >> 8 & 0x7F) > 0x7C else a >> 8 << 8) << 16
            | (0x7FFF if (a & 0x7F) > 0x7C else (a & 255) << 8)
        ),
    ),
]


@needs_nvcc
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conversion_or_comparison(case):
    check(case, source_of(CASES))


@needs_nvcc
@pytest.mark.parametrize("case", SM90, ids=lambda case: case.name)
def test_conversion_of_sm_90(case):
    check(case, source_of(SM90), arch="sm_90a")
