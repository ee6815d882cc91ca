"""The CPU kernels among threads and processes: the same bits from any team, from several callers, after a fork."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from definition import Call
from interpreter import run_code
from problems import Dense, gradients, run_dense, run_varlen, with_dropout
from torch import Tensor

from fastbert.packing import cumulative_lengths

TEAMS = (1, 2, 3, 7)
FULL, CAUSAL = Call(), Call(causal=True)


@dataclass(frozen=True)
class Packed:
    """Sequences of these lengths, for queries and keys."""

    lengths_q: tuple[int, ...]
    lengths_k: tuple[int, ...]
    call: Call = FULL
    dtype: torch.dtype = torch.float32


# Pieces of the backward hold up to 256 keys, fewer for wide heads; of longer sequences several add to dQ in turn.
PROBLEMS: dict[str, Dense | Packed] = {
    "dense": Dense(3, 130, 97, 3, 3, 32),
    "causal": Dense(2, 200, 257, 2, 2, 64, CAUSAL),
    "window": Dense(1, 300, 300, 2, 2, 40, Call(window=(70, 9))),
    "masked keys": Dense(3, 65, 129, 2, 2, 59, masked=True),
    "grouped heads": Dense(2, 50, 70, 12, 2, 64, CAUSAL),
    "dropout": Dense(2, 129, 127, 3, 1, 64, with_dropout(FULL)),
    "long keys": Dense(1, 100, 700, 2, 2, 64),
    "long keys, causal, dropout": Dense(1, 700, 700, 2, 1, 64, with_dropout(CAUSAL)),
    "long keys, wide heads": Dense(1, 65, 700, 2, 1, 256),
    "long keys, window": Dense(1, 700, 700, 1, 1, 64, Call(window=(300, 0))),
    "long keys, bfloat16": Dense(1, 130, 700, 3, 3, 64, CAUSAL, torch.bfloat16),
    "long keys, float16": Dense(2, 60, 700, 2, 2, 40, FULL, torch.float16),
    "packed": Packed((5, 0, 130, 61, 1), (5, 0, 130, 61, 1), CAUSAL),
    "packed, long keys": Packed((40, 700, 3, 0), (700, 520, 3, 9), with_dropout(FULL)),
    "packed, long keys, bfloat16": Packed((0, 300, 40), (30, 300, 700), CAUSAL, torch.bfloat16),
}
SMALL = Dense(1, 50, 520, 2, 2, 8, with_dropout(CAUSAL))  # two pieces of the forward, six of the backward


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Case:
    """A problem with its tensors, to be computed again and again."""

    def __init__(self, problem: Dense | Packed) -> None:
        torch.manual_seed(20180611)
        self.problem = problem
        if isinstance(problem, Dense):
            self.inputs = problem.tensors()
            self.mask = problem.mask()
        else:
            sizes = ((sum(problem.lengths_q), 4), (sum(problem.lengths_k), 2), (sum(problem.lengths_k), 2))
            q, k, v = (torch.randn(n, heads, 32).to(problem.dtype).requires_grad_() for n, heads in sizes)
            self.inputs = q, k, v
            self.cu = [cumulative_lengths(torch.tensor(x)) for x in (problem.lengths_q, problem.lengths_k)]
        self.dout = torch.randn(self.inputs[0].shape).to(problem.dtype)

    def forward(self) -> tuple[Tensor, Tensor]:
        """out and lse."""
        if isinstance(self.problem, Dense):
            result = run_dense("cpu", *self.inputs, self.problem.call, self.mask, return_lse=True)
        else:
            result = run_varlen("cpu", *self.inputs, self.problem.call, *self.cu, return_lse=True)
        return result  # type: ignore[no-any-return]

    def run(self, team: int | None = None, team_of_backward: int | None = None) -> list[Tensor]:
        """out, lse, dq, dk and dv."""
        if team is not None:
            torch.set_num_threads(team)
        out, lse = self.forward()
        if team_of_backward is not None:
            torch.set_num_threads(team_of_backward)
        return [out, lse, *gradients(out, self.dout, self.inputs)]


def equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_team_computes_the_same_bits(name: str) -> None:
    case = Case(PROBLEMS[name])
    wanted = case.run(1)
    assert all(x[x.isfinite()].abs().max() > 0 for x in wanted)
    for team in TEAMS[1:]:
        for _ in range(3):
            assert equal(case.run(team), wanted), f"{team} threads"


@pytest.mark.parametrize("teams", [(1, 7), (7, 1), (2, 3)])
def test_the_backward_may_have_another_team(teams: tuple[int, int]) -> None:
    case = Case(PROBLEMS["long keys, causal, dropout"])
    wanted = case.run(1)
    assert equal(case.run(*teams), wanted)


def repeat(problem: Dense, team: int, times: int) -> None:
    case = Case(problem)
    wanted = case.run(1)
    torch.set_num_threads(team)
    for i in range(times):
        assert equal(case.run(), wanted), f"run {i}"


def test_a_thousand_runs_are_equal() -> None:
    repeat(SMALL, team=2, times=1000)


@pytest.mark.slow
@pytest.mark.parametrize("team", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_thousand_larger_runs_are_equal(dtype: torch.dtype, team: int) -> None:
    repeat(Dense(1, 150, 700, 4, 2, 32, with_dropout(CAUSAL), dtype), team, times=1000)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system has no /proc")
def test_the_threads_asked_for_are_used() -> None:
    """Or the tests above would compare one thread with itself. Nothing of torch is parallel at these sizes."""
    result = run_code(
        """
        import os
        import torch
        from test_cpu_threads import SMALL, Case

        def threads():
            return len(os.listdir("/proc/self/task"))

        case = Case(SMALL)
        case.run(1)
        before = threads()
        case.run(2, 1)
        after_forward = threads()
        case.run(1, 3)
        print(after_forward - before, threads() - after_forward)
        """,
        OMP_NUM_THREADS="1",
    )
    assert result.stdout.split() == ["1", "1"], result.stderr


def test_several_python_threads_at_once() -> None:
    torch.set_num_threads(2)
    cases = [Case(PROBLEMS[name]) for name in ("causal", "long keys, bfloat16", "packed, long keys", "dropout")]
    wanted = [case.run() for case in cases]
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(case.run) for _ in range(10) for case in cases]
    for i, future in enumerate(futures):
        assert equal(future.result(), wanted[i % len(cases)])


@pytest.mark.parametrize("step", ["forward", "backward"])
def test_other_python_threads_go_on_during_a_call(step: str) -> None:
    """A thread that counts needs the interpreter for every step; it is counted only inside the call."""
    torch.set_num_threads(1)
    case = Case(Dense(1, 4096, 4096, 2, 2, 64))
    out, _ = case.forward()
    steps, done = 0, threading.Event()

    def count() -> None:
        nonlocal steps
        while not done.is_set():
            steps += 1
            time.sleep(0.001)

    switch_interval = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    thread.start()
    try:
        sys.setswitchinterval(3600)  # nobody is made to give the interpreter up: the call must do so of its own accord
        before = steps
        if step == "forward":
            case.forward()
        else:
            gradients(out, case.dout, case.inputs)
        counted = steps - before
    finally:
        sys.setswitchinterval(switch_interval)
        done.set()
        thread.join()
    # Torch's own operators around the kernel let go of it a few times too.
    assert counted > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_the_same() -> None:
    """Of tensors so small that torch does not set threads to them, for torch's own would hang the child."""
    result = run_code(
        """
        import os, signal, warnings
        import torch
        from test_cpu_threads import SMALL, Case, Packed, equal
        warnings.simplefilter("ignore")  # newer Pythons warn of forking with threads, which is the point here

        torch.set_num_threads(2)
        torch.zeros(1 << 21).add_(1)
        cases = [Case(SMALL), Case(Packed((60, 3, 40), (300, 3, 50)))]
        wanted = [case.run() for case in cases]
        child = os.fork()
        if child == 0:
            signal.alarm(100)  # ends a child that waits for threads that only its parent has
            os._exit(0 if all(map(equal, [case.run() for case in cases], wanted)) else 3)
        status = os.waitpid(child, 0)[1]
        print("exit", os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status))
        print(all(map(equal, [case.run() for case in cases], wanted)))
        """,
        CUDA_VISIBLE_DEVICES="",  # autograd's own threads for GPUs do not survive a fork
    )
    assert result.stdout.split() == ["exit", "0", "True"], result.stderr
