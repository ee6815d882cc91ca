"""Calls cut into blocks: no block computes or draws more than the budget, and none of it shows in the results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from definition import Call, varlen_attention
from problems import assert_close, doubles, gradients, options, with_dropout
from torch import Tensor

from fastbert.ops import attention, attention_varlen, philox
from fastbert.ops.backends import blocks, layout, sdpa
from fastbert.ops.problem import AttentionOptions
from fastbert.packing import cumulative_lengths

LENGTHS_Q, LENGTHS_K = [5, 0, 17, 1, 9], [6, 3, 0, 8, 9]
CALLS = {
    "full": Call(),
    "causal": Call(causal=True),
    "window": Call(window=(4, 1)),
    "dropout": with_dropout(Call(window=(4, 1))),
}


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths as on a GPU: the host may not look at them."""
    for module in (blocks, layout, sdpa):
        monkeypatch.setattr(module, "host_readable", lambda x: False)


def _packed() -> tuple[list[Tensor], dict[str, Any]]:
    inputs = []
    for lengths, heads in ((LENGTHS_Q, 4), (LENGTHS_K, 2), (LENGTHS_K, 2)):
        x = torch.randn(sum(lengths) + 2, heads, 8)
        x[sum(lengths) :] = torch.nan
        inputs.append(x.requires_grad_())
    bounds = {
        "cu_seqlens_q": cumulative_lengths(torch.tensor(LENGTHS_Q)),
        "cu_seqlens_k": cumulative_lengths(torch.tensor(LENGTHS_K)),
        "max_seqlen_q": 19,
        "max_seqlen_k": 12,
    }
    return inputs, bounds


def _check(backend: str, call: Call) -> None:
    inputs, bounds = _packed()
    q, k, v = inputs
    out, *lse = attention_varlen(q, k, v, **bounds, **options(call), backend=backend, return_lse=True)
    exact_inputs = doubles((q, k, v))
    exact, exact_lse = varlen_attention(*exact_inputs, call, LENGTHS_Q, LENGTHS_K)
    assert_close("out", out, exact)
    torch.testing.assert_close(lse[0].double(), exact_lse, rtol=1e-5, atol=1e-5)
    dout = torch.randn_like(out)
    dout[sum(LENGTHS_Q) :] = 0
    found = gradients(out, dout, [q, k, v])
    for name, a, b in zip(("dq", "dk", "dv"), found, gradients(exact, dout, exact_inputs), strict=True):
        assert_close(name, a, b)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("budget", [1, 64, 2000])
def test_a_small_budget_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch, call: Call, budget: int) -> None:
    monkeypatch.setattr(blocks, "_BUDGET_ON_CPU", budget)
    _check("reference", call)


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("budget", [1, 3000, 1 << 20])
def test_lengths_that_cannot_be_read_change_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch, call: Call, budget: int
) -> None:
    monkeypatch.setattr(blocks, "_BUDGET_ON_CPU", budget)
    _check("reference", call)


@pytest.mark.parametrize("budget", [64, 2000])
def test_dense_calls_drop_the_same_weights_in_any_blocks(
    seed: int, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    q, k = torch.randn(3, 20, 4, 8), torch.randn(3, 33, 2, 8)
    arguments: dict[str, Any] = {"dropout_p": 0.4, "rng": torch.tensor([4, 5]), "backend": "reference"}
    wanted = attention(q, k, k, **arguments)
    monkeypatch.setattr(blocks, "_BUDGET_ON_CPU", budget)
    torch.testing.assert_close(attention(q, k, k, **arguments), wanted)


def test_dropout_draws_no_more_than_a_block(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long sequence among short ones must not make theirs as long as itself."""
    drawn = []
    fill = philox.attention_bytes

    def spy(rng: Tensor, *shape: int, **part: Any) -> Tensor:
        drawn.append(torch.Size(shape).numel())
        return fill(rng, *shape, **part)

    monkeypatch.setattr(philox, "attention_bytes", spy)
    monkeypatch.setattr(blocks, "_BUDGET_ON_CPU", 8192)
    lengths = [128, *[4] * 255]
    x = torch.randn(sum(lengths), 2, 8)
    cu = cumulative_lengths(torch.tensor(lengths))
    bounds: dict[str, Any] = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": 128, "max_seqlen_k": 128}
    attention_varlen(x, x, x, **bounds, dropout_p=0.1, backend="reference")
    assert sum(drawn) == 2 * sum(n * n for n in lengths)
    assert max(drawn) == 128 * 128  # one head of one sequence: no block is smaller


@pytest.mark.usefixtures("unreadable")
def test_blocks_fit_the_budget_where_lengths_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BUDGET_ON_CPU", 2000)
    x, cu = torch.randn(60, 2, 8), cumulative_lengths(torch.tensor([10] * 6))
    found = list(blocks.blocks(x, x, x, AttentionOptions(None, None, 1.0, 0, False, None, None, cu, cu, 30, 20)))
    sizes = [block.q.shape[0] * block.q.shape[1] * block.q.shape[2] * block.k.shape[2] for block in found]
    assert max(sizes) <= 2000
    assert sum(sizes) == 2 * 6 * 30 * 20
