"""Branches: post-dominators on graphs by hand, and divergent kernels compiled by nvcc."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, parse, run, run_all_orders
from ptx_emulator.cases import needs_nvcc
from ptx_emulator.control_flow import control_flow, post_dominators
from ptx_emulator.errors import DeadlockError, IllegalInstructionError, PtxError
from ptx_emulator.toolchain import compiled


@pytest.mark.parametrize(
    ("successors", "expected"),
    [
        ([(1, 2), (3,), (3,), ()], [3, 3, 3, None]),  # if / else
        ([(1,), (1, 2), ()], [1, 2, None]),  # loop
        ([(1, 4), (2, 3), (3,), (5,), (5,), ()], [5, 3, 3, 5, 5, None]),  # nested
        ([(1, 2), (), (3,), ()], [None, None, 3, None]),  # early exit: nothing but the end
        ([(1, 3), (2, 3), (4,), (4,), ()], [4, 4, 4, 4, None]),  # a && b
        ([(1,), (2, 4), (3, 1), (1,), ()], [1, 4, 1, 1, None]),  # loop with continue
    ],
)
def test_post_dominators(successors, expected):
    assert post_dominators(successors) == expected


def test_labels_of_debug_information_start_no_block():
    text = """.version 8.7
.target sm_80
.address_size 64
.visible .entry k() {
    .loc 1 2 3
$L__tmp0:
    mov.u32 %tid, 1;
$L__tmp1:
    bra.uni END;
END:
    ret;
}
.section .debug_str { .b8 1,2,3
info: .b8 4 }
""".replace("mov.u32 %tid, 1;", "membar.gl;")
    function = parse(text).kernels["k"]
    assert [i.line for i in function.instructions] == [7, 9, 11]
    assert [(b.start, b.end) for b in control_flow(function).blocks] == [(0, 2), (2, 3)]


SOURCE = """
#include <cassert>
__device__ __noinline__ int collatz(int n, int limit) {
  int steps = 0;
  while (n != 1 && steps < limit) { n = n % 2 ? 3 * n + 1 : n / 2; steps++; }
  return steps;
}
extern "C" __global__ void divergent(int* out, const int* in, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int steps = collatz(in[i], 1000);
  int sum = 0;
  for (int k = 0; k < i % 7; k++) {
    if (k == 3) continue;
    if (in[i] % 11 == k) break;
    sum += collatz(k + 1, 5) * (k % 2 ? 1 : -1);
  }
  switch (in[i] % 6) {
    case 0: sum += 100; break;
    case 1: sum += 200; if (i % 5 == 0) return;
    case 2: sum += 300; break;
    case 4: sum *= 2; break;
    default: sum -= 1;
  }
  out[i] = steps * 10000 + sum;
}
extern "C" __global__ void checked(int n) { assert(n > 3); }
extern "C" __global__ void stops(int n) { if (threadIdx.x == n) __trap(); }
"""


def collatz(n: int, limit: int) -> int:
    steps = 0
    while n != 1 and steps < limit:
        n = 3 * n + 1 if n % 2 else n // 2
        steps += 1
    return steps


def expected_of(i: int, value: int) -> int:
    total = 0
    for k in range(i % 7):
        if k == 3:
            continue
        if value % 11 == k:
            break
        total += collatz(k + 1, 5) * (1 if k % 2 else -1)
    case = value % 6
    if case == 0:
        total += 100
    elif case in (1, 2):
        total += 200 if case == 1 else 0
        if case == 1 and i % 5 == 0:
            return -7
        total += 300
    elif case == 4:
        total *= 2
    else:
        total -= 1
    return collatz(value, 1000) * 10000 + total


@needs_nvcc
def test_divergent_kernel():
    values = np.random.default_rng(2).integers(1, 60, 150).astype(np.int32)
    memory = Memory()
    out = memory.upload(np.full(150, -7, np.int32))
    run_all_orders(compiled(SOURCE), Launch("divergent", (3,), (64,), [out, memory.upload(values), 150]), memory)
    assert memory.read(out, np.int32).tolist() == [expected_of(i, int(v)) for i, v in enumerate(values)]


@needs_nvcc
def test_assertion_and_trap():
    module = compiled(SOURCE)
    run(module, Launch("checked", (1,), (32,), [4]), Memory())
    with pytest.raises(IllegalInstructionError, match="__assertfail"):
        run(module, Launch("checked", (1,), (32,), [3]), Memory())
    run(module, Launch("stops", (1,), (32,), [32]), Memory())
    with pytest.raises(IllegalInstructionError, match="traps") as error:
        run(module, Launch("stops", (1,), (32,), [9]), Memory())
    assert error.value.place.thread == (9, 0, 0)


HEAD = ".version 8.7\n.target sm_80\n.address_size 64\n"


def test_registers_and_labels_are_scoped():
    text = (
        HEAD
        + """.visible .entry k(.param .u64 p) {
  .reg .b32 %r<4>; .reg .b64 %d<2>; .reg .pred q;
  ld.param.u64 %d1, [p];
  mov.u32 %r1, 1;
  { .reg .b32 %r1; .reg .pred q; mov.u32 %r1, 5; setp.eq.u32 q, %r1, 5; @q bra DONE; mov.u32 %r1, 9;
    DONE: st.global.u32 [%d1], %r1; }
  { .reg .b32 t; mov.u32 t, %r1; bra.uni DONE; mov.u32 t, 9; DONE: st.global.u32 [%d1+4], t; }
  ret; }"""
    )
    memory = Memory()
    out = memory.empty(8)
    run(parse(text), Launch("k", (1,), (1,), [out]), memory)
    assert memory.read(out, np.uint32).tolist() == [5, 1]


def test_indexed_branch():
    text = (
        HEAD
        + """.visible .entry k(.param .u64 p) {
  .reg .b32 %r<4>; .reg .b64 %d<4>;
  ld.param.u64 %d1, [p];
  mov.u32 %r1, %ctaid.x; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2;
  TS: .branchtargets A, B, C;
  brx.idx %r1, TS;
  A: mov.u32 %r2, 10; bra E;
  B: mov.u32 %r2, 20; bra E;
  C: mov.u32 %r2, 30;
  E: st.global.u32 [%d1], %r2; ret; }"""
    )
    memory = Memory()
    out = memory.empty(12)
    run(parse(text), Launch("k", (3,), (1,), [out]), memory, resident_threads=1)
    assert memory.read(out, np.uint32).tolist() == [10, 20, 30]


def test_endless_loop_is_reported():
    text = HEAD + ".visible .entry k() {\n A: bra A;\n ret; }"
    with pytest.raises(DeadlockError, match="1000 instructions and no end"):
        run(parse(text), Launch("k", (1,), (32,)), Memory(), max_instructions=1000)


def test_text_that_is_no_ptx():
    with pytest.raises(PtxError, match="PTX line 2"):
        parse(".version 8.7\n.nonsense\n")
    with pytest.raises(PtxError, match="no label"):
        run(parse(HEAD + ".visible .entry k() { bra NOWHERE; ret; }"), Launch("k", (1,), (1,)), Memory())
