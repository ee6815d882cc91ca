"""mma.sync: fragments by the ISA's tables, arithmetic bit for bit by mmasim."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ptx_emulator import Launch, Memory, parse, run
from ptx_emulator.cases import needs_nvcc
from ptx_emulator.errors import DivergenceError
from ptx_emulator.toolchain import compiled

mmasim = pytest.importorskip("mmasim.nv_ptx", reason="needs mmasim, the reference for tensor core arithmetic")

# Shape, A/B type, accumulator -> number of 32-bit registers of A, B, C, as the ISA lists them.
FORMS = {
    ("m16n8k16", "bf16", "f32"): (4, 2, 4),
    ("m16n8k8", "bf16", "f32"): (2, 1, 4),
    ("m16n8k16", "f16", "f32"): (4, 2, 4),
    ("m16n8k8", "f16", "f32"): (2, 1, 4),
    ("m16n8k16", "f16", "f16"): (4, 2, 2),
    ("m16n8k8", "f16", "f16"): (2, 1, 2),
    ("m16n8k8", "tf32", "f32"): (4, 2, 4),
    ("m16n8k4", "tf32", "f32"): (2, 1, 4),
}


def name_of(form: tuple[str, str, str]) -> str:
    shape, kind, accumulator = form
    return f"{shape}_{kind}_{accumulator}"


def kernel(form: tuple[str, str, str]) -> str:
    shape, kind, accumulator = form
    a, b, c = FORMS[form]
    places = [f"%{n}" for n in range(2 * c + a + b)]
    d_list, a_list, b_list, c_list = (
        ", ".join(places[s]) for s in (slice(0, c), slice(c, c + a), slice(c + a, c + a + b), slice(c + a + b, None))
    )
    outputs = ", ".join(f'"=r"(d[{n}])' for n in range(c))
    inputs = ", ".join(
        [f'"r"(A[{n} * 32 + t])' for n in range(a)]
        + [f'"r"(B[{n} * 32 + t])' for n in range(b)]
        + [f'"r"(C[{n} * 32 + t])' for n in range(c)]
    )
    types = f"{accumulator}.{kind}.{kind}.{accumulator}"
    return f"""extern "C" __global__ void mma_{name_of(form)}(
    unsigned* D, const unsigned* A, const unsigned* B, const unsigned* C) {{
  int t = threadIdx.x % 32, w = threadIdx.x / 32; A += {a} * 32 * w; B += {b} * 32 * w; C += {c} * 32 * w;
    D += {c} * 32 * w;
  unsigned d[{c}];
  asm volatile("mma.sync.aligned.{shape}.row.col.{types} {{{d_list}}}, {{{a_list}}}, {{{b_list}}}, {{{c_list}}};"
    : {outputs} : {inputs});
  for (int n = 0; n < {c}; n++) D[n * 32 + t] = d[n];
}}
"""


SOURCE = "".join(kernel(form) for form in FORMS)
TORCH = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "tf32": torch.float32}


def bits(tensor: torch.Tensor) -> np.ndarray:
    """The bit patterns of a tensor's elements, as uint32 or uint16."""
    return (
        tensor.contiguous()
        .view(torch.int32 if tensor.element_size() == 4 else torch.int16)
        .numpy()
        .view(f"u{tensor.element_size()}")
    )


def a_place(shape: str, kind: str, lane: int, register: int, half: int) -> tuple[int, int]:
    """Row and column of A's element, from the ISA's table of each shape."""
    g, t = lane // 4, lane % 4
    if kind == "tf32":
        return (g if register in (0, 2) else g + 8), (t if register < 2 else t + 4)
    row = g if register in (0, 2) else g + 8
    return row, t * 2 + half + (8 if register >= 2 else 0)


def b_place(kind: str, lane: int, register: int, half: int) -> tuple[int, int]:
    g, t = lane // 4, lane % 4
    return (t + 4 * register if kind == "tf32" else t * 2 + half + 8 * register), g


def c_place(accumulator: str, lane: int, register: int, half: int) -> tuple[int, int]:
    g, t = lane // 4, lane % 4
    if accumulator == "f16":
        return g + 8 * register, 2 * t + half
    return (g if register < 2 else g + 8), 2 * t + register % 2


def registers(matrix: np.ndarray, count: int, place: object) -> np.ndarray:
    """(registers, 32) words filled by a table."""
    words = np.zeros((count, 32), np.uint32)
    halves = 2 if matrix.dtype.itemsize == 2 else 1
    for register, lane, half in itertools.product(range(count), range(32), range(halves)):
        words[register, lane] |= np.uint32(int(matrix[place(lane, register, half)]) << 16 * half)
    return words


def spread(rng: np.random.Generator, shape: tuple[int, int], kind: str, wide: bool) -> torch.Tensor:
    scale = 2.0 ** rng.integers(-9, 9, shape) if wide else 1.0
    return torch.tensor(rng.standard_normal(shape) * scale).to(TORCH[kind])


@needs_nvcc
@pytest.mark.parametrize("arithmetic", ["ampere", "hopper", "exact"])
@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_mma_agrees_with_mmasim(form, arithmetic):
    """Bit for bit in the arithmetic of a generation; the exact sum differs from it by truncation only."""
    shape, kind, accumulator = form
    a_count, b_count, c_count = FORMS[form]
    inner, warps = int(shape.split("k")[1]), 6
    rng = np.random.default_rng(inner)
    matrices = [
        (
            spread(rng, (16, inner), kind, w > 1),
            spread(rng, (inner, 8), kind, w > 1),
            spread(rng, (16, 8), accumulator, w > 2),
        )
        for w in range(warps)
    ]
    matrices[0] = tuple(torch.round(m) for m in matrices[0])  # small integers: every arithmetic is exact
    matrices[-1][0][3, 1], matrices[-1][1][2, 5], matrices[-1][2][7, 2] = float("inf"), float("nan"), float("-inf")
    packed = [
        np.stack([registers(bits(m[n]), count, place) for m in matrices])
        for n, (count, place) in enumerate(
            (
                (a_count, lambda lane, r, h: a_place(shape, kind, lane, r, h)),
                (b_count, lambda lane, r, h: b_place(kind, lane, r, h)),
                (c_count, lambda lane, r, h: c_place(accumulator, lane, r, h)),
            )
        )
    ]
    memory = Memory()
    out = memory.empty(4 * warps * c_count * 32)
    launch = Launch(f"mma_{name_of(form)}", (1,), (32 * warps,), [out, *(memory.upload(words) for words in packed)])
    run(compiled(SOURCE), launch, memory, mma=arithmetic)
    result = memory.read(out, np.uint32, (warps, c_count, 32))
    reference = mmasim.MMA(
        "Hopper" if arithmetic == "hopper" else "Ampere", f"{shape}.{accumulator}.{kind}.{kind}.{accumulator}"
    )
    for warp, (a, b, c) in enumerate(matrices):
        expected = reference(a, b, c)
        words = registers(bits(expected), c_count, lambda lane, r, h: c_place(accumulator, lane, r, h))
        if arithmetic != "exact" or warp == 0:
            assert np.array_equal(result[warp], words), warp
            continue
        kinds = np.float16 if accumulator == "f16" else np.float32
        actual, near = result[warp].view(kinds).astype(np.float64), words.view(kinds).astype(np.float64)
        scale = float((a.double().abs() @ b.double().abs() + c.double().abs()).nan_to_num(0, 0, 0).max())
        assert np.array_equal(np.isfinite(actual), np.isfinite(near))
        finite = np.isfinite(near)
        assert np.abs(actual[finite] - near[finite]).max() <= scale * (2.0**-10 if accumulator == "f16" else 2.0**-21)


def test_mma_needs_the_whole_warp():
    registers_ = "{%r1, %r1, %r1, %r1}"
    text = f""".version 8.7
.target sm_80
.address_size 64
.visible .entry k() {{ .reg .b32 %r<9>; .reg .pred %p<2>; mov.u32 %r1, 0; mov.u32 %r2, %tid.x; setp.lt.u32 %p1, %r2, 31;
 @%p1 mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {registers_}, {registers_}, {{%r1, %r1}}, {registers_};
   ret; }}"""
    with pytest.raises(DivergenceError, match="31 lanes"):
        run(parse(text), Launch("k", (1,), (32,)), Memory())
