"""Loads and stores in every space, and what is reported about them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, parse, run
from ptx_emulator.cases import needs_nvcc
from ptx_emulator.errors import (
    LaunchError,
    MisalignedError,
    OutOfBoundsError,
    UninitialisedError,
    UnknownInstructionError,
)
from ptx_emulator.toolchain import compiled

HEAD = ".version 8.7\n.target sm_80\n.address_size 64\n"
SPACES = """
__constant__ float table[4] = {1.0f, 2.0f, 4.0f, 8.0f};
__device__ int counter[3] = {7, 8, 9};
__device__ int* pointer = counter + 1;
struct Pair { int first; double second; short third[3]; };

extern "C" __global__ void spaces(float* out, Pair pair, const float* in, int n) {
  __shared__ float fixed[64];
  extern __shared__ float dynamic[];
  float local[8];
  int t = threadIdx.x;
  for (int i = 0; i < 8; i++) local[i] = in[(t + i) % n];
  fixed[t] = local[t % 8];
  dynamic[t] = table[t % 4];
  __syncthreads();
  float* either = t % 2 ? fixed : dynamic;          // generic addresses of shared memory
  float* anywhere = t % 3 ? either + (63 - t) : local + (t % 8);
  out[t] = *anywhere + counter[t % 3] + pointer[0] + pair.first + (float)pair.second + pair.third[t % 3];
}

extern "C" __global__ void vectors(const int4* in, int4* out, const short2* pairs, short2* swapped,
                                   const unsigned char* octets, int* sums) {
  int t = threadIdx.x;
  int4 v = __ldg(in + t);
  out[t] = make_int4(v.w, v.z, v.y, v.x);
  short2 p = pairs[t];
  swapped[t] = make_short2(p.y, p.x);
  uchar4 b = reinterpret_cast<const uchar4*>(octets)[t];
  sums[t] = b.x + b.y + b.z + b.w + (signed char)octets[t];
}
"""


@needs_nvcc
@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_every_space(order):
    memory = Memory()
    x = np.arange(10, dtype=np.float32) * 1.5
    source, out = memory.upload(x), memory.empty(64 * 4)
    pair = np.array(
        [(5, 2.5, (10, 20, 30))], np.dtype([("first", "i4"), ("second", "f8"), ("third", "i2", 3)], align=True)
    )
    run(
        compiled(SPACES),
        Launch("spaces", (1,), (64,), [out, pair.tobytes(), source, 10], dynamic_shared=256),
        memory,
        order=order,
    )
    t = np.arange(64)
    local = x[(t[:, None] + np.arange(8)) % 10]
    fixed, dynamic = local[t, t % 8], np.array([1.0, 2, 4, 8])[t % 4]
    anywhere = np.where(t % 3, np.where(t % 2, fixed[63 - t], dynamic[63 - t]), local[t, t % 8])
    expected = anywhere + np.array([7, 8, 9])[t % 3] + 8 + 5 + 2.5 + np.array([10, 20, 30])[t % 3]
    assert np.array_equal(memory.read(out, np.float32), expected.astype(np.float32))


@needs_nvcc
def test_vectors_and_narrow_types():
    memory, rng = Memory(), np.random.default_rng(5)
    quads = rng.integers(-(2**31), 2**31, (32, 4)).astype(np.int32)
    shorts, octets = rng.integers(-(2**15), 2**15, (32, 2)).astype(np.int16), rng.integers(0, 256, 128).astype(np.uint8)
    out, swapped, sums = memory.empty(512), memory.empty(128), memory.empty(128)
    params = [memory.upload(quads), out, memory.upload(shorts), swapped, memory.upload(octets), sums]
    run(compiled(SPACES), Launch("vectors", (1,), (32,), params), memory)
    assert np.array_equal(memory.read(out, np.int32, (32, 4)), quads[:, ::-1])
    assert np.array_equal(memory.read(swapped, np.int16, (32, 2)), shorts[:, ::-1])
    expected = octets.reshape(32, 4).astype(np.int32).sum(axis=1) + octets[:32].view(np.int8)
    assert np.array_equal(memory.read(sums, np.int32), expected)


def one(body: str, params: str = ".param .u64 a, .param .u64 b", declarations: str = "") -> str:
    registers = ".reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %p<9>;"
    start = f"{registers}\n ld.param.u64 %d1, [a];\n ld.param.u64 %d2, [b];"
    return f"{HEAD}{declarations}\n.visible .entry k({params}) {{ {start}\n{body}\n ret; }}"


def launch(body: str, a: object, b: object, memory: Memory, threads: int = 32, **more: object) -> None:
    run(parse(one(body)), Launch("k", (1,), (threads,), [a, b], **more), memory)


ADDRESS = " mov.u32 %r1, %tid.x;\n mul.wide.u32 %d3, %r1, 4;\n add.u64 %d4, %d1, %d3;\n add.u64 %d5, %d2, %d3;\n"


def test_reading_past_the_end_names_line_thread_and_address():
    memory = Memory()
    short, out = memory.upload(np.zeros(31, np.int32)), memory.empty(128)
    with pytest.raises(
        OutOfBoundsError, match=r"outside every allocation, \+124 bytes from the start of buffer0 \(124 bytes\)"
    ) as error:
        launch(f"{ADDRESS} ld.global.u32 %r2, [%d4];\n st.global.u32 [%d5], %r2;", short, out, memory)
    place = error.value.place
    assert (place.kernel, place.line, place.thread, error.value.address) == ("k", 12, (31, 0, 0), short.address + 124)


def test_writing_before_the_start():
    memory = Memory()
    buffer = memory.upload(np.zeros(32, np.int32))
    with pytest.raises(OutOfBoundsError) as error:
        launch(f"{ADDRESS} st.global.u32 [%d4+-4], %r1;", buffer, 0, memory)
    assert error.value.address == buffer.address - 4
    with pytest.raises(OutOfBoundsError):
        launch(" st.global.u32 [%d2], 1;", buffer, 0, memory)


def test_constants_cannot_be_written():
    memory = Memory()
    buffer = memory.upload(np.zeros(32, np.int32), read_only=True)
    with pytest.raises(OutOfBoundsError):
        launch(f"{ADDRESS} st.global.u32 [%d4], %r1;", buffer, 0, memory)


def test_misaligned_vector_load():
    memory = Memory()
    buffer = memory.upload(np.zeros(64, np.int32))
    with pytest.raises(MisalignedError, match="not aligned to 16 bytes") as error:
        launch(" ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1+8];", buffer, 0, memory)
    assert error.value.address == buffer.address + 8


def test_reading_what_nobody_wrote():
    memory = Memory()
    buffer = memory.empty(128)
    memory.write(buffer, np.zeros(5, np.int32))
    with pytest.raises(UninitialisedError) as error:
        launch(f"{ADDRESS} ld.global.u32 %r2, [%d4];", buffer, 0, memory)
    assert error.value.place.thread == (5, 0, 0)
    with pytest.raises(ValueError, match="108 of 128 bytes never written, the first at 20"):
        memory.read(buffer, np.int32)


def test_shared_memory_starts_unwritten_and_ends():
    body = " mov.u32 %r1, s;\n {} \n"
    declared = ".shared .align 16 .b8 s[64];"
    for instruction, error in (
        ("ld.shared.u32 %r2, [%r1+60];", UninitialisedError),
        ("st.shared.u32 [%r1+64], 1;", OutOfBoundsError),
        ("st.shared.u32 [%r1+-4], 1;", OutOfBoundsError),
        ("st.shared.u32 [0], 1;", OutOfBoundsError),
    ):
        with pytest.raises(error):
            run(parse(one(body.format(instruction), declarations=declared)), Launch("k", (1,), (1,), [0, 0]), Memory())


def test_a_store_makes_bytes_readable_and_no_more():
    memory = Memory()
    out = memory.empty(8)
    launch(
        " st.global.u16 [%d1+2], 513;\n ld.global.u8 %h1, [%d1+3];\n st.global.u8 [%d1+7], %h1;",
        out,
        0,
        memory,
        threads=1,
    )
    assert memory.bytes(out).tolist() == [0, 0, 1, 2, 0, 0, 0, 2]
    assert memory.written(out).tolist() == [False, False, True, True, False, False, False, True]


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("frobnicate.u32 %r1, %r2;", "frobnicate"),
        ("add.rn.u32 %r1, %r2, %r3;", "rn"),
        ("ld.global.strange.u32 %r1, [%d1];", "strange"),
        ("cvt.u32.f32 %r1, %r2;", "no rounding"),
        ("add.u64 %r1, %d1, %d2;", "too small"),
        ("add.u32 %r1, %h1, %r2;", "%h1 is .b16"),
        ("mov.u32 %r1, %nosuch;", "special register %nosuch"),
        ("mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 {%r1}, {%r2}, {%r3}, {%r4};", "unknown instruction"),
        ("tcgen05.ld.sync.aligned.16x64b.x1.b32 {%r1}, [%r2];", "tcgen05"),
    ],
)
def test_an_unknown_instruction_is_named_before_anything_runs(instruction, words):
    with pytest.raises(UnknownInstructionError, match=words):
        launch(instruction, 0, 0, Memory())


def test_launch_limits():
    module = parse(one("").replace("{", ".reqntid 64 {", 1))
    with pytest.raises(LaunchError, match="requires"):
        run(module, Launch("k", (1,), (32,), [0, 0]), Memory())
    module = parse(one(""))
    for grid, block, more, words in (
        ((1,), (1025,), {}, "1024"),
        ((1, 65536), (32,), {}, "65535"),
        ((0,), (32,), {}, "at least 1"),
        ((1,), (32,), {"dynamic_shared": 232449}, "232449 bytes of shared memory"),
        ((1,), (32,), {"dynamic_shared": 102000, "max_shared": 101376}, "101376"),
    ):
        with pytest.raises(LaunchError, match=words):
            run(module, Launch("k", grid, block, [0, 0], **more), Memory())
    with pytest.raises(LaunchError, match="takes 2 parameters, got 1"):
        run(module, Launch("k", (1,), (32,), [0]), Memory())
    with pytest.raises(LaunchError, match="takes 16 bytes of parameters, got 4"):
        run(module, Launch("k", (1,), (32,), bytes(4)), Memory())
    registers = parse(one("").replace("{", ".maxntid 512 .maxnreg 255 {", 1))
    with pytest.raises(LaunchError, match="255 registers"):
        run(registers, Launch("k", (1,), (512,), [0, 0]), Memory())
    with pytest.raises(LaunchError, match="0 kernels match"):
        run(module, Launch("other", (1,), (32,), [0, 0]), Memory())


def test_parameters_as_values_or_bytes_and_names_in_part():
    body = " ld.param.u32 %r1, [c]; ld.param.f32 %r2, [d]; st.global.v2.u32 [%d1], {%r1, %r2};"
    text = one(body, ".param .u64 a, .param .u64 b, .param .u32 c, .param .f32 d")
    module = parse(text.replace("entry k(", "entry _Z6kernelPfS_if("))
    for given in ((0, 7, 0.5), (np.uint64(0), np.int32(7), np.float32(0.5))):
        memory = Memory()
        out = memory.empty(8)
        run(module, Launch("kernel", (1,), (1,), [out, *given]), memory)
        assert memory.read(out, np.uint32).tolist() == [7, 0x3F000000]
        packed = struct.pack("<QQif", out.address, 0, 8, 0.25)
        run(module, Launch("kernel", (1,), (1,), packed), memory)
        assert memory.read(out, np.uint32).tolist() == [8, 0x3E800000]
    with pytest.raises(LaunchError, match="parameter 2 of _Z6kernelPfS_if has 4 bytes, the value 8"):
        run(module, Launch("kernel", (1,), (1,), [0, 0, np.int64(1), 0.5]), Memory())


def test_special_registers():
    names = [
        "%tid.x",
        "%tid.y",
        "%tid.z",
        "%ctaid.x",
        "%ctaid.y",
        "%ctaid.z",
        "%ntid.x",
        "%ntid.y",
        "%nctaid.y",
        "%laneid",
        "%warpid",
        "%lanemask_lt",
    ]
    body = [
        (
            " mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.z; mad.lo.u32 %r2, %r3, "
            "3, %r2; mad.lo.u32 %r1, %r2, 2, %r1;"
        )
    ]
    body += [
        (
            " mov.u32 %r2, %tid.x; mov.u32 %r3, %tid.y; mov.u32 %r4, %tid.z; mad.lo.u32 %r3, %r4, 3, %r3; "
            "mad.lo.u32 %r2, %r3, 5, %r2;"
        )
    ]
    body += [" mad.lo.u32 %r1, %r1, 60, %r2; mul.wide.u32 %d3, %r1, 48; add.u64 %d1, %d1, %d3;"]
    body += [f" mov.u32 %r5, {name}; st.global.u32 [%d1+{4 * n}], %r5;" for n, name in enumerate(names)]
    memory = Memory()
    out = memory.empty(12 * 60 * 48)
    run(parse(one("\n".join(body))), Launch("k", (2, 3, 2), (5, 3, 4), [out, 0]), memory, resident_threads=200)
    rows = memory.read(out, np.uint32, (12, 60, 12))
    for block in range(12):
        for thread in range(60):
            lane = thread % 32
            tid, ctaid = (thread % 5, thread // 5 % 3, thread // 15), (block % 2, block // 2 % 3, block // 6)
            assert rows[block, thread].tolist() == [*tid, *ctaid, 5, 3, 3, lane, thread // 32, (1 << lane) - 1]
