"""Triton kernels for the proof, and their ahead-of-time compilation: ``python triton_kernels.py OUT.json``.

A process of its own, since Triton decides at import whether it interprets kernels, which other tests ask it to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TRANSPOSED: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        depth = k + inner
        x = tl.load(a + rows[:, None] * K + depth[None, :], mask=(rows[:, None] < M) & (depth[None, :] < K), other=0.0)
        at = columns[None, :] * K + depth[:, None] if TRANSPOSED else depth[:, None] * N + columns[None, :]
        y = tl.load(b + at, mask=(depth[:, None] < K) & (columns[None, :] < N), other=0.0)
        total = tl.dot(x, y, total)
    tl.store(c + rows[:, None] * N + columns[None, :], total, mask=(rows[:, None] < M) & (columns[None, :] < N))


@triton.jit
def softmax(x, y, n, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=-float("inf"))
    value = tl.exp(value - tl.max(value, 0))
    tl.store(y + row * n + at, value / tl.sum(value, 0), mask=at < n)


@triton.jit
def layer_norm(x, gain, bias, y, statistics, n, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0) / n
    centred = tl.where(at < n, value - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / n + 1e-5)
    g, b = tl.load(gain + at, mask=at < n, other=0.0), tl.load(bias + at, mask=at < n, other=0.0)
    tl.store(y + row * n + at, (centred * scale * g + b).to(tl.bfloat16), mask=at < n)
    tl.store(statistics + row, scale)


@triton.jit
def attention(q, k, v, out, lse, n, scale, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, CAUSAL: tl.constexpr):
    start, head = tl.program_id(0) * BM, tl.program_id(1)
    q += head * n * D
    k += head * n * D
    v += head * n * D
    rows, dims = start + tl.arange(0, BM), tl.arange(0, D)
    query = tl.load(q + rows[:, None] * D + dims[None, :], mask=rows[:, None] < n, other=0.0)
    top = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    result = tl.zeros((BM, D), tl.float32)
    end = tl.minimum(n, start + BM) if CAUSAL else n
    for first in range(0, end, BN):
        keys = first + tl.arange(0, BN)
        key = tl.load(k + keys[None, :] * D + dims[:, None], mask=keys[None, :] < n, other=0.0)
        score = tl.dot(query, key) * (scale * 1.4426950408889634)
        seen = keys[None, :] < n
        if CAUSAL:
            seen = seen & (keys[None, :] <= rows[:, None])
        score = tl.where(seen, score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        weight = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weight, 1)
        value = tl.load(v + keys[:, None] * D + dims[None, :], mask=keys[:, None] < n, other=0.0)
        result = result * shrink[:, None] + tl.dot(weight.to(value.dtype), value)
        top = higher
    tl.store(
        out + head * n * D + rows[:, None] * D + dims[None, :],
        (result / total[:, None]).to(tl.bfloat16),
        mask=rows[:, None] < n,
    )
    tl.store(lse + head * n + rows, (top + tl.log2(total)) * 0.6931471805599453, mask=rows < n)


@triton.jit
def histogram(x, counts, sums, best, n, BINS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0)
    tl.atomic_add(counts + value % BINS, 1, mask=at < n)
    tl.atomic_add(sums, tl.sum(value, 0).to(tl.float32))
    tl.atomic_max(best, tl.max(value, 0))


@triton.jit
def scans(x, running, largest, where, n, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    value = tl.load(x + row * n + at, mask=at < n, other=-(1 << 30))
    tl.store(where + row, tl.argmax(value, 0))
    value = tl.where(at < n, value, 0)
    tl.store(running + row * n + at, tl.cumsum(value, 0), mask=at < n)
    tl.store(largest + row * n + at, tl.sort(value), mask=at < n)


def _compile(function, signature: str, constants: dict[str, object], arch: int, **options: int) -> dict[str, object]:
    """PTX and launch facts. The signature names every parameter's type; a "/16" says its value is a multiple of 16."""
    names = function.arg_names
    kinds = dict(zip((name for name in names if name not in constants), signature.split(), strict=True))
    multiples = {
        (names.index(name),): [["tt.divisibility", 16]] for name, kind in kinds.items() if kind.endswith("/16")
    }
    types = {name: kinds[name].removesuffix("/16") if name in kinds else "constexpr" for name in names}
    source = ASTSource(fn=function, signature=types, constexprs=constants, attrs=multiples)
    kernel = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return {"ptx": kernel.asm["ptx"], "shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps}


def compile_all(arch: int = 80) -> dict[str, dict[str, object]]:
    made = {}
    tiles = {"BM": 64, "BN": 64, "BK": 32, "TRANSPOSED": False}
    for kind in ("bf16", "fp16", "fp32"):
        made[f"matmul_{kind}"] = _compile(
            matmul, f"*{kind} *{kind} *fp32 i32 i32 i32", tiles, arch, num_warps=4, num_stages=2
        )
    pointers = "*bf16/16 *bf16/16 *fp32/16 i32 i32/16 i32/16"
    large = {"BM": 128, "BN": 128, "BK": 64, "TRANSPOSED": False}
    made["matmul_stages"] = _compile(matmul, pointers, large, arch, num_warps=8, num_stages=3)
    made["matmul_transposed"] = _compile(
        matmul, pointers, tiles | {"TRANSPOSED": True, "BK": 64}, arch, num_warps=4, num_stages=4
    )
    made["softmax"] = _compile(softmax, "*fp32 *fp32 i32", {"BLOCK": 512}, arch, num_warps=4)
    made["layer_norm"] = _compile(
        layer_norm, "*bf16/16 *fp32/16 *fp32/16 *bf16/16 *fp32 i32/16", {"BLOCK": 1024}, arch, num_warps=4
    )
    for name, causal in (("attention", False), ("attention_causal", True)):
        constants = {"BM": 64, "BN": 32, "D": 64, "CAUSAL": causal}
        signature = "*bf16/16 *bf16/16 *bf16/16 *bf16/16 *fp32/16 i32 fp32"
        made[name] = _compile(attention, signature, constants, arch, num_warps=4, num_stages=3)
    made["histogram"] = _compile(histogram, "*i32 *i32 *fp32 *i32 i32", {"BINS": 16, "BLOCK": 256}, arch, num_warps=4)
    made["scans"] = _compile(scans, "*i32 *i32 *i32 *i32 i32", {"BLOCK": 128}, arch, num_warps=4)
    return made


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(compile_all()), encoding="utf-8")
