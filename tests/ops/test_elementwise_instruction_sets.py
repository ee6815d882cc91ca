"""The fused operators' definitions once more, on every lower instruction set that this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastbert import _C

LADDER = ("generic", "avx2", "avx512", "avx512_bf16", "amx")
LOWER = LADDER[: LADDER.index(_C.instruction_set())]
FILES = [f"test_{name}.py" for name in ("layer_norm", "elementwise_dropout", "bias_gelu", "cross_entropy")]


@pytest.mark.parametrize("name", LOWER)
def test_definitions_hold(name: str) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "definition or logits or threads"]
    result = subprocess.run(
        [*command, *FILES],
        env=os.environ | {"FASTBERT_CPU_ISA": name},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
