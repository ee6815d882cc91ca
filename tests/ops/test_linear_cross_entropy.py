"""Cross entropy of a linear layer without its logits, against its definition in float64."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fused import (
    DTYPES,
    Outputs,
    assert_compiles_whole,
    assert_no_second_derivatives,
    compare,
    leaves,
    plain_cross_entropy,
    some_targets,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastbert.ops import cross_entropy, linear_cross_entropy, triton_runtime

NAMES = ("x", "weight", "bias")
REDUCTIONS = ("sum", "none")
MODULE = importlib.import_module("fastbert.ops.linear_cross_entropy")  # the package's attribute is the function


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that 300 rows are three chunks, the last one smaller."""
    monkeypatch.setattr(MODULE, "_LOGITS_BYTES", 1)


def inputs(rows: int, columns: int, classes: int, dtype: torch.dtype = torch.float32) -> Outputs:
    return tuple(torch.randn(shape).to(dtype) for shape in ((rows, columns), (classes, columns), (classes,)))


def operator(targets: Tensor, reduction: Any) -> Any:
    return lambda x, weight, bias=None: (linear_cross_entropy(x, weight, bias, targets, reduction=reduction),)


def expression(targets: Tensor, reduction: str) -> Any:
    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Outputs:
        return (plain_cross_entropy(F.linear(x, weight, bias), targets, reduction),)

    return run


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_definition(seed: int, dtype: torch.dtype, reduction: str) -> None:
    for rows, columns, classes in ((0, 8, 5), (1, 16, 1), (128, 24, 100), (300, 33, 1000)):
        targets, given = some_targets(rows, classes), inputs(rows, columns, classes, dtype)
        compare(operator(targets, reduction), expression(targets, reduction), given, NAMES)
        compare(operator(targets, reduction), expression(targets, reduction), given[:2], NAMES[:2])


def test_many_chunks_lose_no_digits_of_the_weights_gradient(seed: int) -> None:
    """Where every row adds alike, sums of bfloat16 would stop growing at 256."""
    x, weight = torch.ones(128 * 600, 2, dtype=torch.bfloat16), torch.zeros(2, 2, dtype=torch.bfloat16)
    (leaf,) = leaves(weight)
    loss = linear_cross_entropy(x, leaf, None, torch.zeros(x.shape[0], dtype=torch.int64))
    (found,) = torch.autograd.grad(loss, leaf)
    assert found.tolist() == [[-38400.0] * 2, [38400.0] * 2]


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor had that anything returned."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, Tensor):
                self.numbers = max(self.numbers, x.numel())
        return found


def test_the_logits_never_exist() -> None:
    x, weight, _ = leaves(*inputs(1024, 4, 500))
    targets = some_targets(1024, 500)
    loss = linear_cross_entropy(x, weight, None, targets)
    with Largest() as forward, torch.no_grad():
        _, statistics = MODULE._forward(x, weight, None, targets, -100, "sum")
    with Largest() as backward, torch.no_grad():
        MODULE._backward(torch.ones(()), x, weight, None, targets, statistics, -100, "sum")
    assert forward.numbers == backward.numbers == 128 * 500
    torch.testing.assert_close(loss, cross_entropy(F.linear(x, weight), targets))


def test_ignored_rows_have_no_part(seed: int) -> None:
    x, weight, bias = inputs(9, 8, 6)
    targets = some_targets(9, 6)
    x[::3] = 1e30
    given = leaves(x, weight, bias)
    loss = linear_cross_entropy(*given, targets)
    dx, dweight, dbias = torch.autograd.grad(loss, given)
    kept = [v.detach() for v in given[1:]]
    others = leaves(x[targets >= 0], *kept)
    expected = linear_cross_entropy(*others, targets[targets >= 0])
    wanted = torch.autograd.grad(expected, others)
    torch.testing.assert_close(loss, expected)
    assert dx[::3].eq(0).all()
    torch.testing.assert_close((dweight, dbias), wanted[1:])


def test_autocast_multiplies_in_its_type(seed: int) -> None:
    x, weight, bias = leaves(*inputs(130, 16, 50))
    targets = some_targets(130, 50)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(x, weight, bias, targets)
        wanted = cross_entropy(F.linear(x, weight, bias), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    for a, b in zip(*(torch.autograd.grad(y, (x, weight, bias)) for y in (found, wanted)), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_a_backward_under_autocast_that_the_forward_did_not_have(seed: int) -> None:
    leaf = leaves(*inputs(130, 16, 50))
    targets = some_targets(130, 50)
    wanted = torch.autograd.grad(linear_cross_entropy(*leaf, targets), leaf)
    loss = linear_cross_entropy(*leaf, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss, leaf)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.skipif(triton_runtime.INTERPRETING, reason="GPUs, whose numbers nobody waits for, answer NaN")
def test_a_target_that_is_no_class_is_named_by_its_place_among_all(seed: int) -> None:
    targets = some_targets(300, 7)
    targets[290] = 7
    with pytest.raises(ValueError, match=r"targets\[290\] is 7; it must be -100 \(ignored\) or a class below 7"):
        linear_cross_entropy(torch.ones(300, 4), torch.ones(7, 4), None, targets)


def test_float64_takes_the_plain_way(seed: int) -> None:
    given = [v.double() for v in inputs(7, 5, 4)]
    targets = some_targets(7, 4)
    found = linear_cross_entropy(*given, targets, reduction="none")
    assert torch.equal(found, F.cross_entropy(F.linear(*given), targets, reduction="none"))


def test_second_derivatives_are_refused(seed: int) -> None:
    assert_no_second_derivatives(operator(some_targets(4, 5), "sum"), *inputs(4, 8, 5))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_registration(seed: int, reduction: str, biased: bool) -> None:
    x, weight, bias = leaves(*inputs(140, 8, 20))
    targets = some_targets(140, 20)
    forward = (x, weight, bias if biased else None, targets, -100, reduction)
    torch.library.opcheck(torch.ops.fastbert.linear_cross_entropy.default, forward)
    loss, statistics = torch.ops.fastbert.linear_cross_entropy(*forward)
    given = [None if v is None else v.detach() for v in forward[:3]]
    backward = (torch.randn(loss.shape), *given, targets, statistics.detach(), -100, reduction)
    torch.library.opcheck(torch.ops.fastbert.linear_cross_entropy_backward.default, backward)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_compiles_whole(seed: int, reduction: Any) -> None:
    def step(x: Tensor, weight: Tensor) -> Outputs:
        targets = torch.arange(x.shape[0]) % 16
        return (linear_cross_entropy(2 * x, weight, None, targets, reduction=reduction),)

    assert_compiles_whole(step, lambda rows: (torch.randn(rows, 8), torch.randn(16, 8)))


X, W, B, T = torch.ones(2, 3), torch.ones(4, 3), torch.ones(4), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((None, W, B, T), {}, TypeError, "x is a NoneType"),
        ((X, None, B, T), {}, TypeError, "weight is a NoneType"),
        ((X, W[0], B, T), {}, ValueError, r"weight has shape \(3,\); it must have 2 dimensions"),
        ((X, W.t(), B, T), {}, ValueError, r"weight has shape \(3, 4\); it must be \(classes, 3\)"),
        ((X, W, B[:3], T), {}, ValueError, r"bias has shape \(3,\); it must be \(4,\)"),
        ((X, W.half(), B, T), {}, TypeError, "weight is torch.float16; it must be torch.float32, as x"),
        ((X, W, B.to("meta"), T), {}, ValueError, "bias is on meta but x is on cpu"),
        ((X, W, B, T.int()), {}, TypeError, "targets is torch.int32; it must be torch.int64"),
        ((X, W, B, T[:1]), {}, ValueError, r"targets have shape \(1,\); it must be \(2,\), one for each row of x"),
        ((X, W, B, T), {"reduction": "mean"}, ValueError, "reduction is 'mean'"),
    ],
)
def test_errors(arguments: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        linear_cross_entropy(*arguments, **options)
