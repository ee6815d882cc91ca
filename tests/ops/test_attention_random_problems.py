"""Whole problems drawn at random: every backend against the definition, dropout included."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import torch
from definition import Call, dense_attention, plain_attention, sequence_attention
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from problems import BACKENDS, DTYPES, QKV, assert_close, assert_lse_close, doubles, options
from torch import Tensor

from fastbert.ops import attention, attention_varlen
from fastbert.ops.problem import lse_shape
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


@dataclass(frozen=True)
class Drawn:
    """The numbers of a problem."""

    values: QKV
    dout: Tensor
    dlse: Tensor  # of all rows, float64
    mask: Tensor | None


def draw_numbers(problem: Problem, seed: int) -> Drawn:
    torch.manual_seed(seed)
    values, dout = problem.tensors()
    mask = torch.rand(len(problem.lengths_k), max(problem.lengths_k, default=0)) < 0.7 if problem.masked else None
    return Drawn(values, dout, torch.randn(lse_shape(values[0])).double(), mask)


# What a problem has: its outputs, as a function of q, k and v.
Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


def results(problem: Problem, drawn: Drawn, inputs: QKV, dout: Tensor, attend: Attention) -> dict[str, Tensor]:
    """By name: out, lse where the problem reads it, dq, dk and dv; rows that see no key add nothing through lse."""
    out, lse = attend(*inputs)
    outputs, gradients = [out], [dout.to(out)]
    found = {"out": out}
    if problem.through_lse:
        assert lse is not None
        finite = lse.detach().isfinite()
        # Where no row sees a key there is nothing to differentiate; torch wants gradients, of zero, all the same.
        outputs.append((lse[finite].double() * drawn.dlse[finite]).sum() + 0 * sum(x.sum() for x in inputs))
        gradients.append(torch.ones_like(outputs[-1]))
        found["lse"] = lse
    differentials = torch.autograd.grad(outputs, inputs, gradients, materialize_grads=True)
    return found | dict(zip(("dq", "dk", "dv"), differentials, strict=True))


def check(backend: str, problem: Problem) -> None:
    assume(not (backend == "sdpa" and (problem.call.dropout_p or problem.through_lse)))
    drawn = draw_numbers(problem, problem.seed)
    q, k, v = (x.requires_grad_() for x in drawn.values)

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
        q, k, v = (LAYOUTS[name](x) for name, x in zip(problem.layouts, (q, k, v), strict=False))
        out, lse = run(backend, problem, q, k, v, drawn.mask)
        assert out.dtype == problem.dtype
        assert out.is_contiguous()
        return out, lse

    found = results(problem, drawn, (q, k, v), LAYOUTS[problem.layouts[3]](drawn.dout), kernel)
    exact, plain = yardsticks(problem, drawn)
    if "lse" in found:
        assert_lse_close(found["lse"], exact["lse"])
    for name in found.keys() - {"lse"}:
        assert_as_close_as(backend, name, found[name], exact[name], plain[name], problem)


def yardsticks(problem: Problem, drawn: Drawn) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The results by the definition in float64, and by the plain expression in the problem's type."""

    def exact(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return define(problem, (q, k, v), drawn.mask, loops=not problem.large)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return define(problem, (q, k, v), drawn.mask, loops=False)

    q, k, v = (x.detach().clone().requires_grad_() for x in drawn.values)
    return (
        results(problem, drawn, doubles(drawn.values), drawn.dout, exact),
        results(problem, drawn, (q, k, v), drawn.dout, plain),
    )


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


FEW_NUMBERS = 1000
MORE_SEEDS = range(10_000, 10_012)


def assert_as_close_as(backend: str, name: str, found: Tensor, exact: Tensor, plain: Tensor, problem: Problem) -> None:
    """The rule of errors, where a result rounded once is good enough: among few numbers the plain one may be lucky.

    Where it was, its largest error over other numbers of the same problem, relative to the largest number, is the
    yardstick: an error is a draw from a distribution, of which the few largest numbers of one problem say little.
    """
    exact = exact.detach()
    rounded = exact.to(found.dtype).double()
    luck = (rounded - exact).abs() > (plain.detach().double() - exact).abs()
    yardstick = torch.where(luck, rounded, plain.detach().double())
    try:
        assert_close(name, found, exact, yardstick, backend)
    except AssertionError:
        if exact.numel() > FEW_NUMBERS or not found.isfinite().all():
            raise
        assert_close(name, found, exact, exact + usual_error(problem, name) * exact.abs().max(), backend)


def usual_error(problem: Problem, name: str) -> float:
    """The plain expression's largest error in one result, of its largest number, over problems of other numbers."""
    errors = []
    for seed in MORE_SEEDS:
        exact, plain = (x[name].detach().double() for x in yardsticks(problem, draw_numbers(problem, seed)))
        errors.append(float((plain - exact).abs().max() / exact.abs().max().clamp(min=1e-30)))
    return max(errors)


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
