"""Whole problems drawn at random: every backend against the definition, dropout included."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from definition import Call, dense_attention, plain_attention, sequence_attention
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from problems import BACKENDS, DTYPES, QKV, assert_close, assert_lse_close, doubles, options
from torch import Tensor

from fastbert.ops import attention, attention_varlen
from fastbert.packing import cumulative_lengths

# Examples of each test in the ordinary tier, and in the slow one. Compiled code has the most ways to go wrong.
EXAMPLES = {name: 100 if name == "cpu" else 40 for name in BACKENDS}
MANY_EXAMPLES = {name: 2000 if name == "cpu" else 1000 for name in BACKENDS}

SHORT = st.integers(0, 20)
LONG = st.integers(40, 300)  # beyond the tiles of kernels; few heads and columns then, for the definition's sake
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "heads first in memory": lambda x: x.transpose(-3, -2).contiguous().transpose(-3, -2),
    "the middle of a fused projection": lambda x: torch.cat((x, x, x), -2)[..., x.shape[-2] : 2 * x.shape[-2], :],
    "columns among others": lambda x: torch.cat((x + 1, x, x), -1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "every other column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


@dataclass(frozen=True)
class Problem:
    """One call, dense or packed: dense ones have equal lengths and may have masked keys, packed ones slack."""

    packed: bool
    lengths_q: list[int]
    lengths_k: list[int]
    heads: int
    kv_heads: int
    head_dim: int
    call: Call
    dtype: torch.dtype
    layouts: list[str]  # of q, k, v and the gradient
    through_lse: bool
    masked: bool
    slack: int
    beyond: int
    seed: int

    def tensors(self) -> tuple[QKV, Tensor]:
        """q, k and v, and the gradient."""

        def draw(lengths: list[int], heads: int) -> Tensor:
            leading = (sum(lengths) + self.beyond,) if self.packed else (len(lengths), max(lengths, default=0))
            return torch.randn(*leading, heads, self.head_dim).to(self.dtype)

        q, dout = (draw(self.lengths_q, self.heads) for _ in range(2))
        k, v = (draw(self.lengths_k, self.kv_heads) for _ in range(2))
        return (q, k, v), dout

    @property
    def large(self) -> bool:
        return max(self.lengths_q + self.lengths_k, default=0) > 36


def sides(large: bool) -> st.SearchStrategy[int | None]:
    return st.one_of(st.none(), st.integers(0, 6), st.integers(0, 200)) if large else st.one_of(st.none(), SHORT)


@st.composite
def calls(draw: st.DrawFn, large: bool) -> Call:
    p = draw(st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.9]))
    rng = torch.tensor([draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(0, 2**33))])
    return Call(
        causal=draw(st.booleans()),
        window=draw(st.one_of(st.none(), st.tuples(sides(large), sides(large)))),
        scale=draw(st.sampled_from([None, 0.0, 0.1, -0.5])),
        dropout_p=p,
        rng=rng if p else None,
    )


@st.composite
def problems(draw: st.DrawFn, packed: bool) -> Problem:
    large = draw(st.integers(0, 7)) == 7
    lengths, most = (st.one_of(SHORT, LONG), 2) if large else (SHORT, 4 if packed else 2)
    n = draw(st.integers(1 if packed else 0, most))
    if packed:
        lengths_q = draw(st.lists(lengths, min_size=n, max_size=n))
        lengths_k = draw(st.one_of(st.just(lengths_q), st.lists(lengths, min_size=n, max_size=n)))
    else:
        lengths_q, lengths_k = [draw(lengths)] * n, [draw(st.one_of(lengths, st.integers(21, 36)))] * n
    kv_heads = 1 if large else draw(st.integers(1, 2))
    return Problem(
        packed=packed,
        lengths_q=lengths_q,
        lengths_k=lengths_k,
        heads=kv_heads * draw(st.integers(1, 2)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([1, 8, 17] if large else [1, 3, 8, 16, 33])),
        call=draw(calls(large)),
        dtype=draw(st.sampled_from(DTYPES)),
        layouts=[draw(st.sampled_from(sorted(LAYOUTS))) for _ in range(4)],
        through_lse=draw(st.booleans()),
        masked=not packed and draw(st.booleans()),
        slack=draw(st.integers(0, 9)) if packed else 0,
        beyond=draw(st.integers(0, 2)) if packed else 0,
        seed=draw(st.integers(0, 1000)),
    )


def check(backend: str, problem: Problem) -> None:
    torch.manual_seed(problem.seed)
    assume(not (backend == "sdpa" and (problem.call.dropout_p or problem.through_lse)))
    values, dout = problem.tensors()
    mask = torch.rand(len(problem.lengths_k), max(problem.lengths_k, default=0)) < 0.7 if problem.masked else None
    inputs = tuple(x.requires_grad_() for x in values)
    exact_inputs = doubles(values)
    plain_inputs = tuple(x.detach().clone().requires_grad_() for x in values)

    q, k, v, strided_dout = (LAYOUTS[name](x) for name, x in zip(problem.layouts, (*inputs, dout), strict=True))
    out, lse = run(backend, problem, q, k, v, mask)
    exact, exact_lse = define(problem, exact_inputs, mask, loops=not problem.large)
    plain, plain_lse = define(problem, plain_inputs, mask, loops=False)
    assert out.dtype == problem.dtype
    assert out.is_contiguous()
    assert_as_close_as(backend, "out", out, exact, plain)
    finite = exact_lse.isfinite()
    dlse = torch.randn(exact_lse.shape)[finite].double()
    losses = []
    if lse is not None:
        assert_lse_close(lse, exact_lse)
        # Where no row sees a key there is nothing to differentiate; torch wants gradients, of zero, all the same.
        nothing = [0 * sum(x.sum() for x in leaves) for leaves in (inputs, exact_inputs, plain_inputs)]
        lses = (lse, exact_lse, plain_lse)
        losses = [(x[finite].double() * dlse).sum() + zero for x, zero in zip(lses, nothing, strict=True)]

    def gradients(y: Tensor, x: tuple[Tensor, ...], gradient: Tensor, i: int) -> tuple[Tensor, ...]:
        more = ([losses[i]], [torch.ones_like(losses[i])]) if losses else ([], [])
        return torch.autograd.grad([y, *more[0]], x, [gradient.to(y), *more[1]], materialize_grads=True)

    found = gradients(out, inputs, strided_dout, 0)
    wanted, yardsticks = gradients(exact, exact_inputs, dout, 1), gradients(plain, plain_inputs, dout, 2)
    for name, a, b, c in zip(("dq", "dk", "dv"), found, wanted, yardsticks, strict=True):
        assert_as_close_as(backend, name, a, b, c)


def run(backend: str, problem: Problem, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Any:
    """(out, lse), lse None where the problem does not read it."""
    arguments: dict[str, Any] = options(problem.call) | {"backend": backend, "return_lse": problem.through_lse}
    if problem.packed:
        cu_q, cu_k = (cumulative_lengths(torch.tensor(x)) for x in (problem.lengths_q, problem.lengths_k))
        arguments |= {
            "cu_seqlens_q": cu_q,
            "cu_seqlens_k": cu_q if problem.lengths_q == problem.lengths_k else cu_k,
            "max_seqlen_q": max(problem.lengths_q) + problem.slack,
            "max_seqlen_k": max(problem.lengths_k) + problem.slack,
        }
        result = attention_varlen(q, k, v, **arguments)
    else:
        result = attention(q, k, v, key_padding_mask=mask, **arguments)
    return result if problem.through_lse else (result, None)


def define(problem: Problem, inputs: tuple[Tensor, ...], mask: Tensor | None, loops: bool) -> tuple[Tensor, Tensor]:
    """By the definition's loops, or by the plain expression in the type of the inputs."""
    q, k, v = inputs
    call = problem.call
    if not problem.lengths_q:
        return q * 1, q.new_zeros(0, problem.heads, q.shape[1])
    if not problem.packed:
        return dense_attention(q, k, v, call, mask) if loops else plain_attention(q, k, v, call, mask)
    bounds = [[0, *itertools.accumulate(x)] for x in (problem.lengths_q, problem.lengths_k)]
    outs, lses = [], []
    for s in range(len(problem.lengths_q)):
        rows, columns = (slice(bound[s], bound[s + 1]) for bound in bounds)
        if loops or problem.lengths_k[s] == 0:
            out, lse = sequence_attention(q[rows], k[columns], v[columns], call, s)
        else:  # the last of s + 1 equal entries, which drops what sequence s drops
            copies = (x.expand(s + 1, *x.shape) for x in (q[rows], k[columns], v[columns]))
            out, lse = (x[s] for x in plain_attention(*copies, call))
        outs.append(out)
        lses.append(lse)
    rest = q[bounds[0][-1] :]
    return torch.cat((*outs, torch.zeros_like(rest))), torch.cat(
        (*lses, lses[0].new_full((problem.heads, rest.shape[0]), -torch.inf)), dim=1
    )


def assert_as_close_as(backend: str, name: str, found: Tensor, exact: Tensor, plain: Tensor) -> None:
    """The rule of errors, where a result rounded once is good enough: among few numbers the plain one may be lucky."""
    exact = exact.detach()
    rounded = exact.to(found.dtype).double()
    luck = (rounded - exact).abs() > (plain.detach().double() - exact).abs()
    assert_close(name, found, exact, torch.where(luck, rounded, plain.detach().double()), backend)


def draw_problems(backend: str, packed: bool, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(problem=problems(packed))
    def draw(problem: Problem) -> None:
        check(backend, problem)

    draw()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_problems(backend: str, packed: bool) -> None:
    draw_problems(backend, packed, EXAMPLES[backend])


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_many_problems(backend: str, packed: bool) -> None:
    draw_problems(backend, packed, MANY_EXAMPLES[backend])
