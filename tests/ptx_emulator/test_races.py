"""What orders two accesses and what does not: small kernels in PTX, one fact each."""

from __future__ import annotations

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, parse, run
from ptx_emulator.errors import RaceError

HEAD = """.version 8.7
.target sm_80
.address_size 64
.shared .align 16 .b8 s[4096];
.visible .entry k(.param .u64 p) { .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %p<9>;
 ld.param.u64 %d1, [p]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.u32 %r2, %r2, %r3;
 xor.b32 %r4, %r2, 4; xor.b32 %r5, %r2, 128;
 mov.u32 %r7, %ctaid.x; setp.eq.u32 %p1, %r1, 0; setp.lt.u32 %p2, %r1, 32; setp.eq.u32 %p3, %r7, 0;
"""
START = "st.shared.u32 [%r2], 0; st.shared.u32 [%r2+512], 0; bar.sync 0;\n"
WRITE = "st.shared.u32 [%r2], %r1;"


def execute(body: str, blocks: int = 1, threads: int = 64, **choices: object) -> np.ndarray:
    memory = Memory()
    buffer = memory.upload(np.zeros(64, np.uint32))
    run(parse(f"{HEAD}{START}{body}\nret; }}"), Launch("k", (blocks,), (threads,), [buffer]), memory, **choices)
    return memory.read(buffer, np.uint32)


ORDERED = {
    "own bytes": f"{WRITE} ld.shared.u32 %r6, [%r2]; {WRITE}",
    "barrier": f"{WRITE} bar.sync 0; ld.shared.u32 %r6, [%r5]; bar.sync 0; st.shared.u32 [%r4], 1;",
    "warp barrier": (
        f"{WRITE} bar.warp.sync 0xffffffff; ld.shared.u32 %r6, [%r4]; bar.warp.sync 0xffffffff; st.shared.u32 [%r4], 1;"
    ),
    "half a warp": (
        "and.b32 %r6, %r1, 16; setp.eq.u32 %p4, %r6, 0; @!%p4 bra A; st.shared.u32 [%r2], 1; "
        "bar.warp.sync 0xffff; ld.shared.u32 %r6, [%r4]; A:"
    ),
    "arrive and sync": (
        "@%p2 bra A; st.shared.u32 [%r2], 1; bar.arrive 1, 64; bra B; A: bar.sync 1, 64; ld.shared.u32 %r6, [%r5]; B:"
    ),
    "transitive": (
        f"@%p2 {WRITE} bar.warp.sync 0xffffffff; @%p1 st.shared.u32 [%r3+512], 1; bar.sync 0; "
        "ld.shared.u32 %r6, [%r3+16];"
    ),
    "both halves of a word": (
        "mov.u32 %r6, 0; shl.b32 %r6, %r1, 1; add.u32 %r6, %r6, %r3; cvt.u16.u32 %h1, %r1; "
        "st.shared.u16 [%r6], %h1; ld.shared.u16 %h2, [%r6];"
    ),
    "equal bits": "st.shared.u32 [%r3], 7; ",
    "atomics": (
        "@%p1 st.shared.u32 [%r3], 0; bar.sync 0; atom.shared.add.u32 %r6, [%r3], 1; red.shared.add.u32 [%r3], 1;"
    ),
    "a lane that reads again": (
        f"{WRITE} bar.sync 0; ld.shared.u32 %r6, [%r3]; bar.sync 0; @%p1 ld.shared.u32 %r6, [%r3]; "
        "@%p1 st.shared.u32 [%r3], 9;"
    ),
    "the same in a warp": (
        "@%p2 ld.shared.u32 %r6, [%r3]; bar.warp.sync 0xffffffff; @%p1 ld.shared.u32 %r6, [%r3]; "
        "@%p1 st.shared.u32 [%r3], 9;"
    ),
    "reads": "ld.global.u32 %r6, [%d1]; ld.global.u32 %r6, [%d1+4];",
}
UNORDERED = {
    "no barrier": (f"{WRITE} ld.shared.u32 %r6, [%r5];", "reads bytes that thread .* wrote at PTX line 10"),
    "no barrier in a warp": (f"{WRITE} ld.shared.u32 %r6, [%r4];", "reads bytes that"),
    "a shuffle is no barrier": (
        (f"{WRITE} shfl.sync.idx.b32 %r6, %r1, 0, 31, 0xffffffff; ld.shared.u32 %r6, [%r4];"),
        "reads bytes that",
    ),
    "a warp barrier does not reach other warps": (
        f"{WRITE} bar.warp.sync 0xffffffff; ld.shared.u32 %r6, [%r5];",
        "reads bytes that",
    ),
    "write after read": (
        (f"{WRITE} bar.sync 0; ld.shared.u32 %r6, [%r5]; st.shared.u32 [%r2], 7;"),
        "writes bytes that thread .* read at PTX line 10",
    ),
    "write after a warp's read": (
        (f"{WRITE} bar.sync 0; ld.shared.u32 %r6, [%r3]; bar.warp.sync 0xffffffff; @%p1 st.shared.u32 [%r3], 7;"),
        "read at",
    ),
    "write after broadcast": (
        (f"{WRITE} bar.sync 0; @%p2 ld.shared.u32 %r6, [%r3]; @%p1 st.shared.u32 [%r3], 7;"),
        "read at",
    ),
    "two writes": (f"{WRITE} st.shared.u32 [%r5], %r1;", "writes bytes that thread .* wrote"),
    "one instruction": ("st.shared.u32 [%r3], %r1;", "with other bits"),
    "the arriving side": (
        (
            "@%p2 bra A; bar.arrive 1, 64; st.shared.u32 [%r2], 1; bra B; A: bar.sync 1, 64; "
            "ld.shared.u32 %r6, [%r5]; B:"
        ),
        "reads bytes|writes bytes",
    ),
    "plain and atomic": ("@%p1 st.shared.u32 [%r3], 5; atom.shared.add.u32 %r6, [%r3], 1;", "bytes that"),
}


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
@pytest.mark.parametrize("name", ORDERED)
def test_ordered(name, order):
    execute(ORDERED[name], order=order)


# In one order the arriving warp is through before the other one reads: one order cannot show everything.
SEEN = [
    (name, order)
    for name in UNORDERED
    for order in ("forward", "reverse")
    if (name, order) != ("the arriving side", "reverse")
]


@pytest.mark.parametrize(("name", "order"), SEEN)
def test_unordered(name, order):
    body, words = UNORDERED[name]
    with pytest.raises(
        RaceError, match=words if order == "forward" else "bytes that"
    ):  # another order, another one is first
        execute(body, order=order)


def test_both_lines_are_named():
    with pytest.raises(RaceError, match=r"PTX line 11 .*wrote at PTX line 10; nothing orders") as error:
        execute(f"{WRITE}\nld.shared.u32 %r6, [%r5];")
    assert error.value.place.line == 11


def test_races_can_be_switched_off():
    execute(f"{WRITE} ld.shared.u32 %r6, [%r5];", races=False)


RELEASE = (
    "@%p3 st.global.u32 [%d1], 5; @%p3 atom.global.gpu.release.add.u32 %r6, [%d1+8], 1; "
    "@!%p3 atom.global.gpu.acquire.add.u32 %r6, [%d1+8], 0; @!%p3 ld.global.u32 %r6, [%d1];"
)
FENCES = (
    "@%p3 st.global.u32 [%d1], 5; membar.gl; @%p3 atom.global.add.u32 %r6, [%d1+8], 1; "
    "@!%p3 atom.global.add.u32 %r6, [%d1+8], 0; membar.gl; @!%p3 ld.global.u32 %r6, [%d1];"
)


FLAG = (
    "@%p3 st.global.u32 [%d1], 5; @%p3 st.release.gpu.global.u32 [%d1+8], 1; "
    "@!%p3 ld.acquire.gpu.global.u32 %r6, [%d1+8]; @!%p3 ld.global.u32 %r6, [%d1];"
)


def test_flags_that_are_released_and_acquired():
    execute(FLAG, blocks=2, threads=1)
    for body in (
        FLAG.replace("acquire", "relaxed"),
        FLAG.replace(".release.gpu", ".volatile"),
        FLAG.replace(".acquire.gpu", ""),
    ):
        with pytest.raises(RaceError, match="wrote at"):
            execute(body, blocks=2, threads=1)


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
def test_a_block_that_waits_for_another(order):
    """The second block spins until the first, which counts to 300 before, has raised its flag."""
    count = "mov.u32 %r6, 0; L: add.u32 %r6, %r6, 1; setp.lt.u32 %p4, %r6, 300; @%p4 bra L;"
    first = f"{count} st.global.u32 [%d1], %r6; st.release.gpu.global.u32 [%d1+8], 1; bra E;"
    second = "W: ld.acquire.gpu.global.u32 %r6, [%d1+8]; setp.eq.u32 %p4, %r6, 0; @%p4 bra W; ld.global.u32 %r6, [%d1];"
    body = f"@!%p3 bra W; {first} {second} st.global.u32 [%d1+4], %r6; E:"
    assert execute(body, blocks=2, threads=1, order=order)[:3].tolist() == [300, 300, 1]


def test_between_blocks_only_acquire_and_release_order():
    execute(RELEASE, blocks=2, threads=1)
    execute(RELEASE, blocks=2, threads=1, resident_threads=1)  # one block after the other
    execute(FENCES, blocks=2, threads=1)
    execute(FENCES.replace("membar.gl", "fence.acq_rel.gpu"), blocks=2, threads=1)
    for body in (
        RELEASE.replace(".acquire", ".relaxed"),
        RELEASE.replace(".release", ".relaxed"),
        FENCES.replace("membar.gl;", "", 1),
    ):
        with pytest.raises(RaceError, match=r"block \(0, 0, 0\) wrote at"):
            execute(body, blocks=2, threads=1)
    with pytest.raises(RaceError, match="wrote at"):
        execute("@%p1 st.global.u32 [%d1], %r7;", blocks=2, threads=1, resident_threads=1)


def test_acquired_knowledge_goes_through_a_barrier():
    hand_over = RELEASE.replace("@!%p3 ld.global.u32 %r6, [%d1];", "bar.sync 0; @!%p3 ld.global.u32 %r6, [%d1];")
    guarded = hand_over.replace("@%p3 st", "setp.eq.and.u32 %p3, %r1, 0, %p3; @%p3 st")
    body = guarded.replace("@!%p3 atom", "setp.eq.u32 %p4, %r7, 1; and.pred %p5, %p4, %p1; @%p5 atom").replace(
        "@!%p3 ld", "@%p4 ld"
    )
    execute(body, blocks=2)
    with pytest.raises(RaceError):
        execute(body.replace("bar.sync 0;", ""), blocks=2)
