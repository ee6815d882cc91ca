"""LayerNorm of the residual sum with dropout, against its definition in float64."""

from __future__ import annotations

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
    kept,
    leaves,
    rng,
)
from torch import Tensor

from fastbert.ops import dropout_add_layer_norm, extension, philox

NAMES = ("x", "residual", "weight", "bias")
SITE = 5
EPS = 1e-5


def inputs(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Outputs:
    x, residual = (torch.randn(rows, columns).to(dtype) for _ in range(2))
    return x, residual, 1 + torch.randn(columns) / 4, torch.randn(columns)


def operator(p: float, return_sum: bool, eps: float = EPS) -> Any:
    def run(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
        random = rng() if p else None
        found = dropout_add_layer_norm(
            x, residual, weight, bias, p=p, rng=random, site=SITE, eps=eps, return_sum=return_sum
        )
        return found if isinstance(found, tuple) else (found,)

    return run


def expression(p: float, return_sum: bool, eps: float = EPS) -> Any:
    def run(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
        branch = x
        if p:
            t = philox.threshold(p)
            branch = torch.where(kept(*x.shape, SITE, t), x * (256 / (256 - t)), 0)
        total = residual + branch
        out = F.layer_norm(total, weight.shape, weight, bias, eps)
        return (out, total) if return_sum else (out,)

    return run


@pytest.mark.parametrize("return_sum", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_definition(seed: int, dtype: torch.dtype, p: float, return_sum: bool) -> None:
    for rows, columns in SHAPES:
        # Of one column the exact gradient is 0: what is left of rounding is scaled up by 1 / sqrt(eps).
        floor = 1e-5 if columns == 1 else None
        compare(operator(p, return_sum), expression(p, return_sum), inputs(rows, columns, dtype), NAMES, floor)


def test_definition_of_rows_far_from_zero(seed: int) -> None:
    x, residual, weight, bias = inputs(9, 384)
    compare(operator(0.0, False), expression(0.0, False), (x, residual + 300, weight, bias), NAMES)


def test_definition_of_berts_epsilon(seed: int) -> None:
    compare(operator(0.1, False, 1e-12), expression(0.1, False, 1e-12), inputs(33, 100), NAMES)


def test_output_has_the_activations_type_and_the_sum_is_rounded_once(seed: int) -> None:
    x, residual, weight, bias = inputs(7, 48, torch.bfloat16)
    out, total = dropout_add_layer_norm(x, residual, weight, bias, eps=EPS, return_sum=True)
    assert out.dtype == total.dtype == torch.bfloat16
    assert torch.equal(total, (x.float() + residual.float()).bfloat16())
    zero = torch.zeros_like(total)
    assert torch.equal(out, dropout_add_layer_norm(zero, total, weight, bias, eps=EPS))


def test_everything_dropped(seed: int) -> None:
    x, residual, weight, bias = inputs(4, 20)
    (x,) = leaves(x * torch.inf)
    out = dropout_add_layer_norm(x, residual, weight, bias, eps=EPS, p=1.0)
    torch.testing.assert_close(out, F.layer_norm(residual, (20,), weight, bias, EPS))
    assert torch.autograd.grad(out.sum(), x)[0].eq(0).all()


def test_a_dropped_nan_is_gone(seed: int) -> None:
    x, residual, weight, bias = inputs(4, 16)
    keep = kept(4, 16, SITE, 128)
    (out,) = operator(0.5, False)(x.masked_fill(~keep, torch.nan), residual, weight, bias)
    assert out.isfinite().all()
    (out,) = operator(0.5, False)(x.masked_fill(keep, torch.nan), residual, weight, bias)
    assert torch.equal(out.isnan().all(1), keep.any(1))


def test_only_the_sum_is_used(seed: int) -> None:
    x, residual, weight, bias = leaves(*inputs(5, 24))
    _, total = operator(0.5, True)(x, residual, weight, bias)
    dx, dresidual = torch.autograd.grad(total.sum(), (x, residual))
    assert torch.equal(dx, torch.where(kept(5, 24, SITE, 128), 2.0, 0.0))
    assert dresidual.eq(1).all()


def test_drawn_rng_obeys_manual_seed() -> None:
    arguments = inputs(8, 16)
    torch.manual_seed(3)
    first = dropout_add_layer_norm(*arguments, eps=EPS, p=0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout_add_layer_norm(*arguments, eps=EPS, p=0.5), first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads(seed: int, dtype: torch.dtype) -> None:
    for p in (0.0, 0.1):
        for return_sum in (False, True):
            assert_equal_for_any_thread_count(operator(p, return_sum), *inputs(1000, 300, dtype))


def test_strides(seed: int) -> None:
    x, residual, weight, bias = inputs(7, 36)
    assert_strides_do_not_matter(lambda a, b: operator(0.3, True)(a, b, weight, bias), x, residual)
    run = operator(0.3, False)
    strided = [torch.stack((v, v), dim=1)[:, 0] for v in (weight, bias)]
    assert torch.equal(run(x, residual, *strided)[0], run(x, residual, weight, bias)[0])
    leaf = leaves(x, residual, weight, bias)
    (out,) = run(*leaf)
    expanded = torch.autograd.grad(out.sum(), leaf, retain_graph=True)
    ones = torch.autograd.grad(out, leaf, torch.ones_like(out))
    assert all(torch.equal(a, b) for a, b in zip(expanded, ones, strict=True))


def test_float64_and_low_precision_parameters_take_the_plain_way(seed: int) -> None:
    wide = tuple(x.double() for x in inputs(3, 20))
    torch.testing.assert_close(dropout_add_layer_norm(*wide, eps=EPS), expression(0.0, False)(*wide)[0])
    narrow = tuple(x.bfloat16() for x in inputs(3, 20))
    out = dropout_add_layer_norm(*narrow, eps=EPS, p=0.5, rng=rng(), site=SITE)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out.double(), expression(0.5, False)(*(x.double() for x in narrow))[0], rtol=2e-2, atol=5e-2
    )


def test_without_the_extension_the_definition_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = inputs(6, 40)
    found = operator(0.5, True)(*arguments)
    monkeypatch.setattr(extension, "compiled", None)
    for a, b in zip(operator(0.5, True)(*arguments), found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_no_gradient_is_recorded_where_none_is_wanted(seed: int) -> None:
    arguments = leaves(*inputs(3, 16))
    with torch.no_grad():
        assert not dropout_add_layer_norm(*arguments, eps=EPS).requires_grad
    assert not dropout_add_layer_norm(*(x.detach() for x in arguments), eps=EPS).requires_grad


def test_functorch(seed: int) -> None:
    x, *rest = inputs(3, 16)
    (out,), pull = torch.func.vjp(lambda v: operator(0.0, False)(v, *rest), x)
    (expected,), pull_expected = torch.func.vjp(lambda v: expression(0.0, False)(v, *rest), x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(pull((torch.ones_like(out),)), pull_expected((torch.ones_like(out),)))


def test_second_derivatives_are_refused(seed: int) -> None:
    assert_no_second_derivatives(operator(0.1, False), *inputs(3, 16))


@pytest.mark.parametrize("return_sum", [False, True])
@pytest.mark.parametrize("threshold", [0, 26])
def test_registration(seed: int, threshold: int, return_sum: bool) -> None:
    arguments = leaves(*inputs(5, 20))
    random = rng() if threshold else None
    forward = (*arguments, random, SITE, threshold, EPS, return_sum)
    torch.library.opcheck(torch.ops.fastbert.dropout_add_layer_norm.default, forward)
    x, residual, weight, _ = (v.detach() for v in arguments)
    _, total, statistics = torch.ops.fastbert.dropout_add_layer_norm(*forward)
    saved = (None, None, total.detach()) if return_sum else (x, residual, None)
    dout = torch.randn(5, 20)
    backward = (dout, dout if return_sum else None, *saved, weight, statistics.detach(), random, SITE, threshold)
    torch.library.opcheck(torch.ops.fastbert.dropout_add_layer_norm_backward.default, backward)


@pytest.mark.parametrize("return_sum", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_compiles_whole(seed: int, p: float, return_sum: bool) -> None:
    weight, bias = torch.randn(16), torch.randn(16)
    random = rng()

    def step(x: Tensor, residual: Tensor) -> Outputs:
        found = dropout_add_layer_norm(
            torch.relu(x), residual, weight, bias, p=p, rng=random, site=SITE, eps=EPS, return_sum=return_sum
        )
        return found if isinstance(found, tuple) else (found,)

    assert_compiles_whole(step, lambda rows: (torch.randn(rows, 16), torch.randn(rows, 16)))


ONES, VECTOR = torch.ones(2, 3), torch.ones(3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], ONES, VECTOR, VECTOR), {}, TypeError, "x is a list"),
        ((torch.ones(3), ONES, VECTOR, VECTOR), {}, ValueError, r"x has shape \(3,\)"),
        ((torch.ones(2, 0), torch.ones(2, 0), VECTOR, VECTOR), {}, ValueError, r"x has shape \(2, 0\)"),
        ((ONES.int(), ONES.int(), VECTOR, VECTOR), {}, TypeError, "x is torch.int32"),
        ((ONES, ONES.half(), VECTOR, VECTOR), {}, TypeError, "residual is torch.float16; it must be torch.float32"),
        ((ONES, torch.ones(3, 3), VECTOR, VECTOR), {}, ValueError, r"residual has shape \(3, 3\)"),
        ((ONES, ONES.to("meta"), VECTOR, VECTOR), {}, ValueError, "residual is on meta"),
        ((ONES, ONES, torch.ones(4), VECTOR), {}, ValueError, r"weight has shape \(4,\); it must be \(3,\)"),
        ((ONES, ONES, VECTOR, VECTOR.int()), {}, TypeError, "bias is torch.int32"),
        ((ONES, ONES, VECTOR, None), {}, TypeError, "bias is a NoneType"),
        ((ONES, ONES, VECTOR.to("meta"), VECTOR), {}, ValueError, "weight is on meta"),
        ((ONES, ONES, VECTOR, VECTOR), {"p": 1.5}, ValueError, "probability is 1.5"),
        ((ONES, ONES, VECTOR, VECTOR), {"p": 0.5, "site": -1}, ValueError, "site is -1"),
        ((ONES, ONES, VECTOR, VECTOR), {"p": 0.5, "rng": torch.zeros(2)}, TypeError, "rng is torch.float32"),
        ((ONES.double(), ONES.double(), VECTOR, VECTOR), {"p": 0.5}, TypeError, "x is torch.float64"),
    ],
)
def test_errors(arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dropout_add_layer_norm(*arguments, eps=EPS, **options)
