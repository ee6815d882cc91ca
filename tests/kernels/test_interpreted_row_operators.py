"""The contracts of the operators around attention on their Triton kernels, in Triton's interpreter.

The tests are those of tests/ops: with TRITON_INTERPRET=1 these kernels serve tensors on the CPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreted import OPS, outcomes
from ptx_emulator.toolchain import triton_version

pytestmark = pytest.mark.skipif(not triton_version(), reason="needs triton (the extra [triton])")

# Every feature and type once; all of it is in the slow tier.
CHOSEN = {
    "test_bias_gelu.py": (
        "test_definition[dtype1-none]",
        "test_definition[dtype2-tanh]",
        "test_relative_accuracy_where_float32_has_digits",
        "test_extreme_numbers[none]",
        "test_extreme_numbers[tanh]",
        "test_strides",
        "test_registration[tanh]",
        "test_compiles_whole",
    ),
    "test_cross_entropy.py": (
        "test_definition[dtype1-sum]",
        "test_definition[dtype2-none]",
        "test_large_logits[10000.0]",
        "test_infinite_logits",
        "test_what_lies_in_ignored_rows_reaches_nothing",
        "test_nothing_to_predict",
        "test_another_ignore_index",
        "test_targets_that_are_no_class[beyond]",
        "test_registration[sum]",
        "test_compiles_whole[none]",
    ),
    "test_elementwise_dropout.py": (
        "test_definition_of_any_shape[dtype1-True]",
        "test_definition_of_any_shape[dtype0-False]",
        "test_the_mask_is_that_of_the_definition_in_torch",
        "test_the_sum_and_its_gradients",
        "test_a_dropped_nan_is_gone",
        "test_strides_and_empty_tensors",
        "test_the_sum_compiles_whole",
    ),
    "test_layer_norm.py": (
        "test_definition[dtype0-0.5-False]",
        "test_definition[dtype1-0.1-True]",
        "test_definition[dtype2-0.0-False]",
        "test_definition_of_rows_far_from_zero",
        "test_output_has_the_activations_type_and_the_sum_is_rounded_once",
        "test_a_dropped_nan_is_gone",
        "test_only_the_sum_is_used",
        "test_strides",
        "test_registration[26-True]",
        "test_compiles_whole[0.25-False]",
    ),
    "test_linear_cross_entropy.py": ("test_definition[dtype0-sum]", "test_ignored_rows_have_no_part"),
}
FILES = tuple(CHOSEN)


@pytest.mark.parametrize("file", FILES)
def test_contract(tmp_path: Path, file: str) -> None:
    found = outcomes(tmp_path, *(f"{OPS / file}::{name}" for name in CHOSEN[file]), timeout=600)
    assert {name: found.get(name) for name in CHOSEN[file]} == dict.fromkeys(CHOSEN[file], "passed")


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_everything(tmp_path: Path, file: str) -> None:
    found = outcomes(tmp_path, str(OPS / file), timeout=1800)
    assert "passed" in found.values()
    assert not {name: said for name, said in found.items() if said != "passed" and "one thread" not in said}
