"""Barriers, shuffles, votes, reductions and atomics: compiled kernels against NumPy, in every order of warps."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, parse, run, run_all_orders
from ptx_emulator.cases import needs_nvcc
from ptx_emulator.errors import DeadlockError, DivergenceError, IllegalInstructionError, PtxError
from ptx_emulator.toolchain import compiled

SOURCE = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern "C" __global__ void reverse(int* data) {                      // two barriers, in a loop
  __shared__ int s[160];
  int t = threadIdx.x, base = blockIdx.x * 160;
  for (int round = 0; round < 3; round++) {
    s[t] = data[base + t];
    __syncthreads();
    data[base + t] = s[159 - t] + round;
    __syncthreads();
  }
}
extern "C" __global__ void named(int* out) {                         // producers arrive, consumers wait
  __shared__ int full[32];
  int t = threadIdx.x, lane = t % 32;
  for (int i = 0; i < 4; i++) {
    if (t < 32) {
      asm volatile("bar.sync 2, 96;" ::: "memory");                  // the slot is empty
      full[lane] = i * 100 + lane;
      asm volatile("bar.arrive 1, 96;" ::: "memory");
    } else {
      asm volatile("bar.arrive 2, 96;" ::: "memory");
      asm volatile("bar.sync 1, 96;" ::: "memory");
      out[i * 64 + t - 32] = full[31 - lane];
    }
  }
}
extern "C" __global__ void counts(int* out, const int* in) {
  int t = threadIdx.x;
  out[t] = __syncthreads_count(in[t] > 3);
  out[96 + t] = __syncthreads_or(in[t] == 5) + 2 * __syncthreads_and(in[t] >= 0);
}
extern "C" __global__ void shuffles(int* out, const int* in) {
  int t = threadIdx.x, v = in[t], n = blockDim.x;
  out[t] = __shfl_sync(~0u, v, (t * 7) % 64);
  out[n + t] = __shfl_up_sync(~0u, v, 3);
  out[2 * n + t] = __shfl_down_sync(~0u, v, 5, 16);
  out[3 * n + t] = __shfl_xor_sync(~0u, v, 9);
  out[4 * n + t] = __shfl_sync(~0u, v, t + 3, 8);
  if (t % 2) out[5 * n + t] = __shfl_down_sync(0xAAAAAAAAu, v, 2); else out[5 * n + t] = -1;
  out[6 * n + t] = __ballot_sync(~0u, v % 3 == 0);
  out[7 * n + t] = __any_sync(~0u, v == 17) + 2 * __all_sync(~0u, v < 90);
  out[8 * n + t] = __match_any_sync(~0u, v % 4);
  int same; out[9 * n + t] = __match_all_sync(~0u, t / 32 == 1 ? 5 : v, &same); out[9 * n + t] += same;
  out[10 * n + t] = __reduce_add_sync(~0u, (unsigned)v);
  out[11 * n + t] = __reduce_min_sync(~0u, v - 50);
  out[12 * n + t] = __reduce_xor_sync(~0u, (unsigned)v);
  out[13 * n + t] = t % 3 ? __activemask() : 0;
}
extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* l, float* f, double* d, int* old,
                                   __nv_bfloat162* b, __half2* h) {
  __shared__ int s;
  int t = threadIdx.x, g = blockIdx.x * blockDim.x + t;
  if (t == 0) s = 0;
  __syncthreads();
  atomicAdd(&s, t);
  atomicAdd(i, 1); atomicMin(i + 1, g - 7); atomicMax(i + 2, g * 3); atomicAnd(i + 3, ~(1 << g % 31));
    atomicOr(i + 4, 1 << g % 31); atomicXor(i + 5, g);
  atomicInc(u, 50); atomicDec(u + 1, 30); atomicMax(u + 2, 0x80000000u + g);
  atomicAdd(l, 1ull << 33); atomicMax(l + 1, (unsigned long long)g << 40);
  atomicAdd(f, 0.5f); atomicAdd(d, 0.25);
  atomicAdd(b, __floats2bfloat162_rn(1.f, 2.f)); atomicAdd(h, __floats2half2_rn(1.f, 0.5f));
  int seen = u[3], assumed;
  do { assumed = seen; seen = atomicCAS((int*)u + 3, assumed, assumed + 2); } while (seen != assumed);
  old[g] = atomicExch(i + 6 + g, g);
  __syncthreads();
  if (t == 0) atomicAdd(i + 500, s);
}
// Each block hands its part over with a fence and a ticket; the last one adds up.
extern "C" __global__ void last_block(const float* in, float* part, float* total, unsigned* ticket) {
  __shared__ bool last;
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = in[blockIdx.x * 64 + t];
  __syncthreads();
  for (int half = 32; half; half /= 2) { if (t < half) s[t] += s[t + half]; __syncthreads(); }
  if (t == 0) {
    part[blockIdx.x] = s[0];
    __threadfence();
    last = atomicAdd(ticket, 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (last && t == 0) { float sum = 0; for (int k = 0; k < gridDim.x; k++) sum += part[k]; *total = sum; }
}
"""


@needs_nvcc
def test_barrier():
    data = np.arange(320, dtype=np.int32) ** 2 % 1000
    memory = Memory()
    buffer = memory.upload(data)
    run_all_orders(compiled(SOURCE), Launch("reverse", (2,), (160,), [buffer]), memory)
    expected = data.reshape(2, 160)
    for step in range(3):
        expected = expected[:, ::-1] + step
    assert np.array_equal(memory.read(buffer, np.int32, (2, 160)), expected)


@needs_nvcc
def test_named_barriers_of_a_part_of_the_block():
    memory = Memory()
    out = memory.empty(4 * 64 * 4)
    run_all_orders(compiled(SOURCE), Launch("named", (1,), (96,), [out]), memory)
    expected = np.arange(4)[:, None] * 100 + np.tile(np.arange(31, -1, -1), 2)
    assert np.array_equal(memory.read(out, np.int32, (4, 64)), expected)


@needs_nvcc
def test_barrier_with_reduction():
    values = np.random.default_rng(0).integers(0, 8, 96).astype(np.int32)
    memory = Memory()
    out = memory.empty(192 * 4)
    run_all_orders(compiled(SOURCE), Launch("counts", (1,), (96,), [out, memory.upload(values)]), memory)
    result = memory.read(out, np.int32)
    assert (result[:96] == np.count_nonzero(values > 3)).all()
    assert (result[96:] == int((values == 5).any()) + 2).all()


@needs_nvcc
def test_warp_functions():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 100, 64).astype(np.int32)
    memory = Memory()
    out = memory.empty(14 * 64 * 4)
    run_all_orders(
        compiled(SOURCE, arch="sm_80"), Launch("shuffles", (1,), (64,), [out, memory.upload(values)]), memory
    )
    result = memory.read(out, np.int32, (14, 64)).astype(np.int64)
    t, lane, base = np.arange(64), np.arange(64) % 32, np.arange(64) // 32 * 32
    warp = values.reshape(2, 32).astype(np.int64)
    assert np.array_equal(result[0], values[base + t * 7 % 64 % 32])
    assert np.array_equal(result[1], np.where(lane >= 3, values[np.maximum(t - 3, 0)], values))
    assert np.array_equal(result[2], np.where(lane % 16 + 5 < 16, values[np.minimum(t + 5, 63)], values))
    assert np.array_equal(result[3], values[t ^ 9])
    assert np.array_equal(result[4], values[t // 8 * 8 + (t + 3) % 8])
    assert np.array_equal(
        result[5], np.where(t % 2, np.where(lane + 2 < 32, values[np.minimum(t + 2, 63)], values), -1)
    )
    ballots = [sum(1 << k for k in range(32) if row[k] % 3 == 0) for row in warp]
    assert np.array_equal(result[6] & 0xFFFFFFFF, np.repeat(ballots, 32))
    assert np.array_equal(result[7], np.repeat((warp == 17).any(1) + 2 * (warp < 90).all(1), 32))
    alike = [sum(1 << k for k in range(32) if row[k] % 4 == v % 4) for row in warp for v in row]
    assert np.array_equal(result[8] & 0xFFFFFFFF, alike)
    assert np.array_equal(result[9], np.repeat([0, 0], 32))  # the second warp: all equal, 0xffffffff + 1
    assert np.array_equal(result[10], np.repeat(warp.sum(1), 32))
    assert np.array_equal(result[11], np.repeat(warp.min(1) - 50, 32))
    assert np.array_equal(result[12], np.repeat(np.bitwise_xor.reduce(warp, axis=1), 32))
    active = [sum(1 << k for k in range(32) if (k + b) % 3) for b in (0, 32)]
    assert np.array_equal(result[13] & 0xFFFFFFFF, np.where(t % 3, np.repeat(active, 32), 0))


@needs_nvcc
@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_atomics(order):
    memory, count = Memory(), 80
    start = np.zeros(501, np.int32)
    start[3] = -1
    i, u, wide = (
        memory.upload(start),
        memory.upload(np.array([45, 3, 0, 1], np.uint32)),
        memory.upload(np.zeros(2, np.uint64)),
    )
    f, d, old = memory.upload(np.zeros(1, np.float32)), memory.upload(np.zeros(1)), memory.empty(4 * count)
    b, h = memory.upload(np.zeros(2, np.uint16)), memory.upload(np.zeros(2, np.uint16))
    launch = Launch("atomics", (2,), (40,), [i, u, wide, f, d, old, b, h])
    run(compiled(SOURCE), launch, memory, order=order, races=False)  # u[3] is read plainly before the loop
    g, result = np.arange(count), memory.read(i, np.int32)
    assert result[:6].tolist() == [count, -7, 237, -(2**31), 2**31 - 1, np.bitwise_xor.reduce(g)]
    assert np.array_equal(result[6 : 6 + count], g)
    assert result[500] == 2 * 780
    up, down = 45, 3
    for _ in range(count):
        up, down = (0 if up >= 50 else up + 1), (30 if down == 0 or down > 30 else down - 1)
    assert memory.read(u, np.uint32).tolist() == [up, down, 0x80000000 + 79, 1 + 2 * count]
    assert memory.read(wide, np.uint64).tolist() == [count << 33, 79 << 40]
    assert memory.read(f, np.float32)[0] == 40
    assert memory.read(d, np.float64)[0] == 20
    assert (memory.read(b, np.uint16).astype(np.uint32) << 16).view(np.float32).tolist() == [80, 160]
    assert memory.read(h, np.float16).tolist() == [80, 40]
    assert not memory.read(old, np.int32).any()


@needs_nvcc
def test_blocks_that_hand_over_through_a_fence_are_no_race():
    values = np.random.default_rng(4).integers(0, 50, 64 * 6).astype(np.float32)
    memory = Memory()
    total = memory.empty(4)
    launch = Launch(
        "last_block",
        (6,),
        (64,),
        [memory.upload(values), memory.empty(24), total, memory.upload(np.zeros(1, np.int32))],
    )
    run_all_orders(compiled(SOURCE), launch, memory)
    assert memory.read(total, np.float32)[0] == values.sum()


HEAD = """.version 8.7
.target sm_90
.address_size 64
.visible .entry k(.param .u64 p) { .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %p<9>;
"""


def execute(body: str, threads: int = 64, words: int = 64, **choices: object) -> np.ndarray:
    memory = Memory()
    out = memory.upload(np.zeros(words, np.uint32))
    start = (
        "ld.param.u64 %d1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2; "
        "and.b32 %r2, %r1, 31;\n"
    )
    run(parse(f"{HEAD}{start}{body}\nret; }}"), Launch("k", (1,), (threads,), [out]), memory, **choices)
    return memory.read(out, np.uint32)


def test_elect():
    result = execute(
        "elect.sync %r3|%p1, 0xffffffff; mov.u32 %r4, 7; @%p1 mov.u32 %r4, 9; add.u32 %r4, %r4, %r3; "
        "st.global.u32 [%d1], %r4;"
    )
    assert result.tolist() == [9 if t % 32 == 0 else 7 for t in range(64)]


def test_barriers_under_their_longer_names():
    body = """.shared .align 4 .b8 s[256]; .reg .b32 a; mov.u32 a, s; mad.lo.u32 %r3, %r1, 4, a;
 st.shared.u32 [%r3], %r1;
 barrier.cta.sync.aligned 0; xor.b32 %r4, %r3, 252; ld.shared.u32 %r5, [%r4]; setp.lt.u32 %p1, %r5, 5;
 barrier.red.popc.aligned.u32 %r6, 1, %p1; barrier.sync 2, 64; add.u32 %r5, %r5, %r6; st.global.u32 [%d1], %r5;"""
    assert execute(body).tolist() == [63 - t + 5 for t in range(64)]


def test_redux_of_floats():
    body = (
        "cvt.rn.f32.u32 %r3, %r1; setp.eq.u32 %p1, %r2, 5; selp.b32 %r3, 0x7fffffff, %r3, %p1; "
        "redux.sync.max.f32 %r4, %r3, 0xffffffff;"
    )
    result = execute(
        f"{body} redux.sync.min.NaN.f32 %r5, %r3, 0xffffffff; setp.nan.f32 %p2, %r5, %r5; "
        "@%p2 add.u32 %r4, %r4, 1; st.global.u32 [%d1], %r4;"
    )
    assert (result.reshape(2, 32) == np.array([[31.0], [63.0]], np.float32).view(np.uint32) + 1).all()


def test_vote_uni_and_hints():
    body = (
        "setp.lt.u32 %p1, %r1, 32; vote.sync.uni.pred %p2, %p1, 0xffffffff; selp.u32 %r3, 1, 0, %p2; "
        "setp.lt.u32 %p1, %r1, 40;"
    )
    body += (
        " vote.sync.uni.pred %p2, %p1, 0xffffffff; @%p2 add.u32 %r3, %r3, 2; prefetch.global.L2 [%d1]; "
        "nanosleep.u32 20;"
    )
    body += " createpolicy.fractional.L2::evict_first.b64 %d3, 1.0; st.global.L2::cache_hint.u32 [%d1], %r3, %d3;"
    assert execute(body).tolist() == [3] * 32 + [1] * 32


def test_address_spaces_of_generic_pointers():
    body = """.shared .b32 s; .local .b32 l; .reg .b64 a, b; mov.u64 a, s; cvta.shared.u64 a, a; mov.u64 b, l;
      cvta.local.u64 b, b;
 isspacep.shared %p1, a; selp.u32 %r3, 1, 0, %p1; isspacep.local %p1, b; @%p1 add.u32 %r3, %r3, 2;
   isspacep.global %p1, %d1; @%p1 add.u32 %r3, %r3, 4;
 isspacep.global %p1, a; @%p1 add.u32 %r3, %r3, 8; st.u32 [b], %r3; cvta.to.local.u64 b, b; ld.local.u32 %r4, [b];
   st.global.u32 [%d1], %r4;"""
    assert execute(body, threads=32, words=32).tolist() == [7] * 32


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("setp.lt.u32 %p1, %r1, 7; @%p1 bra A; bar.sync 0; A:", DivergenceError, "25 of the warp's 32"),
        ("setp.lt.u32 %p1, %r1, 7; @%p1 bar.sync 0;", DivergenceError, "the guard keeps the rest away"),
        ("setp.lt.u32 %p1, %r1, 7; @%p1 bra A; bar.warp.sync 0xffffffff; A:", DivergenceError, "stand elsewhere"),
        ("setp.lt.u32 %p1, %r1, 7; @%p1 bar.warp.sync 3;", DivergenceError, "not in it"),
        (
            ("setp.lt.u32 %p1, %r2, 7; @%p1 shfl.sync.idx.b32 %r3, %r1, 0, 31, 0xffffffff;"),
            DivergenceError,
            "stand elsewhere",
        ),
        (
            ("setp.gt.u32 %p1, %r2, 7; @%p1 shfl.sync.idx.b32 %r3, %r1, 0, 31, 0xffffff00;"),
            IllegalInstructionError,
            "lane 0",
        ),
        ("setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1, 64; A: bar.sync 0;", DeadlockError, "barrier 1"),
        (
            ("setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1, 64; bra B; A: bar.sync 2, 64; B:"),
            DeadlockError,
            "barrier 2",
        ),
        ("bar.arrive 1, 96; bar.arrive 1, 96;", IllegalInstructionError, "second time"),
        ("bar.sync 16;", IllegalInstructionError, "0 to 15"),
        ("bar.sync %r1;", IllegalInstructionError, "differs"),
        ("bar.sync 0, 33;", IllegalInstructionError, "multiple of 32"),
    ],
)
def test_misuse_is_reported(body, error, words):
    with pytest.raises(error, match=words):
        execute(body)


def test_exited_threads_are_not_waited_for():
    body = (
        "setp.gt.u32 %p1, %r1, 40; @%p1 exit; bar.sync 0; shfl.sync.idx.b32 %r3, %r1, 2, 31, "
        "0xffffffff; st.global.u32 [%d1], %r3;"
    )
    assert execute(body).tolist() == [2] * 32 + [34] * 9 + [0] * 23


def test_orders_that_differ_are_reported():
    text = (
        f"{HEAD}ld.param.u64 %d1, [p]; mov.u32 %r1, %tid.x; atom.global.add.u32 %r2, [%d1], 1; "
        "mul.wide.u32 %d2, %r1, 4; add.u64 %d2, %d1, %d2; st.global.u32 [%d2+4], %r2; ret; }"
    )
    memory = Memory()
    out = memory.upload(np.zeros(65, np.uint32), "tickets")
    with pytest.raises(AssertionError, match=r"tickets differs at byte 4 between orders forward and reverse"):
        run_all_orders(parse(text), Launch("k", (1,), (64,), [out]), memory)


def test_no_kernel():
    with pytest.raises(PtxError):
        run(parse(".version 8.7\n"), Launch("k", (1,), (1,)), Memory())
