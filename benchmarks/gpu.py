"""Attention on this machine's GPU beside every peer that runs: TFLOP/s by CUDA events, JSON and a short table.

    python benchmarks/gpu.py --output results --seconds 180

Peers: torch's scaled_dot_product_attention with its flash, memory-efficient and cuDNN kernels, FlexAttention, torch's
varlen_attn and, where installed, flash-attn, each in the layout that it likes best. Before a side is timed, free
memory is filled with NaN, so that whatever it did not write shows, and its result is compared with the definition in
float32 on the same numbers. A side that fails or differs is listed with its reason; the others go on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_problems import TOKENS, WIDTH, Problem, expected, flop, lengths_of, operands, problems
from gpu_sides import OURS, Side, sides, version
from torch import Tensor

from fastbert.files import replaced
from fastbert.ops import available_backends

ROUNDS, SECONDS_A_ROUND = 7, 0.006
LONGEST_CHECKED = 4096  # the definition holds the matrix of scores
TOLERANCE = 2e-2  # the norm of the difference, of the result's

Call = Callable[[], Any]


@dataclass
class Row:
    """What was measured: TFLOP/s of useful work by side, and why a side has none."""

    problem: Problem
    teraflops: dict[str, float] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def poison() -> None:
    """Fill the memory that the next results will come from with NaN."""
    free = [torch.full((64 * 2**20,), torch.nan, device="cuda", dtype=torch.bfloat16) for _ in range(8)]
    del free


def check(problem: Problem, side: Side, result: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """ValueError where a side left something unwritten or computed something else."""
    n = lengths_of(problem)[0]
    for found, exact in zip(result, wanted, strict=True):
        if not bool(found.isfinite().all()):
            raise ValueError("its result is not finite")
        mine = (found.transpose(1, 2) if side.heads_first else found)[(slice(0, n),) if problem.packed else (0,)]
        error = float(torch.linalg.vector_norm(mine.float() - exact) / torch.linalg.vector_norm(exact))
        if problem.dropout_p == 0 and error > TOLERANCE:
            raise ValueError(f"its result differs by {error:.2g} of the norm")


def call_of(problem: Problem, side: Side) -> tuple[Call, Call]:
    """What is timed, and the same returning a list of tensors."""
    x = operands(problem, side.heads_first)
    if not problem.backward:
        return partial(side.run, problem, x), lambda: [side.run(problem, x)]
    out = side.run(problem, x)

    def backward() -> Sequence[Tensor]:
        return torch.autograd.grad(out, (x.q, x.k, x.v), x.dout, retain_graph=True)

    return backward, backward


def seconds_of(call: Call, repeats: int) -> float:
    """Of one call, by CUDA events around several."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / repeats / 1e3


def repeats_of(call: Call) -> int:
    """How often it runs in a round."""
    return max(1, int(SECONDS_A_ROUND / seconds_of(call, 3)))


def in_turns(calls: Mapping[str, tuple[Call, int]]) -> dict[str, float]:
    """Seconds of calls that are repeated so often a round: medians over rounds in which they take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (call, repeats) in calls.items():
            times[name].append(seconds_of(call, repeats))
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def reason(error: Exception) -> str:
    """Why a side does not run, in a line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:150]}"


def measure(problem: Problem) -> Row:
    """All sides of one row, in turns, each round a few milliseconds long; medians."""
    row, calls = Row(problem), {}
    wanted = expected(problem) if problem.seq <= LONGEST_CHECKED else None
    for side in sides(problem):
        try:
            call, tensors = call_of(problem, side)
            poison()
            if wanted is not None:
                check(problem, side, tensors(), wanted)
            else:
                tensors()
            calls[side.name] = (call, repeats_of(call))
        except Exception as error:
            row.failed[side.name] = reason(error)
    for name, median in in_turns(calls).items():
        row.milliseconds[name] = 1e3 * median
        row.teraflops[name] = flop(problem) / median / 1e12
    return row


def table(rows: Sequence[Row], missing: Sequence[Problem]) -> str:
    """One line a row: TFLOP/s of every side, and ours beside the best peer."""
    names = list(dict.fromkeys(name for row in rows for name in row.teraflops))
    width = max((len(str(row.problem)) for row in rows), default=3)
    lines = [f"{'TFLOP/s':<{width}} " + " ".join(f"{name:>12}" for name in names) + "  ours / best peer"]
    for row in rows:
        cells = [f"{row.teraflops[name]:12.0f}" if name in row.teraflops else " " * 11 + "-" for name in names]
        mine = max((row.teraflops.get(name, 0.0) for name in OURS), default=0.0)
        best = max((speed for name, speed in row.teraflops.items() if name not in OURS), default=0.0)
        ratio = f"{mine / best:.2f}" if mine and best else "-"
        lines.append(f"{row.problem!s:<{width}} {' '.join(cells)}  {ratio:>5}")
    reasons = dict.fromkeys(f"{name}: {reason}" for row in rows for name, reason in row.failed.items())
    lines += [f"failed: {reason}" for reason in itertools.islice(reasons, 12)]
    if missing:
        lines.append(f"not measured, out of time: {len(missing)} rows, the first {missing[0]}")
    return "\n".join(lines)


def describe() -> dict[str, Any]:
    """The card and the software, as JSON can hold them."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "versions": {name: version(name) for name in ("triton", "flash-attn", "fastbert-kernels")},
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "backends": available_backends("cuda"),
    }


def card_file(folder: Path, machine: dict[str, Any], what: str = "") -> Path:
    """Where a card's results go."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", machine["card"].lower()).strip("-") + what + ".json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure until the time is over; write <card>.json; print the table."""
    parser = argparse.ArgumentParser(description="attention on this machine's GPU beside its peers")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results")
    parser.add_argument("--seconds", type=float, default=180.0, help="after which no further row is begun")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py: torch sees no CUDA GPU on this machine, so there is nothing to measure", file=sys.stderr
        )
        return 2
    end = time.monotonic() + chosen.seconds
    rows, missing = [], []
    for problem in problems():
        if time.monotonic() > end:
            missing.append(problem)
            continue
        rows.append(measure(problem))
        print(f"{problem}: {', '.join(f'{name} {speed:.0f}' for name, speed in rows[-1].teraflops.items())}")
    machine = describe()
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = card_file(chosen.output, machine)
    content = {"machine": machine, "rows": [asdict(row) for row in rows], "not_measured": [str(p) for p in missing]}
    with replaced(path) as aside:
        aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"{machine['card']}, {machine['torch']}, bf16, {TOKENS} tokens x {WIDTH}; written to {path}")
    print(table(rows, missing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
