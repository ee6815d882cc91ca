"""GELU of a biased sum, against its definition in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused import (
    DTYPES,
    SHAPES,
    Outputs,
    assert_compiles_whole,
    assert_equal_for_any_thread_count,
    assert_no_second_derivatives,
    assert_strides_do_not_matter,
    compare,
    leaves,
)
from torch import Tensor

from fastbert.ops import bias_gelu, extension

APPROXIMATIONS = ("none", "tanh")


def operator(approximate: str) -> Any:
    return lambda x, bias: (bias_gelu(x, bias, approximate=approximate),)


def expression(approximate: str) -> Any:
    return lambda x, bias: (F.gelu(x + bias.to(x.dtype), approximate=approximate),)


def inputs(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Outputs:
    return (2 * torch.randn(rows, columns)).to(dtype), torch.randn(columns)


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_definition(seed: int, dtype: torch.dtype, approximate: str) -> None:
    for rows, columns in SHAPES:
        compare(operator(approximate), expression(approximate), inputs(rows, columns, dtype), ("x", "bias"))


def normal_distribution(y: float) -> float:
    return math.erfc(-y / math.sqrt(2)) / 2


def test_relative_accuracy_where_float32_has_digits() -> None:
    """Phi by Python's erfc: also in the tail, where 1 + erf would leave nothing."""
    y = torch.cat((torch.linspace(-12, 12, 9601), torch.tensor([1e-30, -1e-30, 0.0])))
    exact = torch.tensor([v * normal_distribution(v) for v in y.tolist()], dtype=torch.float64)
    found = bias_gelu(y[None], torch.zeros(y.numel()))[0].double()
    error = (found - exact).abs() / exact.abs().clamp(min=1e-37)
    assert error[y.abs() <= 3].max() < 1e-6
    assert error.max() < 1e-5  # beyond, the rounding of y * y is multiplied by y * y / 2
    slope = torch.tensor(
        [normal_distribution(v) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in y.tolist()],
        dtype=torch.float64,
    )
    (leaf,) = leaves(y[None])
    (dx,) = torch.autograd.grad(bias_gelu(leaf, torch.zeros(y.numel())).sum(), leaf)
    assert (dx[0].double() - slope).abs().max() < 3e-7


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_extreme_numbers(approximate: str) -> None:
    x = torch.tensor([[1e38, -1e38, 200.0, -200.0, 65504.0, -65504.0, torch.inf, torch.nan]]).requires_grad_()
    out = bias_gelu(x, torch.zeros(8), approximate=approximate)
    (dx,) = torch.autograd.grad(out.sum(), x)
    assert out[0, :7:2].tolist() == x[0, :7:2].tolist()
    assert out[0, 1:6:2].abs().max() <= 1e-30
    assert dx[0, 2:6].tolist() == [1, 0, 1, 0]
    assert out[0, 7].isnan()
    assert dx[0, 7].isnan()


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads(seed: int, dtype: torch.dtype, approximate: str) -> None:
    assert_equal_for_any_thread_count(operator(approximate), *inputs(1000, 300, dtype))


def test_strides(seed: int) -> None:
    x, bias = inputs(7, 36)
    assert_strides_do_not_matter(lambda a: (bias_gelu(a, bias),), x)
    assert torch.equal(bias_gelu(x, torch.stack((bias, bias), dim=1)[:, 0]), bias_gelu(x, bias))
    leaf = leaves(x, bias)
    out = bias_gelu(*leaf)
    expanded = torch.autograd.grad(out.sum(), leaf, retain_graph=True)
    ones = torch.autograd.grad(out, leaf, torch.ones_like(out))
    assert all(torch.equal(a, b) for a, b in zip(expanded, ones, strict=True))


def test_float64_takes_the_plain_way(seed: int) -> None:
    x, bias = (v.double() for v in inputs(3, 20))
    assert torch.equal(bias_gelu(x, bias), F.gelu(x + bias))


def test_without_the_extension_the_definition_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = inputs(6, 40)
    found = bias_gelu(*arguments)
    monkeypatch.setattr(extension, "compiled", None)
    torch.testing.assert_close(bias_gelu(*arguments), found, rtol=1e-6, atol=1e-6)


def test_second_derivatives_are_refused(seed: int) -> None:
    assert_no_second_derivatives(operator("none"), *inputs(3, 16))


@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_registration(seed: int, approximate: str) -> None:
    x, bias = leaves(*inputs(5, 20))
    torch.library.opcheck(torch.ops.fastbert.bias_gelu.default, (x, bias, approximate))
    backward = (torch.randn(5, 20), x.detach(), bias.detach(), approximate)
    torch.library.opcheck(torch.ops.fastbert.bias_gelu_backward.default, backward)


def test_compiles_whole(seed: int) -> None:
    def step(x: Tensor, bias: Tensor) -> Outputs:
        return (bias_gelu(torch.relu(x), bias, approximate="tanh"),)

    assert_compiles_whole(step, lambda rows: (torch.randn(rows, 16), torch.randn(16)))


@pytest.mark.parametrize(
    ("x", "bias", "approximate", "error", "message"),
    [
        (None, torch.ones(3), "none", TypeError, "x is a NoneType"),
        (torch.ones(2, 2, 3), torch.ones(3), "none", ValueError, r"x has shape \(2, 2, 3\)"),
        (torch.ones(2, 3), torch.ones(2), "none", ValueError, r"bias has shape \(2,\); it must be \(3,\)"),
        (torch.ones(2, 3), torch.ones(3, dtype=torch.int64), "none", TypeError, "bias is torch.int64"),
        (torch.ones(2, 3), torch.ones(3, device="meta"), "none", ValueError, "bias is on meta but x is on cpu"),
        (torch.ones(2, 3), torch.ones(3), "erf", ValueError, "approximate is 'erf'"),
    ],
)
def test_errors(x: Tensor, bias: Tensor, approximate: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bias_gelu(x, bias, approximate=approximate)
