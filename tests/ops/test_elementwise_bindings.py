"""What the extension's element-wise kernels refuse, so that no wrong call reaches memory."""

from __future__ import annotations

from typing import Any

import pytest

from fastbert import _C

BUFFER = 8  # an address that nobody reads: each call fails before


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (_C.dropout_add, ("float64", 1, 1, BUFFER, 0, BUFFER, 26, BUFFER, 0, 1), "dtype is 'float64'"),
        (_C.dropout_add, ("float32", 1, 0, BUFFER, 0, BUFFER, 26, BUFFER, 0, 1), "columns is 0: allowed are 1 to"),
        (_C.dropout_add, ("float32", -1, 1, BUFFER, 0, BUFFER, 26, BUFFER, 0, 1), "rows is -1"),
        (_C.dropout_add, ("float32", 1, 1, 0, 0, BUFFER, 26, BUFFER, 0, 1), "a pointer is null"),
        (_C.dropout_add, ("float32", 1, 1, BUFFER, 0, BUFFER, 0, BUFFER, 0, 1), "threshold is 0: allowed are 1 to 255"),
        (_C.dropout_add, ("float32", 1, 1, BUFFER, 0, BUFFER, 26, 0, 0, 1), "dropout needs an rng"),
        (_C.dropout_add, ("float32", 1, 1, BUFFER, 0, BUFFER, 26, BUFFER, 2**31, 1), "site is 2147483648: allowed"),
        (_C.dropout_add, ("float32", 1, 1, BUFFER, 0, BUFFER, 26, BUFFER, 0, 0), "num_threads is 0"),
        (
            _C.layer_norm_forward,
            ("float32", 2, 3, *[BUFFER] * 4, 1e-5, *[BUFFER] * 4, 256, BUFFER, 0, 1),
            "threshold is 256: allowed are 0 to 255",
        ),
        (
            _C.layer_norm_backward,
            ("float32", 2, 3, BUFFER, 0, 0, 0, 0, *[BUFFER] * 7, 0, 0, 0, 1),
            "a pointer is null",
        ),
        (_C.bias_gelu_forward, ("float32", False, 2, 3, BUFFER, 0, BUFFER, 1), "a pointer is null"),
        (_C.bias_gelu_backward, ("half", True, 2, 3, *[BUFFER] * 5, 1), "dtype is 'half'"),
        (
            _C.cross_entropy_backward,
            ("float32", 0, 3, 0, 2, 0, 0, -100, 0, 0, 0, 1),
            "dlosses_stride is 2: allowed are 0 to 1",
        ),
    ],
)
def test_wrong_calls(call: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*arguments)


def test_empty_arrays_need_no_addresses() -> None:
    _C.layer_norm_forward("float32", 0, 3, 0, 0, 0, 0, 1e-5, 0, 0, 0, 0, 0, 0, 0, 1)
    _C.bias_gelu_forward("float16", True, 0, 3, 0, 0, 0, 1)
