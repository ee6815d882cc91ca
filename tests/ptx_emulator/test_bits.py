"""Logic, shifts, bit fields and moves against their definitions on Python's integers."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator.cases import Case, check, needs_nvcc, source_of

M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def prmt(a: int, b: int, selector: int) -> int:
    source = (b << 32 | a).to_bytes(8, "little")
    out = []
    for n in range(4):
        nibble = selector >> 4 * n & 15
        byte = source[nibble & 7]
        out.append((0xFF if byte & 0x80 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(out), "little")


def picks(mode: str) -> object:
    def function(a: int, b: int, selector: int) -> int:
        n = selector & 3
        chosen = {
            "f4e": [n, n + 1, n + 2, n + 3],
            "b4e": [n, (n - 1) % 8, (n - 2) % 8, (n - 3) % 8],
            "rc8": [n] * 4,
            "ecl": [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]][n],
            "ecr": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]][n],
            "rc16": [[0, 1, 0, 1], [2, 3, 2, 3]][n & 1],
        }[mode]
        source = (b << 32 | a).to_bytes(8, "little")
        return int.from_bytes(bytes(source[i] for i in chosen), "little")

    return function


def lop3(table: int) -> object:
    def function(a: int, b: int, c: int) -> int:
        rows = [((a >> n & 1) << 2 | (b >> n & 1) << 1 | (c >> n & 1)) for n in range(32)]
        return sum((table >> row & 1) << n for n, row in enumerate(rows))

    return function


def bfe(bits: int, signed: bool) -> object:
    def function(a: int, start: int, length: int) -> int:
        """The ISA's own loop."""
        a &= (1 << bits) - 1
        pos, count = start & 0xFF, length & 0xFF
        sign = 0
        if signed and count:
            sign = a >> min(pos + count - 1, bits - 1) & 1
        out = 0
        for i in range(bits):
            bit = a >> pos + i & 1 if i < count and pos + i < bits else sign
            out |= bit << i
        return out

    return function


def bfi(bits: int) -> object:
    def function(a: int, b: int, start: int, length: int) -> int:
        pos, count = start & 0xFF, length & 0xFF
        for i in range(count):
            if pos + i < bits:
                b = b & ~(1 << pos + i) | (a >> i & 1) << pos + i
        return b

    return function


def bfind(bits: int, signed: bool, distance: bool) -> object:
    def function(a: int) -> int:
        top = (a if a >= 0 else ~a).bit_length() - 1 if signed else a.bit_length() - 1
        return -1 if top < 0 else bits - 1 - top if distance else top

    return function


SHIFTS = np.array([0, 1, 5, 7, 31, 32, 33, 63, 64, 65, 255, 256, 0x80000001], np.uint32)
SMALL = np.array([0, 1, 2, 7, 8, 16, 31, 32, 33, 63, 64, 100, 255, 256, 300], np.uint32)
WORDS = np.array([0, 1, 0x80000000, 0x7FFFFFFF, M32, 0x12345678, 0x9ABCDEF0, 0x00FF00FF, 0x80], np.uint32)
LONGS = np.array([0, 1, 1 << 63, M64, 0x123456789ABCDEF0, 0xFF00FF00FF00FF00, 1 << 31, 1 << 32, M32], np.uint64)

CASES = []
for _bits, _kind, _values in ((16, "u16", None), (32, "u32", WORDS), (64, "u64", LONGS)):
    _mask = (1 << _bits) - 1
    for _name, _function in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)):
        CASES.append(Case(f"{_name}_b{_bits}", f"{_name}.b{_bits} %0, %1, %2;", _kind, (_kind, _kind), _function))
    _shifted = None if _values is None else (_values, SHIFTS)
    _signed_kind = f"s{_bits}"
    _signed = None if _values is None else (_values.view(f"i{_bits // 8}"), SHIFTS)
    CASES += [
        Case(f"not_b{_bits}", f"not.b{_bits} %0, %1;", _kind, (_kind,), lambda a: ~a),
        Case(f"cnot_b{_bits}", f"cnot.b{_bits} %0, %1;", _kind, (_kind,), lambda a: int(a == 0)),
        Case(
            f"shl_b{_bits}",
            f"shl.b{_bits} %0, %1, %2;",
            _kind,
            (_kind, "u32"),
            lambda a, n, bits=_bits: a << n if n < bits else 0,
            values=_shifted,
        ),
        Case(
            f"shr_u{_bits}",
            f"shr.u{_bits} %0, %1, %2;",
            _kind,
            (_kind, "u32"),
            lambda a, n, bits=_bits: a >> n if n < bits else 0,
            values=_shifted,
        ),
        Case(
            f"shr_s{_bits}",
            f"shr.s{_bits} %0, %1, %2;",
            _signed_kind,
            (_signed_kind, "u32"),
            lambda a, n, bits=_bits: a >> min(n, bits),
            values=_signed,
        ),
    ]
for _bits, _kind, _values in ((32, "u32", WORDS), (64, "u64", LONGS)):
    _signed_values = _values.view(f"i{_bits // 8}")
    CASES += [
        Case(f"popc_b{_bits}", f"popc.b{_bits} %0, %1;", "u32", (_kind,), lambda a: bin(a).count("1")),
        Case(f"clz_b{_bits}", f"clz.b{_bits} %0, %1;", "u32", (_kind,), lambda a, bits=_bits: bits - a.bit_length()),
        Case(
            f"brev_b{_bits}",
            f"brev.b{_bits} %0, %1;",
            _kind,
            (_kind,),
            lambda a, bits=_bits: int(f"{a:0{bits}b}"[::-1], 2),
        ),
        Case(f"bfind_u{_bits}", f"bfind.u{_bits} %0, %1;", "u32", (_kind,), bfind(_bits, False, False)),
        Case(f"bfind_s{_bits}", f"bfind.s{_bits} %0, %1;", "u32", (f"s{_bits}",), bfind(_bits, True, False)),
        Case(f"bfind_amt_u{_bits}", f"bfind.shiftamt.u{_bits} %0, %1;", "u32", (_kind,), bfind(_bits, False, True)),
        Case(
            f"bfe_u{_bits}",
            f"bfe.u{_bits} %0, %1, %2, %3;",
            _kind,
            (_kind, "u32", "u32"),
            bfe(_bits, False),
            values=(_values, SMALL, SMALL),
        ),
        Case(
            f"bfe_s{_bits}",
            f"bfe.s{_bits} %0, %1, %2, %3;",
            f"s{_bits}",
            (f"s{_bits}", "u32", "u32"),
            bfe(_bits, True),
            values=(_signed_values, SMALL, SMALL),
        ),
        Case(
            f"bfi_b{_bits}",
            f"bfi.b{_bits} %0, %1, %2, %3, %4;",
            _kind,
            (_kind, _kind, "u32", "u32"),
            bfi(_bits),
            values=(_values, _values, SMALL, SMALL),
        ),
    ]
for _table in (0x00, 0x96, 0xE8, 0xF8, 0x1A, 0xCA, 0xFF):
    CASES.append(Case(f"lop3_{_table:02x}", f"lop3.b32 %0, %1, %2, %3, {_table};", "u32", ("u32",) * 3, lop3(_table)))
SELECTORS = np.array([0x3210, 0x7654, 0x5410, 0x7632, 0x0123, 0xBA98, 0xFEDC, 0x4444, 1, 2, 3], np.uint32)
CASES.append(Case("prmt", "prmt.b32 %0, %1, %2, %3;", "u32", ("u32",) * 3, prmt, values=(WORDS, WORDS, SELECTORS)))
for _mode in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16"):
    CASES.append(
        Case(
            f"prmt_{_mode}",
            f"prmt.b32.{_mode} %0, %1, %2, %3;",
            "u32",
            ("u32",) * 3,
            picks(_mode),
            values=(WORDS, WORDS, SELECTORS),
        )
    )
for _mode, _amount in (("wrap", lambda n: n & 31), ("clamp", lambda n: min(n, 32))):
    CASES += [
        Case(
            f"shf_l_{_mode}",
            f"shf.l.{_mode}.b32 %0, %1, %2, %3;",
            "u32",
            ("u32",) * 3,
            lambda lo, hi, n, f=_amount: (hi << 32 | lo) << f(n) >> 32,
            values=(WORDS, WORDS, SHIFTS),
        ),
        Case(
            f"shf_r_{_mode}",
            f"shf.r.{_mode}.b32 %0, %1, %2, %3;",
            "u32",
            ("u32",) * 3,
            lambda lo, hi, n, f=_amount: (hi << 32 | lo) >> f(n),
            values=(WORDS, WORDS, SHIFTS),
        ),
    ]
CASES += [
    Case(
        "mov_pack",
        "{ .reg .b16 a, b; mov.b32 {a, b}, %1; mov.b32 %0, {b, a}; }",
        "u32",
        ("u32",),
        lambda a: (a >> 16 | a << 16) & M32,
    ),
    Case(
        "mov_unpack",
        "{ .reg .b32 a, b; mov.b64 {a, b}, %1; mov.b64 %0, {b, a}; }",
        "u64",
        ("u64",),
        lambda a: (a >> 32 | a << 32) & M64,
    ),
    Case("mov_sink", "{ .reg .b32 a; mov.b64 {_, a}, %1; mov.u32 %0, a; }", "u32", ("u64",), lambda a: a >> 32),
    Case(
        "bmsk",
        "bmsk.clamp.b32 %0, %1, %2;",
        "u32",
        ("u32", "u32"),
        lambda a, b: ((1 << min(b, 32)) - 1) << a if a < 32 else 0,
        values=(SMALL, SMALL),
    ),
    Case(
        "bmsk_wrap",
        "bmsk.wrap.b32 %0, %1, %2;",
        "u32",
        ("u32", "u32"),
        lambda a, b: ((1 << b % 32) - 1) << a % 32,
        values=(SMALL, SMALL),
    ),
]


@needs_nvcc
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bit_instruction(case):
    check(case, source_of(CASES))
