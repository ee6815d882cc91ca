"""float32, float64, float16 and bfloat16 arithmetic against exact rational arithmetic and NumPy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from ptx_emulator.cases import Case, check, edge_values, half_values, needs_nvcc, rounded, source_of, to_f32

INF, NAN = math.inf, math.nan
FEW = edge_values("f32", 4)
TINY = 2.0**-126


def exact(function: object, native: object, mode: str = "rn") -> object:
    """A function of finite numbers done in fractions and rounded once; of others done by ``native``."""

    def evaluate(*values: float) -> float:
        with np.errstate(all="ignore"):
            plain = float(native(*(np.float64(v) for v in values)))
        if not all(math.isfinite(v) for v in values) or not math.isfinite(plain):
            return plain
        result = function(*(Fraction(v) for v in values))
        if result == 0:  # a sum that is exactly zero is -0 when rounding down, unless both its terms are +0
            terms = values if len(values) == 2 else (values[0] * values[1], values[2])
            minus = mode == "rm" and native is not PRODUCT and any(math.copysign(1, t) < 0 for t in terms)
            return -0.0 if minus else plain
        return to_f32(result, mode)

    return evaluate


def SUM(a, b):
    return a + b


def PRODUCT(a, b):
    return a * b


def flushed(function: object) -> object:
    def evaluate(*values: float) -> float:
        result = function(*(math.copysign(0.0, v) if abs(v) < TINY else v for v in values))
        return math.copysign(0.0, result) if abs(result) < TINY else result

    return evaluate


def saturated(function: object) -> object:
    def evaluate(*values: float) -> float:
        result = function(*values)
        return 0.0 if result != result else min(max(result, 0.0), 1.0)

    return evaluate


def least(a: float, b: float) -> float:
    if a != a or b != b:
        return b if a != a else a
    return min((a, math.copysign(1, a)), (b, math.copysign(1, b)))[0]


def greatest(a: float, b: float) -> float:
    return -least(-a, -b)


def with_nan(function: object) -> object:
    return lambda a, b: NAN if a != a or b != b else function(a, b)


CASES = []
for _mode in ("rn", "rz", "rm", "rp"):
    CASES += [
        Case(f"add_{_mode}", f"add.{_mode}.f32 %0, %1, %2;", "f32", ("f32", "f32"), exact(SUM, SUM, _mode)),
        Case(f"mul_{_mode}", f"mul.{_mode}.f32 %0, %1, %2;", "f32", ("f32", "f32"), exact(PRODUCT, PRODUCT, _mode)),
        Case(
            f"fma_{_mode}",
            f"fma.{_mode}.f32 %0, %1, %2, %3;",
            "f32",
            ("f32",) * 3,
            exact(lambda a, b, c: a * b + c, lambda a, b, c: a * b + c, _mode),
            values=(FEW, FEW, FEW),
        ),
    ]
_positive = np.array([v for v in edge_values("f32") if v > 0 and np.isfinite(v)], np.float32)


def root(mode: str) -> object:
    def evaluate(a: float) -> float:
        scaled = Fraction(a) * 4**200  # an integer square root with many more bits than float32 has
        whole = math.isqrt(scaled.numerator // scaled.denominator)
        sticky = 0 if whole * whole == scaled else Fraction(1, 3)
        return to_f32((whole + sticky) / Fraction(2**200), mode)

    return evaluate


for _mode in ("rn", "rz", "rm", "rp"):
    CASES += [
        Case(
            f"div_{_mode}",
            f"div.{_mode}.f32 %0, %1, %2;",
            "f32",
            ("f32", "f32"),
            lambda a, b, m=_mode: to_f32(Fraction(a) / Fraction(b), m),
            values=(_positive, _positive),
        ),
        Case(
            f"rcp_{_mode}",
            f"rcp.{_mode}.f32 %0, %1;",
            "f32",
            ("f32",),
            lambda a, m=_mode: to_f32(1 / Fraction(a), m),
            values=(_positive,),
        ),
        Case(f"sqrt_{_mode}", f"sqrt.{_mode}.f32 %0, %1;", "f32", ("f32",), root(_mode), values=(_positive,)),
    ]
_add, _multiply = exact(SUM, SUM), exact(PRODUCT, PRODUCT)
CASES += [
    Case("sub", "sub.f32 %0, %1, %2;", "f32", ("f32", "f32"), lambda a, b: _add(a, -b)),
    Case("add_ftz", "add.ftz.f32 %0, %1, %2;", "f32", ("f32", "f32"), flushed(_add)),
    Case("mul_ftz", "mul.ftz.f32 %0, %1, %2;", "f32", ("f32", "f32"), flushed(_multiply)),
    Case("add_sat", "add.sat.f32 %0, %1, %2;", "f32", ("f32", "f32"), saturated(_add)),
    Case("div_special", "div.rn.f32 %0, %1, %2;", "f32", ("f32", "f32"), lambda a, b: a / b, each=False),
    Case(
        "div_full", "div.full.f32 %0, %1, %2;", "f32", ("f32", "f32"), lambda a, b: a / b, each=False, tolerance=2**-21
    ),
    Case("min", "min.f32 %0, %1, %2;", "f32", ("f32", "f32"), least),
    Case("max", "max.f32 %0, %1, %2;", "f32", ("f32", "f32"), greatest),
    Case("min_nan", "min.NaN.f32 %0, %1, %2;", "f32", ("f32", "f32"), with_nan(least)),
    Case("max_nan", "max.NaN.f32 %0, %1, %2;", "f32", ("f32", "f32"), with_nan(greatest)),
    Case(
        "max_xor",
        "max.xorsign.abs.f32 %0, %1, %2;",
        "f32",
        ("f32", "f32"),
        lambda a, b: math.copysign(greatest(abs(a), abs(b)), math.copysign(1, a) * math.copysign(1, b)),
    ),
    Case("abs", "abs.f32 %0, %1;", "f32", ("f32",), np.abs, each=False),
    Case("neg", "neg.f32 %0, %1;", "f32", ("f32",), np.negative, each=False),
    Case("copysign", "copysign.f32 %0, %1, %2;", "f32", ("f32", "f32"), lambda a, b: np.copysign(b, a), each=False),
    Case(
        "nan_bits",
        "{ .reg .f32 t; add.f32 t, %1, %2; mov.b32 %0, t; }",
        "u32",
        ("f32", "f32"),
        lambda a, b: 0x7FFFFFFF,
        values=(np.array([np.nan, np.inf], np.float32), np.array([-np.inf, np.nan], np.float32)),
    ),
]
for _name, _function in (
    ("ex2", np.exp2),
    ("lg2", np.log2),
    ("rsqrt", lambda a: 1 / np.sqrt(a)),
    ("sin", np.sin),
    ("cos", np.cos),
    ("tanh", np.tanh),
    ("sqrt", np.sqrt),
    ("rcp", lambda a: 1 / a),
):
    CASES.append(
        Case(
            f"approx_{_name}",
            f"{_name}.approx.f32 %0, %1;",
            "f32",
            ("f32",),
            lambda a, f=_function: f(a.astype(np.float64)).astype(np.float32),
            each=False,
            tolerance=2**-22,
        )
    )
CASES.append(
    Case(
        "ex2_ftz",
        "ex2.approx.ftz.f32 %0, %1;",
        "f32",
        ("f32",),
        lambda a: 0.0,
        values=(np.array([-127.5, -149, -1e9], np.float32),),
    )
)
for _name, _function in (
    ("finite", np.isfinite),
    ("infinite", np.isinf),
    ("notanumber", np.isnan),
    ("number", lambda a: ~np.isnan(a)),
    ("normal", lambda a: np.isfinite(a) & (np.abs(a) >= TINY)),
    ("subnormal", lambda a: (a != 0) & (np.abs(a) < TINY)),
):
    CASES.append(
        Case(
            f"testp_{_name}",
            (f"{{ .reg .pred p; testp.{_name}.f32 p, %1; selp.u32 %0, 1, 0, p; }}"),
            "u32",
            ("f32",),
            _function,
            each=False,
        )
    )


def fma64(a: float, b: float, c: float) -> float:
    if not all(map(math.isfinite, (a, b, c))) or not math.isfinite(a * b) or a * b + c == 0:
        return a * b + c
    return rounded(Fraction(a) * Fraction(b) + Fraction(c), 53, -1022, float(np.finfo(np.float64).max))


CASES += [
    Case("add_f64", "add.f64 %0, %1, %2;", "f64", ("f64", "f64"), np.add, each=False),
    Case("mul_f64", "mul.f64 %0, %1, %2;", "f64", ("f64", "f64"), np.multiply, each=False),
    Case("div_f64", "div.rn.f64 %0, %1, %2;", "f64", ("f64", "f64"), np.divide, each=False),
    Case("sqrt_f64", "sqrt.rn.f64 %0, %1;", "f64", ("f64",), np.sqrt, each=False),
    Case("fma_f64", "fma.rn.f64 %0, %1, %2, %3;", "f64", ("f64",) * 3, fma64, values=(edge_values("f64", 20),) * 3),
    Case("rcp_f64", "rcp.approx.ftz.f64 %0, %1;", "f64", ("f64",), lambda a: 1 / a, each=False, tolerance=2.0**-20),
    Case("max_f64", "max.f64 %0, %1, %2;", "f64", ("f64", "f64"), greatest),
]

FORMATS = {"f16": (11, -14, 65504.0), "bf16": (8, -126, float.fromhex("0x1.fep127"))}


def value_of(bits: int, kind: str) -> float:
    array = np.array([bits], np.uint16)
    return (
        float(array.view(np.float16)[0])
        if kind == "f16"
        else float((array.astype(np.uint32) << 16).view(np.float32)[0])
    )


def bits_of(value: float, kind: str) -> int:
    """The bits of a representable number; every NaN is 0x7fff."""
    if value != value:
        return 0x7FFF
    if kind == "f16":
        return int(np.array([value], np.float16).view(np.uint16)[0])
    return int(np.array([value], np.float32).view(np.uint32)[0] >> 16)


def on_halves(kind: str, function: object, native: object) -> object:
    """A function over bits: exact on finite numbers, rounded once."""

    def evaluate(*bits: int) -> int:
        values = [value_of(b, kind) for b in bits]
        with np.errstate(all="ignore"):
            plain = float(native(*(np.float64(v) for v in values)))
        if all(map(math.isfinite, values)):
            result = function(*(Fraction(v) for v in values))
            plain = rounded(result, *FORMATS[kind]) if result else plain
        return bits_of(plain, kind)

    return evaluate


def paired(function: object) -> object:
    def evaluate(*words: int) -> int:
        low, high = (function(*((w >> shift & 0xFFFF) for w in words)) for shift in (0, 16))
        return high << 16 | low

    return evaluate


for _kind in ("f16", "bf16"):
    _values = half_values(_kind)
    _words = (_values.astype(np.uint32) | np.roll(_values, 5).astype(np.uint32) << 16).astype(np.uint32)
    _fma = on_halves(_kind, lambda a, b, c: a * b + c, lambda a, b, c: a * b + c)
    _least, _most = (
        on_halves(_kind, f, f)
        for f in (lambda a, b: least(float(a), float(b)), lambda a, b: greatest(float(a), float(b)))
    )
    CASES += [
        Case(f"fma_{_kind}", f"fma.rn.{_kind} %0, %1, %2, %3;", "u16", ("u16",) * 3, _fma, values=(_values,) * 3),
        Case(
            f"fma_{_kind}x2",
            f"fma.rn.{_kind}x2 %0, %1, %2, %3;",
            "u32",
            ("u32",) * 3,
            paired(_fma),
            values=(_words,) * 3,
        ),
        Case(
            f"fma_relu_{_kind}",
            f"fma.rn.relu.{_kind} %0, %1, %2, %3;",
            "u16",
            ("u16",) * 3,
            lambda a, b, c, f=_fma, k=_kind: (
                lambda r: r if value_of(r, k) >= 0 or value_of(r, k) != value_of(r, k) else 0
            )(f(a, b, c)),
            values=(_values[6:],) * 3,
        ),
        Case(f"min_{_kind}", f"min.{_kind} %0, %1, %2;", "u16", ("u16",) * 2, _least, values=(_values,) * 2),
        Case(f"max_{_kind}x2", f"max.{_kind}x2 %0, %1, %2;", "u32", ("u32",) * 2, paired(_most), values=(_words,) * 2),
        Case(f"neg_{_kind}", f"neg.{_kind} %0, %1;", "u16", ("u16",), lambda a: a ^ 0x8000, values=(_values,)),
        Case(f"abs_{_kind}x2", f"abs.{_kind}x2 %0, %1;", "u32", ("u32",), lambda a: a & 0x7FFF7FFF, values=(_words,)),
    ]
_values = half_values("f16")
for _name, _exact in (("add", SUM), ("sub", lambda a, b: a - b), ("mul", PRODUCT)):
    CASES.append(
        Case(
            f"{_name}_f16",
            f"{_name}.rn.f16 %0, %1, %2;",
            "u16",
            ("u16",) * 2,
            on_halves("f16", _exact, _exact),
            values=(_values, _values),
        )
    )


def correctly_rounded(kind: str, function: object) -> object:
    def evaluate(bits: int) -> int:
        with np.errstate(all="ignore"):
            value = float(function(np.float64(value_of(bits, kind))))
        return bits_of(value if not math.isfinite(value) or value == 0 else rounded(value, *FORMATS[kind]), kind)

    return evaluate


SM90 = []
for _name, _function in (("ex2", np.exp2), ("tanh", np.tanh)):
    _words = (half_values("f16").astype(np.uint32) << 16 | half_values("f16")).astype(np.uint32)
    CASES.append(
        Case(
            f"{_name}_f16x2",
            f"{_name}.approx.f16x2 %0, %1;",
            "u32",
            ("u32",),
            paired(correctly_rounded("f16", _function)),
            values=(_words,),
        )
    )
    _ftz = "ftz." if _name == "ex2" else ""
    SM90.append(
        Case(
            f"{_name}_bf16",
            f"{_name}.approx.{_ftz}bf16 %0, %1;",
            "u16",
            ("u16",),
            correctly_rounded("bf16", _function),
            values=(half_values("bf16")[[0, 1, 2, 3, 4, 5, 6, 12, 13, 14, 15]],),
        )
    )
_values = half_values("bf16")
for _name, _exact in (("add", SUM), ("sub", lambda a, b: a - b), ("mul", PRODUCT)):
    SM90.append(
        Case(
            f"{_name}_bf16",
            f"{_name}.rn.bf16 %0, %1, %2;",
            "u16",
            ("u16",) * 2,
            on_halves("bf16", _exact, _exact),
            values=(_values, _values),
        )
    )


def halves(word: int) -> tuple[float, float]:
    low, high = np.array([word], np.uint64).view(np.float32).tolist()
    return low, high


def both_floats(function: object) -> object:
    def evaluate(*words: int) -> int:
        results = [function(*values) for values in zip(*map(halves, words), strict=True)]
        bits = np.array(results, np.float32)
        bits[np.isnan(bits)] = np.array([0x7FFFFFFF], np.uint32).view(np.float32)[0]
        return int(bits.view(np.uint64)[0])

    return evaluate


_floats = edge_values("f32", 20)
_twice = np.stack([_floats, np.roll(_floats, 7)], axis=1).copy().view(np.uint64)[:, 0]
SM100 = [
    Case("add_f32x2", "add.rn.f32x2 %0, %1, %2;", "u64", ("u64",) * 2, both_floats(_add), values=(_twice,) * 2),
    Case("mul_f32x2", "mul.rn.f32x2 %0, %1, %2;", "u64", ("u64",) * 2, both_floats(_multiply), values=(_twice,) * 2),
    Case(
        "fma_f32x2",
        "fma.rn.f32x2 %0, %1, %2, %3;",
        "u64",
        ("u64",) * 3,
        both_floats(exact(lambda a, b, c: a * b + c, lambda a, b, c: a * b + c)),
        values=(_twice,) * 3,
    ),
    Case(
        "max_three",
        "max.f32 %0, %1, %2, %3;",
        "f32",
        ("f32",) * 3,
        lambda a, b, c: greatest(greatest(a, b), c),
        values=(FEW,) * 3,
    ),
]


@needs_nvcc
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_floating_instruction(case):
    check(case, source_of(CASES))


@needs_nvcc
@pytest.mark.parametrize("case", SM90, ids=lambda case: case.name)
def test_floating_instruction_of_sm_90(case):
    check(case, source_of(SM90), arch="sm_90a")


@needs_nvcc
@pytest.mark.parametrize("case", SM100, ids=lambda case: case.name)
def test_floating_instruction_of_sm_100(case):
    check(case, source_of(SM100), arch="sm_100")


def test_rounding_helper_agrees_with_numpy():
    rng = np.random.default_rng(3)
    values = rng.standard_normal(500) * 2.0 ** rng.integers(-150, 130, 500)
    with np.errstate(over="ignore"):
        assert [to_f32(float(v)) for v in values] == values.astype(np.float32).tolist()
