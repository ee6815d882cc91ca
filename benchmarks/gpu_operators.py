"""What lies between the matrix products on this machine's GPU, beside torch's expressions eager and compiled.

    python benchmarks/gpu_operators.py --output results

Forward and backward together, bfloat16, on 16,384 tokens of BERT-base: milliseconds by CUDA events, and GB/s of the
bytes that must at least be read and written. JSON goes to <card>-operators.json, a table to the terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from gpu import Call, card_file, describe, in_turns, reason, repeats_of
from test_elementwise import OPERATORS, Operator, forward_backward

from fastbert.files import replaced

TOKENS, HIDDEN, INNER = 16384, 768, 3072
PREDICTED, VOCABULARY = 2048, 30522


def shape_of(name: str) -> tuple[int, int]:
    """(rows, columns) of an operator in BERT-base."""
    if "GELU" in name:
        return TOKENS, INNER
    return (PREDICTED, VOCABULARY) if "cross" in name else (TOKENS, HIDDEN)


def measure(operator: Operator, rows: int, columns: int) -> dict[str, float | str]:
    """Milliseconds of each side, in turns, medians; the reason where a side does not run."""
    with torch.device("cuda"):
        inputs = operator.inputs(rows, columns, torch.bfloat16)
    gradient = torch.randn_like(operator.torch(*inputs))
    sides = {"ours": operator.ours, "torch": operator.torch, "compiled": torch.compile(operator.torch)}
    found: dict[str, float | str] = {}
    calls: dict[str, tuple[Call, int]] = {}
    for name, side in sides.items():
        call: Call = partial(forward_backward, side, inputs, gradient)
        try:
            call()
            calls[name] = (call, repeats_of(call))
        except Exception as error:
            found[name] = reason(error)
    return found | {name: 1e3 * seconds for name, seconds in in_turns(calls).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all operators; write the JSON; print the table."""
    parser = argparse.ArgumentParser(description="what lies between the matrix products on this machine's GPU")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "results")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks/gpu_operators.py: torch sees no CUDA GPU, so there is nothing to measure", file=sys.stderr)
        return 2
    rows = []
    print(f"{'forward + backward, bf16':<38} {'shape':>14} {'ours ms':>9} {'GB/s':>6} {'torch':>7} {'compiled':>9}")
    for name, operator in OPERATORS.items():
        shape = shape_of(name)
        milliseconds = measure(operator, *shape)
        gigabytes = operator.passes * shape[0] * shape[1] * 2 / 1e9
        rows.append({"work": name, "shape": shape, "gigabytes": gigabytes, "milliseconds": milliseconds})
        mine = milliseconds["ours"]
        if isinstance(mine, str):
            print(f"{name:<38} failed: {mine}")
            continue
        ratios = [
            f"{value / mine:.2f}x" if isinstance(value, float) else "failed"
            for value in (milliseconds["torch"], milliseconds["compiled"])
        ]
        print(
            f"{name:<38} {shape[0]:>6} x {shape[1]:<5} {mine:9.3f} {1e3 * gigabytes / mine:6.0f} "
            f"{ratios[0]:>7} {ratios[1]:>9}"
        )
    machine = describe()
    chosen.output.mkdir(parents=True, exist_ok=True)
    with replaced(card_file(chosen.output, machine, "-operators")) as aside:
        aside.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
