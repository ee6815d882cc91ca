"""Whole problems drawn at random: every backend against the definition, dropout included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from definition import Call, dense_attention, plain_attention, varlen_attention
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from problems import BACKENDS, assert_close, doubles, gradients, options

from fastbert.ops import attention, attention_varlen
from fastbert.packing import cumulative_lengths

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

ORDINARY = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
MANY = settings(ORDINARY, max_examples=1000)

side = st.one_of(st.none(), st.integers(0, 6))


@st.composite
def calls(draw: st.DrawFn) -> Call:
    p = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.9]))
    rng = torch.tensor([draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(0, 2**33))])
    return Call(
        causal=draw(st.booleans()),
        window=draw(st.one_of(st.none(), st.tuples(side, side))),
        scale=draw(st.sampled_from([None, 0.0, 0.1, -0.5])),
        dropout_p=p,
        rng=rng if p else None,
    )


@st.composite
def dense_problems(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 2))
    return {
        "batch": draw(st.integers(0, 2)),
        "seq_q": draw(st.integers(0, 20)),
        "seq_k": draw(st.integers(0, 36)),
        "heads": kv_heads * draw(st.integers(1, 2)),
        "kv_heads": kv_heads,
        "head_dim": draw(st.sampled_from([1, 3, 8, 16])),
        "call": draw(calls()),
        "masked": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }


@st.composite
def varlen_problems(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 2))
    lengths = st.lists(st.integers(0, 20), min_size=1, max_size=4)
    lengths_q = draw(lengths)
    n = len(lengths_q)
    lengths_k = draw(st.one_of(st.just(lengths_q), st.lists(st.integers(0, 20), min_size=n, max_size=n)))
    return {
        "lengths_q": lengths_q,
        "lengths_k": lengths_k,
        "heads": kv_heads * draw(st.integers(1, 2)),
        "kv_heads": kv_heads,
        "head_dim": draw(st.sampled_from([1, 8, 16])),
        "call": draw(calls()),
        "slack": draw(st.integers(0, 9)),
        "beyond": draw(st.integers(0, 2)),
        "seed": draw(st.integers(0, 1000)),
    }


def check_dense(backend: str, problem: dict[str, Any]) -> None:
    torch.manual_seed(problem["seed"])
    batch, seq_k, call = problem["batch"], problem["seq_k"], problem["call"]
    assume(not (backend == "sdpa" and call.dropout_p))
    q = torch.randn(batch, problem["seq_q"], problem["heads"], problem["head_dim"], requires_grad=True)
    k, v = (torch.randn(batch, seq_k, problem["kv_heads"], q.shape[-1], requires_grad=True) for _ in range(2))
    mask = torch.rand(batch, seq_k) < 0.7 if problem["masked"] else None
    out = attention(q, k, v, key_padding_mask=mask, backend=backend, **options(call))
    exact_inputs = doubles((q, k, v))
    if batch == 0:
        assert out.shape == q.shape
        return
    exact, _ = dense_attention(*exact_inputs, call, mask)
    assert_close("out", out, exact)
    dout = torch.randn_like(out)
    plain, _ = plain_attention(q, k, v, call, mask)
    found, wanted = gradients(out, dout, [q, k, v]), gradients(exact, dout, exact_inputs)
    for name, a, b, c in zip(("dq", "dk", "dv"), found, wanted, gradients(plain, dout, [q, k, v]), strict=True):
        assert_close(name, a, b, c, backend=backend)


def check_varlen(backend: str, problem: dict[str, Any]) -> None:
    torch.manual_seed(problem["seed"])
    lengths_q, lengths_k, call = problem["lengths_q"], problem["lengths_k"], problem["call"]
    assume(not (backend == "sdpa" and call.dropout_p))
    total_q, total_k = sum(lengths_q) + problem["beyond"], sum(lengths_k) + problem["beyond"]
    q = torch.randn(total_q, problem["heads"], problem["head_dim"], requires_grad=True)
    k, v = (torch.randn(total_k, problem["kv_heads"], q.shape[-1], requires_grad=True) for _ in range(2))
    cu_q, cu_k = (cumulative_lengths(torch.tensor(lengths)) for lengths in (lengths_q, lengths_k))
    out = attention_varlen(
        q,
        k,
        v,
        cu_seqlens_q=cu_q,
        cu_seqlens_k=cu_q if lengths_q == lengths_k else cu_k,
        max_seqlen_q=max(lengths_q) + problem["slack"],
        max_seqlen_k=max(lengths_k) + problem["slack"],
        backend=backend,
        **options(call),
    )
    exact_inputs = doubles((q, k, v))
    exact, _ = varlen_attention(*exact_inputs, call, lengths_q, lengths_k)
    assert_close("out", out, exact)
    dout = torch.randn_like(out)
    found, wanted = gradients(out, dout, [q, k, v]), gradients(exact, dout, exact_inputs)
    for name, a, b in zip(("dq", "dk", "dv"), found, wanted, strict=True):
        # Without a plain expression to measure by: some float32 roundings of gradients that cancel.
        assert_close(name, a, b, floor=1e-5)


@ORDINARY
@given(problem=dense_problems())
def test_dense(backend: str, problem: dict[str, Any]) -> None:
    check_dense(backend, problem)


@ORDINARY
@given(problem=varlen_problems())
def test_varlen(backend: str, problem: dict[str, Any]) -> None:
    check_varlen(backend, problem)


@pytest.mark.slow
@MANY
@given(problem=dense_problems())
def test_many_dense(backend: str, problem: dict[str, Any]) -> None:
    check_dense(backend, problem)


@pytest.mark.slow
@MANY
@given(problem=varlen_problems())
def test_many_varlen(backend: str, problem: dict[str, Any]) -> None:
    check_varlen(backend, problem)
