"""The kernels for real targets: they compile, use matrix units, and stay within the budgets of kernels/README.md."""

from __future__ import annotations

import itertools
import os
import random
import re
from pathlib import Path

import pytest
from ptx_emulator.toolchain import triton_version

pytestmark = pytest.mark.skipif(
    not triton_version() or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs triton (the extra [triton]), and not its interpreter, to compile the kernels",
)

README = Path(__file__).resolve().parents[2] / "kernels" / "README.md"
KERNELS = ("forward", "backward_q", "backward_k")
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = ("bf16", "fp16", "fp32")
HEAD_DIMS = (16, 40, 64, 128, 256)
FEATURES = ("causal", "window", "dropout", "packed", "padding", "dlse")


def budgets() -> dict[tuple[str, str, int], tuple[int, int, int]]:
    """(target, type, head_dim) -> most registers, spilled bytes, shared bytes."""
    rows = re.findall(
        r"^\| (sm_\d+|gfx942) \| (\w+) \| up to (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", README.read_text(), re.M
    )
    return {(t, d, int(h)): (int(r), int(s), int(m)) for t, d, h, r, s, m in rows}


def sample() -> list[tuple[str, str, str, int, tuple[str, ...]]]:
    """A few cases in which every two values of different axes that can meet do so as often as chance allows."""
    generator = random.Random(20180611)
    cases = []
    kernels = itertools.cycle(KERNELS)
    for target, dtype in zip(TARGETS * 3, DTYPES * 4, strict=True):
        kernel, head_dim = next(kernels), generator.choice((16, 40, 64))
        cases.append((kernel, target, dtype, head_dim, features_of(kernel, generator)))
        if len(cases) % 4 == 0:
            next(kernels)
    return cases


def features_of(kernel: str, generator: random.Random) -> tuple[str, ...]:
    band = generator.choice(((), ("causal",), ("window",)))
    rows = generator.choice(((), ("packed",), ("padding",)))
    dlse = ("dlse",) if kernel == "backward_q" and generator.random() < 0.5 else ()
    return (*band, *(("dropout",) if generator.random() < 0.5 else ()), *rows, *dlse)


def check(kernel: str, target: str, dtype: str, head_dim: int, features: tuple[str, ...]) -> None:
    from attention_variants import Variant, compiled

    facts = compiled(Variant(kernel, target, dtype, head_dim, features))
    limit = next(h for h in (64, 128, 256) if head_dim <= h)
    registers, spilled, shared = budgets()[target, "fp32" if dtype == "fp32" else "16", limit]
    assert facts.registers <= registers
    assert facts.spilled <= spilled
    assert facts.shared <= shared
    assert facts.matrix == matrix_instruction(target, dtype)


def matrix_instruction(target: str, dtype: str) -> str:
    """What the target has for the type: NVIDIA's have nothing for float32 as it is."""
    if target == "gfx942":
        return "mfma"
    return "fma" if dtype == "fp32" else {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05"}[target]


@pytest.mark.parametrize(("kernel", "target", "dtype", "head_dim", "features"), sample(), ids=str)
def test_sample(kernel: str, target: str, dtype: str, head_dim: int, features: tuple[str, ...]) -> None:
    check(kernel, target, dtype, head_dim, features)


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_type_and_head_dim(kernel: str, target: str, dtype: str, head_dim: int) -> None:
    """Plain, and with what costs most."""
    for features in ((), ("causal", "dropout", "packed"), ("window", "dropout", "padding")):
        check(kernel, target, dtype, head_dim, features)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_feature(kernel: str, target: str) -> None:
    from attention_variants import feature_sets

    for features in feature_sets(kernel):
        check(kernel, target, "bf16", 64, features)
