"""The kernels over rows for real targets: they compile, and stay within the budgets of kernels/README.md."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from ptx_emulator.toolchain import triton_version

pytestmark = pytest.mark.skipif(
    not triton_version() or os.environ.get("TRITON_INTERPRET") == "1",
    reason="needs triton (the extra [triton]), and not its interpreter, to compile the kernels",
)

README = Path(__file__).resolve().parents[2] / "kernels" / "README.md"
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
KERNELS = (
    "dropout_add",
    "bias_gelu_forward",
    "bias_gelu_backward",
    "layer_norm_forward",
    "layer_norm_backward",
    "cross_entropy_forward",
    "cross_entropy_backward",
)


def budget(kernel: str, columns: int) -> tuple[int, int, int]:
    """Most registers, spilled bytes, shared bytes, for every target."""
    rows = re.findall(rf"^\| {kernel} \| up to (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", README.read_text(), re.M)
    return next((int(r), int(s), int(m)) for widest, r, s, m in rows if columns <= int(widest))


def check(kernel: str, target: str, dtype: str, columns: int, features: tuple[str, ...]) -> None:
    from row_variants import RowVariant, compiled

    facts = compiled(RowVariant(kernel, target, dtype, columns, features))
    registers, spilled, shared = budget(kernel, columns)
    assert facts.registers <= registers
    assert facts.spilled <= spilled
    assert facts.shared <= shared


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_features_at_berts_width(kernel: str, target: str) -> None:
    from row_variants import feature_sets

    check(kernel, target, "bf16", 768, feature_sets(kernel)[-1])


@pytest.mark.parametrize("kernel", [x for x in KERNELS if not x.startswith("cross_entropy")])
def test_rows_are_read_16_bytes_at_a_time(kernel: str) -> None:
    from row_variants import RowVariant, compiled, feature_sets

    code = compiled(RowVariant(kernel, "sm_90", "bf16", 768, feature_sets(kernel)[-1])).code
    assert "ld.global.v4.b32" in code
    assert "st.global.v4.b32" in code
    assert "ld.global.b16" not in code


def test_one_random_call_serves_16_elements() -> None:
    """Seven rounds of two products of 32 bits each, once for the 16 elements of a thread."""
    from row_variants import RowVariant, compiled

    code = compiled(RowVariant("dropout_add", "sm_90", "bf16", 768, ("residual",))).code
    assert code.count("mul.hi.u32") == 14


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_everything(kernel: str, target: str, dtype: str) -> None:
    from row_variants import feature_sets

    for columns in (1, 100, 768, 1024, 4096, 16384, 50257):
        if columns <= 16384 or not kernel.startswith("layer_norm"):
            for features in feature_sets(kernel):
                check(kernel, target, dtype, columns, features)
