"""The contract on every instruction set of this machine that is not the one in use.

Which set runs is decided once in a process, so each runs the contract's tests in an interpreter of its own.
"""

from __future__ import annotations

import pytest
from interpreter import TESTS, run_code, run_python

from fastbert import _C

LADDER = ("generic", "avx2", "avx512", "avx512_bf16", "amx")  # each includes those before it

# A few cases of everything that each set does in its own way: types, tiles and their edges, tails of head_dim, masks,
# dropout, packed sequences, rows without keys, poison, layouts, numbers beyond an exponential.
SAMPLE = (
    "test_lengths[1-1-",
    "test_lengths[97-113-",
    "test_lengths[200-257-",
    "test_head_dims[1-",
    "test_head_dims[59-",
    "test_head_dims[256-",
    "test_heads[16-4-",
    "test_masks_against_loops",
    "test_dropout_and_lse_against_loops",
    "test_packed_sequences_against_loops[0-lengths_q2",
    "test_packed_lse",
    "test_the_kept_set",
    "test_masked_keys_reach_nothing",
    "test_keys_that_the_window_hides",
    "test_scale_zero",
    "test_rows_that_see_no_key",
    "test_empty_tensors",
    "test_any_strides",
    "test_large_scores",
    "test_repeats_are_bitwise_equal",
    "test_lengths_that_lie",
)


def run_contract(instruction_set: str, cases: str, markers: str) -> str:
    """What pytest reports, case by case, where all of them passed."""
    if LADDER.index(instruction_set) > LADDER.index(_best()):
        pytest.skip(f"this machine has no {instruction_set}")
    if instruction_set == _C.instruction_set():
        pytest.skip(f"{instruction_set} is in use here: the contract's own tests cover it")
    file = str(TESTS / "ops" / "test_attention_contract.py")
    options = ("-v", "-p", "no:cacheprovider", "-k", cases, "-m", markers)
    result = run_python("-m", "pytest", *options, file, timeout=3600, FASTBERT_CPU_ISA=instruction_set)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    last_line = result.stdout.splitlines()[-1]
    assert " passed" in last_line
    assert "skipped" not in last_line
    return result.stdout


def _best() -> str:
    return run_code("from fastbert import _C; print(_C.instruction_set())", FASTBERT_CPU_ISA="").stdout.strip()


@pytest.mark.parametrize("instruction_set", LADDER)
def test_a_sample_of_the_contract(instruction_set: str) -> None:
    report = run_contract(instruction_set, f"cpu-cpu and ({' or '.join(SAMPLE)})", "not slow")
    assert not [name for name in SAMPLE if name not in report]


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", LADDER)
def test_the_whole_contract(instruction_set: str) -> None:
    run_contract(instruction_set, "cpu-cpu", "")
