"""Summed cross entropy, against its definition in float64."""

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
    leaves,
    plain_cross_entropy,
    some_targets,
)
from torch import Tensor

from fastbert.ops import cross_entropy, extension, triton_runtime

REDUCTIONS = ("sum", "none")


def logits_and_targets(rows: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Every third target is ignored."""
    targets = some_targets(rows, classes)
    return (3 * torch.randn(rows, classes)).to(dtype), targets


def operator(targets: Tensor, reduction: Any) -> Any:
    return lambda logits: (cross_entropy(logits, targets, reduction=reduction),)


def expression(targets: Tensor, reduction: str) -> Any:
    return lambda logits: (plain_cross_entropy(logits, targets, reduction),)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_definition(seed: int, dtype: torch.dtype, reduction: str) -> None:
    for rows, classes in [*SHAPES, (2, 30522)]:
        logits, targets = logits_and_targets(rows, classes, dtype)
        compare(operator(targets, reduction), expression(targets, reduction), (logits,), ("logits",))


@pytest.mark.parametrize("shift", [-1000.0, 80.0, 1e4])
def test_large_logits(seed: int, shift: float) -> None:
    """A loss keeps its digits whatever is added to all logits of a row."""
    logits, targets = logits_and_targets(9, 100)
    logits = (logits * 64).round() / 64 + shift  # exact sums, so that float32 holds the same logits
    logits[1, targets[1]] += 50  # and a prediction that is nearly certain
    compare(operator(targets, "none"), expression(targets, "none"), (logits,), ("logits",))


def test_infinite_logits(seed: int) -> None:
    logits, _ = logits_and_targets(3, 2500)
    logits[0, :2400] = -torch.inf
    logits[1, 1:] = -torch.inf
    targets = torch.tensor([2450, 0, 7])
    compare(operator(targets, "none"), expression(targets, "none"), (logits,), ("logits",))
    logits[0] = -torch.inf
    logits[1, 3] = torch.nan
    logits[2, 3] = torch.inf
    assert cross_entropy(logits, targets, reduction="none").isnan().all()
    logits[1] = -torch.inf
    logits[1, 5] = torch.nan
    assert cross_entropy(logits, targets, reduction="none").isnan().all()


def test_what_lies_in_ignored_rows_reaches_nothing(seed: int) -> None:
    logits, targets = logits_and_targets(7, 40)
    poisoned = logits.clone()
    poisoned[::3] = torch.nan
    a, b = leaves(logits, poisoned)
    found, expected = cross_entropy(b, targets), cross_entropy(a, targets)
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, b)[0], torch.autograd.grad(expected, a)[0])


def test_nothing_to_predict() -> None:
    for rows in (0, 4):
        (logits,) = leaves(torch.randn(rows, 5))
        loss = cross_entropy(logits, torch.full((rows,), -100))
        assert loss.item() == 0
        assert torch.autograd.grad(loss, logits)[0].eq(0).all()


def test_another_ignore_index(seed: int) -> None:
    logits, _ = logits_and_targets(4, 6)
    targets = torch.tensor([0, 1, 0, 5])
    expected = F.cross_entropy(logits, targets, ignore_index=0, reduction="sum")
    torch.testing.assert_close(cross_entropy(logits, targets, ignore_index=0), expected)


def test_the_sum_is_float32_in_any_type(seed: int) -> None:
    for dtype in DTYPES:
        logits, targets = logits_and_targets(5, 9, dtype)
        assert cross_entropy(logits, targets).dtype == torch.float32
        assert cross_entropy(logits, targets, reduction="none").dtype == torch.float32


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_threads(seed: int, reduction: str) -> None:
    for dtype in DTYPES:
        logits, targets = logits_and_targets(1000, 300, dtype)
        assert_equal_for_any_thread_count(operator(targets, reduction), logits)


def test_strides(seed: int) -> None:
    logits, targets = logits_and_targets(7, 36)
    assert_strides_do_not_matter(operator(targets, "sum"), logits)
    strided = torch.stack((targets, targets), dim=1)[:, 0]
    assert torch.equal(cross_entropy(logits, strided), cross_entropy(logits, targets))


def test_float64_takes_the_plain_way(seed: int) -> None:
    logits, targets = logits_and_targets(7, 36)
    expected = F.cross_entropy(logits.double(), targets, reduction="sum")
    assert torch.equal(cross_entropy(logits.double(), targets), expected)


def test_without_the_extension_the_definition_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = logits_and_targets(7, 36, torch.bfloat16)
    found = cross_entropy(logits, targets)
    monkeypatch.setattr(extension, "compiled", None)
    torch.testing.assert_close(cross_entropy(logits, targets), found, rtol=1e-6, atol=1e-6)


def test_second_derivatives_are_refused(seed: int) -> None:
    logits, targets = logits_and_targets(4, 5)
    assert_no_second_derivatives(operator(targets, "sum"), logits)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_registration(seed: int, reduction: str) -> None:
    logits, targets = logits_and_targets(5, 20)
    forward = (logits.requires_grad_(), targets, -100, reduction)
    torch.library.opcheck(torch.ops.fastbert.cross_entropy.default, forward)
    loss, statistics = torch.ops.fastbert.cross_entropy(*forward)
    backward = (torch.randn(loss.shape), logits.detach(), targets, statistics.detach(), -100, reduction)
    torch.library.opcheck(torch.ops.fastbert.cross_entropy_backward.default, backward)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_compiles_whole(seed: int, reduction: Any) -> None:
    def step(logits: Tensor) -> Outputs:
        targets = torch.arange(logits.shape[0]) % 16
        return (cross_entropy(2 * logits, targets, reduction=reduction),)

    assert_compiles_whole(step, lambda rows: (torch.randn(rows, 16),))


@pytest.mark.parametrize(
    ("logits", "targets", "options", "error", "message"),
    [
        (None, torch.zeros(2), {}, TypeError, "logits is a NoneType"),
        (torch.ones(2, 3, 4), torch.zeros(2), {}, ValueError, r"logits has shape \(2, 3, 4\)"),
        (torch.ones(2, 3), torch.zeros(2), {}, TypeError, "targets is torch.float32; it must be torch.int64"),
        (torch.ones(2, 3), torch.zeros(3, dtype=torch.int64), {}, ValueError, r"targets have shape \(3,\)"),
        (torch.ones(2, 3), torch.tensor([0, 1]), {"reduction": "mean"}, ValueError, "reduction is 'mean'"),
    ],
)
def test_errors(logits: Any, targets: Tensor, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cross_entropy(logits, targets, **options)


@pytest.mark.parametrize(
    ("targets", "message"),
    [([0, 3], r"targets\[1\] is 3; it must be -100"), ([-1, 0], r"targets\[0\] is -1")],
    ids=("beyond", "negative"),
)
def test_targets_that_are_no_class(targets: list[int], message: str) -> None:
    """The CPU says so; a GPU, whose numbers nobody waits for, reads nothing there and answers NaN."""
    (logits,) = leaves(torch.ones(2, 3))
    if not triton_runtime.INTERPRETING:
        with pytest.raises(ValueError, match=message):
            cross_entropy(logits, torch.tensor(targets))
        return
    wrong = torch.tensor([not 0 <= target < 3 for target in targets])
    losses = cross_entropy(logits, torch.tensor(targets), reduction="none")
    assert torch.equal(losses.isnan(), wrong)
    assert torch.equal(torch.autograd.grad(losses.sum(), logits)[0].isnan(), wrong[:, None].expand(2, 3))
