"""Scores far below what |q| |k| allows, and numbers that are not finite: where a bound of the scores serves no more.

On AMX the forward subtracts a bound of each row's scores in place of their maximum; every instruction set must agree
with the definition all the same.
"""

from __future__ import annotations

import pytest
import torch
from definition import Call
from problems import FULL, assert_close, assert_lse_close, doubles, gradients, run_dense
from torch import Tensor

from fastbert.ops import attention

SEQ_Q, SEQ_K, HEAD_DIM = 70, 100, 32


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((1, SEQ_Q, 2, HEAD_DIM), (1, SEQ_K, 2, HEAD_DIM), (1, SEQ_K, 2, HEAD_DIM))
    q, k, v = (torch.randn(shape).bfloat16() for shape in shapes)
    return q, k, v


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * HEAD_DIM**-0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v), scores.logsumexp(-1)


# The bound lies 0, 11, 71, 636 and 28,000 above the scores (natural logarithms); AMX has room for some 97.
@pytest.mark.parametrize("length", [1.0, 8.0, 20.0, 60.0, 400.0])
@pytest.mark.parametrize("rows", [slice(None), slice(17, 18), slice(40, None)])
def test_queries_and_keys_long_in_other_directions(seed: int, length: float, rows: slice) -> None:
    """They add nothing to the scores, but their product bounds them."""
    q, k, v = drawn()
    q[..., :2], k[..., :2] = 0, 0
    q[:, rows, :, 0], k[..., 1] = length, length
    inputs = tuple(x.requires_grad_() for x in (q, k, v))
    out, lse = run_dense("cpu", *inputs, FULL, return_lse=True)
    exact_inputs = doubles((q, k, v))
    exact, exact_lse = exact_attention(*exact_inputs)
    plain, _ = exact_attention(q, k, v)
    assert_close("out", out, exact, plain)
    assert_lse_close(lse, exact_lse)
    dout = torch.randn_like(out)
    wanted = gradients(exact, dout, exact_inputs)
    plains = gradients(plain, dout, inputs)
    for name, a, b, c in zip(("dq", "dk", "dv"), gradients(out, dout, inputs), wanted, plains, strict=True):
        assert_close(name, a, b, c)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_query_that_is_not_finite_is_alone_with_it(seed: int, value: float) -> None:
    q, k, v = drawn()
    exact, exact_lse = exact_attention(q.double(), k.double(), v.double())
    plain, _ = exact_attention(q, k, v)
    q[:, 33] = value
    out, lse = attention(q, k, v, return_lse=True, backend="cpu")
    others = torch.arange(SEQ_Q) != 33
    assert out[:, 33].isnan().all()
    assert_close("out", out[:, others], exact[:, others], plain[:, others])
    assert_lse_close(lse[..., others], exact_lse[..., others])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_key_that_is_not_finite_reaches_those_who_see_it(seed: int, value: float) -> None:
    q, k, v = drawn()
    call = Call(window=(None, 10))  # query i sees keys to i + 40
    plain = run_dense("cpu", q, k, v, call)
    k[:, 95] = value
    out = run_dense("cpu", q, k, v, call)
    assert out[:, 55:].isnan().any(-1).all()
    torch.testing.assert_close(out[:, :55].float(), plain[:, :55].float(), rtol=0.02, atol=0.02)


def test_values_near_the_end_of_the_range(seed: int) -> None:
    q, k, v = drawn()
    large = (v.float() * 1e37).bfloat16()
    exact, _ = exact_attention(q.double(), k.double(), large.double())
    out = run_dense("cpu", q, k, large, FULL)
    assert_close("out", out.double() / 1e37, exact / 1e37, floor=1e-2)
