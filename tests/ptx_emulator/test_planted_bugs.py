"""A matrix product with one mistake at a time: each must be reported, and as what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptx_emulator import Launch, Memory, Options, Report, run, run_all_orders
from ptx_emulator.cases import needs_nvcc
from ptx_emulator.errors import (
    DivergenceError,
    ExecutionError,
    LaunchError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    UninitialisedError,
    UnwaitedCopyError,
)
from ptx_emulator.memory import Buffer
from ptx_emulator.module import Module
from ptx_emulator.test_triton import from_bf16, to_bf16
from ptx_emulator.toolchain import compiled

pytestmark = needs_nvcc
SHARED = 2 * 2 * 64 * 128  # stages, matrices, rows, bytes of a row


SOURCE = Path(__file__).with_name("gemm.cu").read_text(encoding="utf-8")


BUGS = (
    "NO_SYNC",
    "NO_SECOND_SYNC",
    "NO_WAIT",
    "WAITS_TOO_LITTLE",
    "NO_COMMIT",
    "OFF_BY_ONE_ROW",
    "MISALIGNED",
    "NO_ZERO_FILL",
)
BUGS += ("DIVERGENT_BARRIER", "BARRIER_BY_ONE_WARP", "WRITES_PAST_THE_END", "SWAPPED_FRAGMENT")
VARIANTS = ("RIGHT", "NO_SWIZZLE", *(f"BUG_{name}" for name in BUGS))


def gemm() -> Module:
    """Every variant of the kernel, gemm_RIGHT and so on."""
    parts = [
        f"#define {name}\n#define KERNEL gemm_{name}\nnamespace variant_{name} {{\n{SOURCE}\n}}\n"
        f"#undef KERNEL\n#undef {name}\n"
        for name in VARIANTS
    ]
    return compiled("#include <cstdint>\n" + "".join(parts))


class Problem:
    """C = A B^T with sizes that fill no tile."""

    def __init__(self, m: int = 70, n: int = 90, k: int = 192, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.m, self.n, self.k = m, n, k
        self.a, self.b = (to_bf16(rng.standard_normal((rows, k))) for rows in (m, n))
        self.memory = Memory()
        self.c = self.memory.empty(4 * m * n, "C")
        self.buffers: list[Buffer] = [self.memory.upload(self.a, "A"), self.memory.upload(self.b, "B")]

    def launch(self, variant: str = "RIGHT", **changes: object) -> Launch:
        grid = (-(-self.n // 64), -(-self.m // 64))
        params = [self.c, *self.buffers, self.m, self.n, self.k]
        return Launch(
            **(
                {"kernel": f"gemm_{variant}", "grid": grid, "block": (128,), "params": params, "dynamic_shared": SHARED}
                | changes
            )
        )

    def run(self, variant: str = "RIGHT", order: str = "forward", **choices: object) -> Report:
        return run(gemm(), self.launch(variant), self.memory, order=order, **choices)

    def check(self) -> None:
        x, y = from_bf16(self.a), from_bf16(self.b)
        error = np.abs(self.memory.read(self.c, np.float32, (self.m, self.n)) - x @ y.T)
        assert (error <= np.abs(x) @ np.abs(y).T * 2.0**-22).all()


def test_without_a_mistake_every_order_gives_the_product():
    problem = Problem()
    run_all_orders(gemm(), problem.launch(), problem.memory)
    problem.check()


@pytest.mark.parametrize("arch", ["sm_90a", "sm_100", "sm_120"])
def test_the_ptx_of_other_architectures(arch):
    problem = Problem(64, 70, 64)
    run(compiled(SOURCE, arch=arch), problem.launch(kernel="gemm"), problem.memory)
    problem.check()


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffled"])
@pytest.mark.parametrize(
    ("bug", "error", "words"),
    [
        ("NO_SYNC", (RaceError, UnwaitedCopyError), "ldmatrix"),
        ("NO_SECOND_SYNC", RaceError, "nothing orders|still fills"),
        ("NO_WAIT", UnwaitedCopyError, "ldmatrix.*a cp.async still fills"),
        ("WAITS_TOO_LITTLE", UnwaitedCopyError, "ldmatrix.*a cp.async still fills"),
        ("NO_COMMIT", UnwaitedCopyError, "ldmatrix.*a cp.async still fills"),
        (
            "OFF_BY_ONE_ROW",
            OutOfBoundsError,
            r"cp\.async.*outside every allocation, \+\d+ bytes from the start of [AB] ",
        ),
        ("MISALIGNED", MisalignedError, "cp.async.*not aligned to 16 bytes"),
        ("NO_ZERO_FILL", UninitialisedError, "ldmatrix.*16 bytes of shared memory never written"),
        ("DIVERGENT_BARRIER", DivergenceError, "8 of the warp's 32 threads reach the barrier"),
        ("BARRIER_BY_ONE_WARP", (RaceError, UnwaitedCopyError), "ldmatrix"),
        ("WRITES_PAST_THE_END", OutOfBoundsError, "st.global.*from the start of C"),
    ],
)
def test_mistake_is_reported(bug, error, words, order):
    if order == "forward":
        with pytest.raises(error, match=words):
            Problem().run(f"BUG_{bug}")
    else:  # another order may meet another sign of the mistake first
        with pytest.raises(ExecutionError):
            Problem().run(f"BUG_{bug}", order=order)


def test_swapped_fragment_gives_wrong_numbers():
    problem = Problem()
    problem.run("BUG_SWAPPED_FRAGMENT")
    with pytest.raises(AssertionError):
        problem.check()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"grid": (1, 2)}, ValueError, "C: .* bytes never written"),
        ({"dynamic_shared": SHARED // 2}, OutOfBoundsError, "outside the block's 16384 bytes of shared memory"),
        ({"block": (64,)}, ValueError, "C: .* bytes never written"),
        ({"block": (256,)}, LaunchError, "compiled for at most"),
        ({"params": [0, 0, 0]}, LaunchError, "takes 6 parameters"),
        ({"max_shared": 16384}, LaunchError, "32768 bytes of shared memory: at most 16384"),
    ],
)
def test_wrong_launch_is_reported(changes, error, words):
    problem = Problem()

    def execute() -> None:
        run(gemm(), problem.launch(**changes), problem.memory)
        problem.check()

    with pytest.raises(error, match=words):
        execute()


def test_swapped_buffers_are_seen_by_their_sizes():
    problem = Problem()
    params = [problem.c, *problem.buffers[::-1], problem.m, problem.n, problem.k]
    with pytest.raises(OutOfBoundsError, match="A "):
        run(gemm(), problem.launch(params=params), problem.memory)


def test_swizzle_frees_ldmatrix_of_bank_conflicts():
    """Counts by hand: 128 x 128 x 192, four blocks, three steps."""
    reports = {}
    for variant in ("RIGHT", "NO_SWIZZLE"):
        problem = Problem(128, 128, 192)
        reports[variant] = problem.run(variant, counters=True)
        problem.check()
    plain, conflicting = reports["RIGHT"], reports["NO_SWIZZLE"]
    blocks, steps, warps = 4, 3, 4
    assert plain.opcodes["mma"] == blocks * steps * warps * 4 * 8
    assert plain.opcodes["ldmatrix"] == blocks * steps * warps * 4 * 4
    assert plain.opcodes["bar"] == blocks * steps * warps * 2
    assert plain.bank_conflicts == 0
    loads = [site for site in conflicting.sites if site.text.startswith("ldmatrix")]
    assert sum(site.ideal for site in loads) == plain.opcodes["ldmatrix"] * 4
    assert (
        sum(site.passes for site in loads) == plain.opcodes["ldmatrix"] * 4 * 8
    )  # eight rows of 128 bytes in the same banks
    copies = [site for site in plain.sites if site.text.startswith("cp.async") and site.space == "global"]
    assert sum(site.requests for site in copies) == blocks * steps * 2 * 64 * 8 // 32
    assert all(site.passes == site.ideal == 16 * site.requests for site in copies)  # 512 bytes a request


def test_options_are_checked():
    with pytest.raises(ValueError, match="order"):
        Options(order="sideways")
    with pytest.raises(ValueError, match="mma"):
        Options(mma="volta")
