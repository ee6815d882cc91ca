"""ldmatrix, stmatrix and movmatrix: layouts by the ISA's tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, parse, run
from ptx_emulator.cases import needs_nvcc
from ptx_emulator.errors import DivergenceError
from ptx_emulator.toolchain import compiled

KERNEL = """
extern "C" __global__ void NAME(unsigned* out, const unsigned short* in) {
  __shared__ __align__(16) unsigned short s[4 * 64 + 32 * 8];
  int t = threadIdx.x;
  for (int i = t; i < 256; i += 32) s[i] = in[i];
  __syncwarp();
  unsigned a = (unsigned)__cvta_generic_to_shared(s + 8 * t), b = a + 512, r[COUNT];
  asm volatile("ldmatrix.sync.aligned.m8n8.xCOUNT.shared.b16 {PLACES}, [%COUNT];" : OUTPUTS : "r"(a));
  for (int i = 0; i < COUNT; i++) out[32 * i + t] = r[i];
  // and back, transposed the same way: the matrices return
  asm volatile("{ .reg .b32 a; mov.b32 a, %COUNT; stmatrix.sync.aligned.m8n8.xCOUNT.shared.b16 [a], {PLACES}; }"
               :: INPUTS, "r"(b) : "memory");
  __syncwarp();
  for (int i = t; i < 32 * COUNT; i += 32) out[32 * COUNT + i] = reinterpret_cast<unsigned*>(s + 256)[i];
}
"""


def kernel(count: int, transposed: bool) -> str:
    places = ", ".join(f"%{n}" for n in range(count))
    outputs, inputs = (", ".join(f'"{letter}"(r[{n}])' for n in range(count)) for letter in ("=r", "r"))
    source = KERNEL.replace("NAME", f"ld{count}{'t' * transposed}").replace("PLACES", places)
    source = source.replace("OUTPUTS", outputs).replace("INPUTS", inputs).replace("COUNT", str(count))
    return source.replace(f"x{count}.shared", f"x{count}.trans.shared") if transposed else source


FORMS = list(itertools.product((1, 2, 4), (False, True)))
MATRICES = "".join(kernel(*form) for form in FORMS)


@needs_nvcc
@pytest.mark.parametrize(("count", "transposed"), FORMS)
def test_ldmatrix_and_stmatrix(count, transposed):
    values = np.random.default_rng(count).integers(0, 1 << 16, 256).astype(np.uint16)
    memory = Memory()
    out = memory.empty(4 * 64 * count)
    launch = Launch(f"ld{count}{'t' * transposed}", (1,), (32,), [out, memory.upload(values)])
    run(compiled(MATRICES, arch="sm_90a"), launch, memory)
    words = memory.read(out, np.uint32)
    matrices = values.reshape(4, 8, 8)
    for number, lane in itertools.product(range(count), range(32)):
        row, column = lane // 4, lane % 4 * 2
        pair = [matrices[number][(c, row) if transposed else (row, c)] for c in (column, column + 1)]
        assert words[32 * number + lane] == int(pair[0]) | int(pair[1]) << 16
    assert np.array_equal(words[32 * count :].view(np.uint16), values[: 64 * count])


def test_movmatrix_transposes():
    text = """.version 8.7
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p) { .reg .b32 %r<9>; .reg .b64 %d<9>;
 ld.param.u64 %d1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2; ld.global.u32 %r2, [%d1];
 movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r2; st.global.u32 [%d1], %r3; ret; }"""
    memory, values = Memory(), np.arange(64, dtype=np.uint16).reshape(8, 8)
    buffer = memory.upload(values)
    run(parse(text), Launch("k", (1,), (32,), [buffer]), memory)
    assert np.array_equal(memory.read(buffer, np.uint16, (8, 8)), values.T)
    with pytest.raises(DivergenceError, match="needs all 32"):
        run(parse(text), Launch("k", (1,), (16,), [buffer]), memory)
