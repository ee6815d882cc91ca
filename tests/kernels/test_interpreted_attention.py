"""The operator contract on the Triton kernels, in Triton's interpreter, which a process has or has not.

One process runs the chosen tests of tests/ops with TRITON_INTERPRET=1; here every one of them is asked for.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreted import OPS, outcomes
from interpreter import run_code, run_python
from ptx_emulator.toolchain import triton_version

pytestmark = pytest.mark.skipif(not triton_version(), reason="needs triton (the extra [triton])")

# Every feature once, on shapes that take a second or two; the rest of the contract is in the slow tier.
CHOSEN = (
    "test_lengths[17-31-True-dtype1",
    "test_lengths[129-127-True-dtype2",
    "test_head_dims[59-dtype1",
    "test_head_dims[128-dtype0",
    "test_heads[2-1-dtype0",
    "test_masks_against_loops[causal window-True",
    "test_masks_against_loops[left window-False",
    "test_dropout_and_lse_against_loops[window",
    "test_packed_sequences_against_loops[3-lengths_q2-lengths_k2-window-True",
    "test_packed_sequences_against_loops[0-lengths_q4-lengths_k4-full-False",
    "test_packed_lse[",
    "test_packed_and_right_padded_are_one[0.2-True",
    "test_the_kept_set_is_the_defined_one[dtype1",
    "test_masked_keys_reach_nothing[0.2-True-nan",
    "test_keys_that_the_window_hides_from_everybody_reach_nothing[nan",
    "test_packed_keys_that_nobody_sees_reach_nothing[window",
    "test_a_negative_scale_is_as_exact_as_a_positive_one[True-dtype1",
    "test_scale_zero_weighs_all_keys_alike[dtype2",
    "test_rows_that_see_no_key[nan",
    "test_batch_entries_without_keys[",
    "test_lse_of_rows_without_keys[",
    "test_empty_tensors[",
    "test_no_sequences_at_all[",
    "test_any_strides[a slice of a fused projection",
    "test_large_scores[",
    "test_lengths_that_lie_are_clamped[",
)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    file = str(OPS / "test_attention_contract.py")
    listing = run_python("-m", "pytest", "-q", "--collect-only", file, "-k", "triton", TRITON_INTERPRET="1").stdout
    ids = [line.rpartition("::")[2] for line in listing.splitlines() if line.endswith("triton-cpu]")]
    wanted = [f"{file}::{name}" for name in ids if name.startswith(CHOSEN)]
    return outcomes(tmp_path_factory.mktemp("interpreted"), *wanted, timeout=1200)


@pytest.mark.parametrize("name", CHOSEN)
def test_contract(interpreted: dict[str, str], name: str) -> None:
    found = {test: outcome for test, outcome in interpreted.items() if test.startswith(name)}
    assert found
    assert set(found.values()) == {"passed"}, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["test_attention_contract.py", "test_attention_random_problems.py", "test_attention_registration.py"]
)
def test_everything(tmp_path: Path, file: str) -> None:
    found = outcomes(tmp_path, str(OPS / file), "-k", "triton", timeout=4 * 3600)
    assert "passed" in found.values()
    wrong = {test: said for test, said in found.items() if said != "passed" and "cannot serve this call" not in said}
    assert not wrong


def test_compiles_whole_and_not_again(tmp_path: Path) -> None:
    chosen = "triton and test_compiles_whole_and_not_again and 0.1"
    found = outcomes(tmp_path, str(OPS / "test_attention_registration.py"), "-k", chosen, timeout=900)
    assert list(found.values()) == ["passed"], found


def test_dropout_masks_are_those_of_reference_and_cpu() -> None:
    """V one-hot over the keys, so that a zero in the output is a dropped weight; two heads, two sequences."""
    code = """
        import torch
        from fastbert.ops import attention, philox
        q, k = torch.randn(2, 40, 2, 64), torch.randn(2, 64, 2, 64)
        v = torch.eye(64)[None, :, None].expand(2, -1, 2, -1)
        rng = torch.tensor([-(2**62) - 5, 2**33 + 7])
        kept = {
            name: attention(q, k, v, scale=0.05, dropout_p=0.3, rng=rng, backend=name) != 0
            for name in ("reference", "cpu", "triton")
        }
        defined = philox.attention_bytes_in_torch(rng, 2, 2, 40, 64).transpose(1, 2) >= philox.threshold(0.3)
        print(*(torch.equal(mask, defined) for mask in kept.values()))
    """
    result = run_code(code, TRITON_INTERPRET="1")
    assert result.stdout.split() == ["True"] * 3, result.stderr


def test_a_tile_of_dropout_bytes() -> None:
    """Against the definition's own numbers, at an offset, for every threshold at once."""
    code = """
        import numpy as np, torch, triton, triton.language as tl
        from definition import attention_byte
        from fastbert.kernels.philox import kept_weights

        @triton.jit
        def count(rng, out, head_index, first_q, first_k):
            total = tl.zeros((32, 64), tl.int32)
            for t in range(1, 256):
                total += kept_weights(rng, head_index, first_q, first_k, t, 32, 64).to(tl.int32)
            tl.store(out + tl.arange(0, 32)[:, None] * 64 + tl.arange(0, 64)[None, :], total)

        out = torch.empty(32, 64, dtype=torch.int32)
        count[(1,)](torch.tensor([-987654321, 2**32 + 12]), out, 7, 48, 96)
        i, j = np.arange(48, 80)[:, None], np.arange(96, 160)[None, :]
        print(np.array_equal(out.numpy(), attention_byte(-987654321, 12, 7, i, j)))
    """
    result = run_code(code, TRITON_INTERPRET="1")
    assert result.stdout.split() == ["True"], result.stderr


def test_without_the_interpreter_cpu_tensors_are_declined() -> None:
    code = """
        import torch
        from fastbert.ops import attention
        q = torch.randn(1, 4, 2, 8)
        try:
            attention(q, q, q, backend="triton")
        except ValueError as error:
            print(error)
    """
    result = run_code(code, TRITON_INTERPRET="")
    assert "backend 'triton' cannot serve this call: it computes on GPUs, and the tensors are on cpu" in result.stdout
