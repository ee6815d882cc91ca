"""The proof from outside: PTX by a compiler that is known to be right on hardware must give right results here.

The kernels are compiled for sm_80 by Triton; what they should compute is done by NumPy in float64.
"""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, Report, parse, run, run_all_orders
from ptx_emulator.memory import Buffer
from ptx_emulator.toolchain import triton_kernels, triton_version

pytestmark = pytest.mark.skipif(not triton_version(), reason="needs triton (the extra [triton]) to compile the kernels")


def to_bf16(values: np.ndarray) -> np.ndarray:
    words = np.asarray(values, np.float32).view(np.uint32)
    return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def execute(
    name: str,
    grid: tuple[int, ...],
    params: list[object],
    memory: Memory,
    equal: list[Buffer] | None = None,
    orders: bool = True,
) -> Report:
    made = triton_kernels()[name]
    module = parse(str(made["ptx"]))
    (function,) = module.kernels.values()
    params = [*params, *[0] * (len(function.params) - len(params))]  # Triton's scratch pointers, unused here
    launch = Launch(function.name, grid, (32 * int(made["warps"]),), params, dynamic_shared=int(made["shared"]))
    if orders:
        return run_all_orders(module, launch, memory, equal=equal)
    return run(module, launch, memory)


def operands(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a kernel is given, and its value."""
    values = rng.standard_normal(shape).astype(np.float32)
    if kind == "bf16":
        return to_bf16(values), from_bf16(to_bf16(values))
    values = values.astype(np.float16 if kind == "fp16" else np.float32)
    return values, values.astype(np.float64)


@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32"])
def test_matmul(kind):
    """Sizes that fill no tile. In float32 the factors are cut to TensorFloat-32, 10 bits of fraction."""
    m, n, k = 70, 97, 45
    rng = np.random.default_rng(0)
    (a, x), (b, y) = operands(kind, (m, k), rng), operands(kind, (k, n), rng)
    memory = Memory()
    out = memory.empty(4 * m * n)
    execute(f"matmul_{kind}", (2, 2), [memory.upload(a), memory.upload(b), out, m, n, k], memory)
    error = np.abs(memory.read(out, np.float32, (m, n)) - x @ y)
    bound = np.abs(x) @ np.abs(y) * (2.0**-9 if kind == "fp32" else 2.0**-22)
    assert (error <= bound).all()


@pytest.mark.parametrize(("name", "size", "inner"), [("matmul_stages", 128, 160), ("matmul_transposed", 64, 208)])
def test_matmul_with_stages_of_cp_async(name, size, inner):
    rng = np.random.default_rng(1)
    (a, x), (b, y) = operands("bf16", (size, inner), rng), operands("bf16", (inner, size), rng)
    memory = Memory()
    out = memory.empty(4 * size * size)
    given = np.ascontiguousarray(b.T) if name == "matmul_transposed" else b
    execute(name, (1, 1), [memory.upload(a), memory.upload(given), out, size, size, inner], memory)
    assert (np.abs(memory.read(out, np.float32, (size, size)) - x @ y) <= np.abs(x) @ np.abs(y) * 2.0**-22).all()


def test_softmax():
    x = np.random.default_rng(2).standard_normal((5, 300)).astype(np.float32) * 4
    memory = Memory()
    out = memory.empty(x.nbytes)
    execute("softmax", (5,), [memory.upload(x), out, 300], memory)
    weights = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    assert np.allclose(
        memory.read(out, np.float32, x.shape), weights / weights.sum(axis=1, keepdims=True), rtol=1e-5, atol=0
    )


def test_layer_norm():
    rng = np.random.default_rng(3)
    bits, x = operands("bf16", (4, 784), rng)
    gain, bias = rng.standard_normal((2, 784)).astype(np.float32)
    memory = Memory()
    out, scale = memory.empty(bits.nbytes), memory.empty(16)
    execute(
        "layer_norm", (4,), [memory.upload(bits), memory.upload(gain), memory.upload(bias), out, scale, 784], memory
    )
    expected = 1 / np.sqrt(x.var(axis=1) + 1e-5)
    assert np.allclose(memory.read(scale, np.float32), expected, rtol=1e-6)
    normal = (x - x.mean(axis=1, keepdims=True)) * expected[:, None] * gain + bias
    assert np.allclose(from_bf16(memory.read(out, np.uint16, (4, 784))), normal, rtol=2.0**-8, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal):
    n, heads, dim, scale = 100, 2, 64, 0.125
    rng = np.random.default_rng(4)
    (qb, q), (kb, k), (vb, v) = (operands("bf16", (heads, n, dim), rng) for _ in range(3))
    memory = Memory()
    out, lse = memory.empty(qb.nbytes), memory.empty(4 * heads * n)
    params = [memory.upload(qb), memory.upload(kb), memory.upload(vb), out, lse, n, scale]
    execute("attention_causal" if causal else "attention", (2, heads), params, memory, orders=not causal)
    score = q @ k.transpose(0, 2, 1) * scale
    if causal:
        score = np.where(np.tri(n, dtype=bool), score, -np.inf)
    top = score.max(axis=2, keepdims=True)
    weight = np.exp(score - top)
    total = weight.sum(axis=2, keepdims=True)
    assert np.allclose(memory.read(lse, np.float32, (heads, n)), (top + np.log(total))[..., 0], rtol=1e-5, atol=1e-5)
    assert np.allclose(
        from_bf16(memory.read(out, np.uint16, (heads, n, dim))), weight @ v / total, rtol=2.0**-7, atol=4e-3
    )


def test_atomics():
    values = np.random.default_rng(5).integers(0, 1000, 700).astype(np.int32)
    memory = Memory()
    counts, total, best = (memory.upload(np.zeros(size, np.int32)) for size in (16, 1, 1))
    execute("histogram", (3,), [memory.upload(values), counts, total, best, 700], memory)
    assert np.array_equal(memory.read(counts, np.int32), np.bincount(values % 16, minlength=16))
    assert memory.read(total, np.float32)[0] == values.sum()
    assert memory.read(best, np.int32)[0] == values.max()


def test_scans():
    values = np.random.default_rng(6).integers(-500, 500, (2, 100)).astype(np.int32)
    memory = Memory()
    running, ordered, where = memory.empty(values.nbytes), memory.empty(values.nbytes), memory.empty(8)
    execute("scans", (2,), [memory.upload(values), running, ordered, where, 100], memory)
    assert np.array_equal(memory.read(running, np.int32, (2, 100)), np.cumsum(values, axis=1))
    assert np.array_equal(memory.read(where, np.int32), values.argmax(axis=1))
    padded = np.sort(np.pad(values, ((0, 0), (0, 28))), axis=1)[:, :100]
    assert np.array_equal(memory.read(ordered, np.int32, (2, 100)), padded)
