"""cp.async: sizes, zero fill, groups, and that nothing is there before it was waited for."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, parse, run, run_all_orders
from ptx_emulator.cases import needs_nvcc
from ptx_emulator.errors import (
    IllegalInstructionError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    UninitialisedError,
    UnwaitedCopyError,
)
from ptx_emulator.toolchain import compiled

SOURCE = """
#include <cuda_pipeline.h>
extern "C" __global__ void stages(float* out, const float* in, int tiles) {     // a ring of three stages
  __shared__ float ring[3][128];
  int t = threadIdx.x;
  for (int k = 0; k < 2; k++) {
    if (k < tiles) __pipeline_memcpy_async(&ring[k][t], in + k * 128 + t, 4);
    __pipeline_commit();
  }
  for (int k = 0; k < tiles; k++) {
    if (k + 2 < tiles) __pipeline_memcpy_async(&ring[(k + 2) % 3][t], in + (k + 2) * 128 + t, 4);
    __pipeline_commit();
    __pipeline_wait_prior(2);
    __syncthreads();
    out[k * 128 + t] = ring[k % 3][127 - t] + 1.f;
    __syncthreads();
  }
}
extern "C" __global__ void sizes(unsigned* out, const unsigned* in) {
  __shared__ __align__(16) unsigned s[3][128];
  int t = threadIdx.x;
  unsigned a = (unsigned)__cvta_generic_to_shared(&s[0][4 * t]), b = (unsigned)__cvta_generic_to_shared(&s[1][2 * t]);
  unsigned c = (unsigned)__cvta_generic_to_shared(&s[2][t]);
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" :: "r"(a), "l"(in + 4 * t) : "memory");
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" :: "r"(b), "l"(in + 2 * t), "r"(t % 9) : "memory");
  asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0;"
               "  cp.async.ca.shared.global [%0], [%1], 4, p; }" :: "r"(c), "l"(in + t), "r"(t % 2) : "memory");
  asm volatile("cp.async.wait_all;" ::: "memory");
  for (int i = 0; i < 4; i++) out[4 * t + i] = s[0][4 * t + i];
  for (int i = 0; i < 2; i++) out[128 + 2 * t + i] = s[1][2 * t + i];
  out[192 + t] = s[2][t];
}
"""


@needs_nvcc
@pytest.mark.parametrize("tiles", [1, 2, 7])
def test_ring_of_stages(tiles):
    values = np.random.default_rng(tiles).standard_normal((tiles, 128)).astype(np.float32)
    memory = Memory()
    out = memory.empty(values.nbytes)
    run_all_orders(compiled(SOURCE), Launch("stages", (1,), (128,), [out, memory.upload(values), tiles]), memory)
    assert np.array_equal(memory.read(out, np.float32, values.shape), values[:, ::-1] + 1)


@needs_nvcc
def test_sizes_and_zero_fill():
    values = np.random.default_rng(0).integers(0, 1 << 32, 128).astype(np.uint32)
    memory = Memory()
    out = memory.empty(4 * 224)
    run_all_orders(compiled(SOURCE), Launch("sizes", (1,), (32,), [out, memory.upload(values)]), memory)
    result = memory.read(out, np.uint32)
    assert np.array_equal(result[:128], values)
    octets = values[:64].view(np.uint8).reshape(32, 8).copy()
    for t in range(32):
        octets[t, t % 9 :] = 0
    assert np.array_equal(result[128:192], octets.reshape(-1).view(np.uint32))
    assert np.array_equal(
        result[192:], np.where(np.arange(32) % 2, 0, values[:32])
    )  # a true predicate ignores the source


HEAD = """.version 8.7
.target sm_80
.address_size 64
.shared .align 16 .b8 s[1024];
.visible .entry k(.param .u64 p) { .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %p<9>;
 ld.param.u64 %d1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2; shl.b32 %r2, %r1, 2;
 mov.u32 %r3, s; add.u32 %r2, %r2, %r3;
 xor.b32 %r4, %r2, 128;
"""
COPY = "cp.async.ca.shared.global [%r2], [%d1], 4;"


def execute(body: str, threads: int = 64, count: int = 64, **choices: object) -> None:
    memory = Memory()
    buffer = memory.upload(np.arange(count, dtype=np.uint32))
    run(parse(f"{HEAD}{body}\nret; }}"), Launch("k", (1,), (threads,), [buffer]), memory, **choices)


@pytest.mark.parametrize(
    "body",
    [
        f"{COPY} cp.async.commit_group; cp.async.wait_group 0; bar.sync 0; ld.shared.u32 %r5, [%r4];",
        f"{COPY} cp.async.wait_all; bar.sync 0; ld.shared.u32 %r5, [%r4];",
        f"{COPY} cp.async.commit_group; cp.async.wait_all; ld.shared.u32 %r5, [%r2];",
        f"{COPY} cp.async.commit_group; cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r5, [%r2];",
    ],
)
def test_waiting_makes_bytes_visible(body):
    execute(body)


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (f"{COPY} ld.shared.u32 %r5, [%r2];", UnwaitedCopyError, "PTX line 9"),
        (f"{COPY} cp.async.commit_group; bar.sync 0; ld.shared.u32 %r5, [%r4];", UnwaitedCopyError, "still fills"),
        (
            f"{COPY} cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r5, [%r2];",
            UnwaitedCopyError,
            "still fills",
        ),
        (
            f"{COPY} cp.async.wait_group 0; ld.shared.u32 %r5, [%r2];",
            UnwaitedCopyError,
            "still fills",
        ),  # never committed
        (f"{COPY} st.shared.u32 [%r2], 1;", UnwaitedCopyError, "still fills"),
        (
            f"{COPY} cp.async.wait_all; ld.shared.u32 %r5, [%r4];",
            RaceError,
            "wrote at PTX line 9",
        ),  # no barrier after the wait
        (f"st.shared.u32 [%r4], 1; {COPY}", RaceError, "nothing orders"),
        (f"st.shared.u32 [%r2], 1; bar.sync 0; ld.shared.u32 %r5, [%r4]; {COPY}", RaceError, "read at PTX line 9"),
        ("add.u64 %d1, %d1, 2; cp.async.ca.shared.global [%r2], [%d1], 4;", MisalignedError, "4 bytes"),
        ("cp.async.cg.shared.global [%r2], [%d1], 16;", MisalignedError, "16 bytes"),
        ("mov.u32 %r5, 5; cp.async.ca.shared.global [%r2], [%d1], 4, %r5;", IllegalInstructionError, "src-size 5"),
        (
            ("add.u64 %d1, %d1, 4; cp.async.ca.shared.global [%r2], [%d1], 4;"),
            OutOfBoundsError,
            "outside every allocation",
        ),
        ("add.u32 %r2, %r2, 900; cp.async.ca.shared.global [%r2], [%d1], 4;", OutOfBoundsError, "shared"),
        ("bar.sync 0; ld.shared.u32 %r5, [%r2];", UninitialisedError, "shared"),
    ],
)
def test_misuse_is_reported(body, error, words):
    with pytest.raises(error, match=words):
        execute(body)
    if error is not RaceError:
        with pytest.raises(error, match=words):
            execute(body, races=False, order="reverse")


def test_no_source_byte_is_read_where_the_size_is_zero():
    execute(
        "mov.u32 %r5, 0; add.u64 %d1, %d1, 4096; cp.async.ca.shared.global [%r2], [%d1], 4, %r5; "
        "cp.async.wait_all; ld.shared.u32 %r5, [%r2];"
    )
