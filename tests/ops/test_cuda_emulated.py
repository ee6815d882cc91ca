"""The CUDA kernels, executed by the PTX emulator: what the contract's tests, which it also takes, do not look for.

The emulator reports races, reads of what nobody wrote, reads and writes beyond a tensor or between its rows, and
results that nobody wrote; here launches also run in several orders of blocks and warps, with equal bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from definition import Call
from emulated_cuda import NAME, SM_80, SM_86, Emulation, emulation, needs_nvcc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import Dense, run_dense, run_varlen, with_dropout
from ptx_emulator import Options
from test_attention_random_problems import Problem, check, problems

from fastbert.ops.backends import available_backends
from fastbert.packing import cumulative_lengths

pytestmark = needs_nvcc
# Where blocks wait for their turn, all of a launch are there at once, whichever the order.
TOGETHER = Options(resident_threads=1 << 14)


@dataclass(frozen=True)
class Ordered:
    """A call that runs in every order: dense, or packed with rows that no sequence owns."""

    seq_q: int
    seq_k: int
    head_dim: int
    call: Call
    dtype: torch.dtype = torch.bfloat16
    shared_bytes: int = SM_80
    deterministic: bool = True
    packed: bool = False


CAUSAL = Call(causal=True)
ORDERED = {
    "one tile": Ordered(33, 40, 32, CAUSAL),
    "packed": Ordered(33, 140, 32, CAUSAL, packed=True),
    "turns": Ordered(70, 150, 32, CAUSAL),
}
MORE_ORDERED = {
    "sums in any order": Ordered(70, 150, 32, CAUSAL, deterministic=False),
    "dropout": Ordered(70, 150, 32, with_dropout(Call(window=(90, 20)))),
    "little shared memory": Ordered(70, 150, 64, CAUSAL, shared_bytes=SM_86),
    "much shared memory": Ordered(70, 150, 64, Call(), torch.float16),
    "two warps a group": Ordered(70, 150, 128, Call(), torch.float16),
    "two warps a group, little shared memory": Ordered(70, 150, 128, CAUSAL, shared_bytes=SM_86),
    "wide": Ordered(40, 80, 256, CAUSAL),
    "wide, little shared memory": Ordered(40, 80, 256, with_dropout(CAUSAL), shared_bytes=SM_86),
    "packed, many tiles": Ordered(140, 300, 64, CAUSAL, packed=True),
}


def run_in_all_orders(problem: Ordered) -> None:
    how = Emulation(problem.shared_bytes, TOGETHER, all_orders=True)
    more: dict[str, Any] = {"deterministic": problem.deterministic, "return_lse": True}
    with emulation(how):
        if problem.packed:
            cu_q, cu_k = (
                cumulative_lengths(torch.tensor([n // 3, 0, n - n // 3])) for n in (problem.seq_q, problem.seq_k)
            )
            shapes = ((problem.seq_q + 2, 2), (problem.seq_k + 3, 1), (problem.seq_k + 3, 1))
            q, k, v = (torch.randn(*shape, problem.head_dim).to(problem.dtype).requires_grad_() for shape in shapes)
            out, lse = run_varlen(NAME, q, k, v, problem.call, cu_q, cu_k, **more)
        else:
            q, k, v = Dense(1, problem.seq_q, problem.seq_k, 2, 1, problem.head_dim, dtype=problem.dtype).tensors()
            out, lse = run_dense(NAME, q, k, v, problem.call, **more)
        gradients = torch.autograd.grad((out, lse), (q, k, v), (torch.randn_like(out), torch.randn_like(lse)))
    assert all(x.isfinite().all() for x in gradients)
    kernels = " ".join(kernel for kernel, _ in how.reports)
    assert "forward" in kernels
    assert "backward" in kernels


@pytest.mark.parametrize("name", ORDERED)
def test_every_order_of_blocks_and_warps_gives_the_same_bits(seed: int, name: str) -> None:
    run_in_all_orders(ORDERED[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_ORDERED)
def test_every_order_gives_the_same_bits_in_every_tile(seed: int, name: str) -> None:
    run_in_all_orders(MORE_ORDERED[name])


def sixteen_bits(problem: Problem) -> Problem:
    return replace(problem, dtype=torch.bfloat16) if problem.dtype == torch.float32 else problem


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_problems_drawn_at_random(packed: bool) -> None:
    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        problem=problems(packed).map(sixteen_bits),
        head_dim=st.sampled_from([None, None, None, 56, 80, 128]),
        shared_bytes=st.sampled_from([SM_80, SM_86]),
    )
    def draw(problem: Problem, head_dim: int | None, shared_bytes: int) -> None:
        wide = problem if head_dim is None or problem.large else replace(problem, head_dim=head_dim)
        with emulation(Emulation(shared_bytes)):
            check(NAME, wide)

    draw()


def test_the_emulated_kernels_are_no_backend_of_any_device() -> None:
    assert NAME not in available_backends("cpu")
    assert NAME not in available_backends("cuda")
