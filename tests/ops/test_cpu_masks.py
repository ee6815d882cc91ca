"""Which keys a query sees, read off the kernels exactly.

With equal scores and V one-hot over keys the output holds the weights themselves, so what is not zero is what was seen.
In the same way dO one-hot over queries writes the weights into dV, K one-hot writes their gradients into dQ, and Q
one-hot writes them into dK.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from definition import Call, attention_byte, visible
from problems import DTYPES, gradients, run_dense, run_varlen, with_dropout
from torch import Tensor

from fastbert.ops import scaled_dot_product_attention
from fastbert.packing import cumulative_lengths

EDGES = (47, 48, 49, 127, 128, 129, 255, 256, 257, 300)  # of groups of queries, blocks and chunks of keys
ALL_SIZES = [(q, k) for q in EDGES for k in EDGES]
SIZES = [(q, k) for i, q in enumerate(EDGES) for j, k in enumerate(EDGES) if (i + 3 * j) % 10 == 0]
SIZES += [(48, 48), (257, 257), (300, 47), (47, 300)]
HEAD_DIM = 64
CALLS = {
    "full": Call(),
    "causal": Call(causal=True),
    "window": Call(window=(17, 5)),
    "wide window": Call(window=(130, 40)),
    "left window": Call(window=(60, None)),
    "right window": Call(window=(None, 33)),
    "causal window": Call(causal=True, window=(48, 9)),
    "diagonal": Call(window=(0, 0)),
}


def seen_keys(seq_q: int, seq_k: int, call: Call, diagonal: int | None = None) -> Tensor:
    """bool (seq_q, seq_k): the definition on whole matrices, for speed; a test compares it with the loops."""
    i, j = np.arange(seq_q)[:, None], np.arange(seq_k)[None, :]
    place = j - i - (seq_k - seq_q if diagonal is None else diagonal)
    left, right = call.window or (None, None)
    seen = np.ones((seq_q, seq_k), dtype=bool)
    if call.causal:
        seen &= place <= 0
    if left is not None:
        seen &= place >= -left
    if right is not None:
        seen &= place <= right
    return torch.from_numpy(seen)


def one_hot(rows: int, dtype: torch.dtype) -> Tensor:
    """(rows, heads, HEAD_DIM) with as many heads as it takes: row r has its one at head r // HEAD_DIM."""
    heads = -(-rows // HEAD_DIM)
    return torch.eye(rows, heads * HEAD_DIM, dtype=dtype).view(rows, heads, HEAD_DIM)


def matrix(x: Tensor, columns: int) -> Tensor:
    """The inverse: (rows, heads, HEAD_DIM) -> (rows, columns)."""
    return x.flatten(1)[:, :columns]


@dataclass
class Found:
    """What the kernels computed, as matrices of (queries, keys)."""

    weights: Tensor
    weights_of_dv: Tensor
    of_dq: Tensor
    of_dk: Tensor


def read_off(seq_q: int, seq_k: int, dtype: torch.dtype, run: Any) -> Found:
    """run(q, k, v) is a call of one batch entry, tensors (seq, heads, HEAD_DIM)."""
    heads_q, heads_k = (-(-n // HEAD_DIM) for n in (seq_q, seq_k))

    def rows(seq: int, heads: int, value: float | None = None) -> Tensor:
        shape = (seq, heads, HEAD_DIM)
        return (torch.rand(shape) if value is None else torch.full(shape, value)).to(dtype).requires_grad_()

    # Scores are equal and not zero.
    q, k, v = rows(seq_q, heads_k, 0.5), rows(seq_k, heads_k, 0.25), one_hot(seq_k, dtype)
    weights = matrix(run(q, k, v), seq_k)
    q, k, v = rows(seq_q, heads_q, 0.5), rows(seq_k, heads_q, 0.25), rows(seq_k, heads_q)
    (dv,) = gradients(run(q, k, v), one_hot(seq_q, dtype), [v])
    q, k, v = rows(seq_q, heads_k, 0.0), one_hot(seq_k, dtype), rows(seq_k, heads_k)
    (dq,) = gradients(run(q, k, v), rows(seq_q, heads_k).detach(), [q])
    q, k, v = one_hot(seq_q, dtype), rows(seq_k, heads_q, 0.0), rows(seq_k, heads_q)
    (dk,) = gradients(run(q, k, v), rows(seq_q, heads_q).detach(), [k])
    return Found(weights, matrix(dv, seq_q).t(), matrix(dq, seq_k), matrix(dk, seq_q).t())


def check(found: Found, seen: Tensor) -> None:
    assert torch.equal(found.weights != 0, seen)
    assert torch.equal(found.weights_of_dv != 0, seen)
    # Softmax of one key is constant, to the last bit where one backward piece holds all keys.
    alone = seen & (seen.sum(1, keepdim=True) == 1)
    for gradient in (found.of_dq, found.of_dk):
        assert gradient[~seen].eq(0).all()
        assert gradient[seen & ~alone].ne(0).double().mean() > 0.99 or alone.sum() == seen.sum()  # some are by accident
        if seen.shape[1] <= 64 and gradient.dtype == torch.float32:
            assert gradient[alone].eq(0).all()
    equal = seen.double() / seen.sum(1, keepdim=True).clamp(min=1)
    epsilon = torch.finfo(found.weights.dtype).eps
    torch.testing.assert_close(found.weights.double(), equal, rtol=2 * epsilon, atol=0)
    # From lse, whose own last bit is a larger part of them.
    torch.testing.assert_close(found.weights_of_dv.double(), equal, rtol=8 * epsilon, atol=0)


def check_dense(seq_q: int, seq_k: int, call: Call, dtype: torch.dtype, holes: bool = False) -> None:
    living = torch.rand(1, seq_k) < 0.6 if holes else None

    def run(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return run_dense("cpu", q[None], k[None], v[None], call, living)[0]

    seen = seen_keys(seq_q, seq_k, call)
    check(read_off(seq_q, seq_k, dtype, run), seen if living is None else seen & living)


@pytest.mark.parametrize("name", CALLS)
def test_matrices_and_loops_define_the_same(name: str) -> None:
    for seq_q, seq_k in ((70, 70), (70, 20), (20, 70)):
        loops = torch.from_numpy(visible(seq_q, seq_k, CALLS[name]))
        assert torch.equal(seen_keys(seq_q, seq_k, CALLS[name]), loops)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("seq_q", "seq_k"), SIZES)
def test_dense(seed: int, seq_q: int, seq_k: int, name: str, holes: bool) -> None:
    check_dense(seq_q, seq_k, CALLS[name], torch.float32, holes)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", ["causal", "window"])
@pytest.mark.parametrize(("seq_q", "seq_k"), [(129, 257), (300, 127)])
def test_dense_in_half_precision(seed: int, seq_q: int, seq_k: int, name: str, dtype: torch.dtype) -> None:
    check_dense(seq_q, seq_k, CALLS[name], dtype, holes=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("seq_q", "seq_k"), ALL_SIZES)
def test_all_sizes(seed: int, seq_q: int, seq_k: int, name: str, dtype: torch.dtype) -> None:
    for holes in (False, True):
        check_dense(seq_q, seq_k, CALLS[name], dtype, holes)


@pytest.mark.parametrize(("seq_q", "seq_k"), SIZES)
def test_torch_s_causal_is_top_left(seed: int, seq_q: int, seq_k: int) -> None:
    """Query i sees key j when j <= i, whatever the lengths: a diagonal of its own where they differ."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = (x.transpose(0, 1) for x in (q, k, v))
        return scaled_dot_product_attention(*heads_first, is_causal=True, backend="cpu").transpose(0, 1)

    check(read_off(seq_q, seq_k, torch.float32, run), seen_keys(seq_q, seq_k, Call(causal=True), diagonal=0))


@pytest.mark.parametrize("name", ["full", "causal", "window", "causal window"])
def test_packed(seed: int, name: str) -> None:
    """Blocks on a diagonal of sequences: none sees another, none the rows past the last one."""
    lengths_q, lengths_k = [47, 0, 129, 1, 48], [49, 7, 128, 0, 129]
    cu_q, cu_k = (cumulative_lengths(torch.tensor(x)) for x in (lengths_q, lengths_k))
    total_q, total_k = sum(lengths_q) + 3, sum(lengths_k) + 2
    seen = torch.zeros(total_q, total_k, dtype=torch.bool)
    for s, (seq_q, seq_k) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        rows, columns = (slice(int(cu[s]), int(cu[s + 1])) for cu in (cu_q, cu_k))
        seen[rows, columns] = seen_keys(seq_q, seq_k, CALLS[name])

    def run(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return run_varlen("cpu", q, k, v, CALLS[name], cu_q, cu_k)

    check(read_off(total_q, total_k, torch.float32, run), seen)


@pytest.mark.parametrize("name", ["full", "causal", "wide window"])
@pytest.mark.parametrize(("seq_q", "seq_k"), [(49, 64), (129, 33), (300, 49)])
def test_what_is_dropped(seed: int, seq_q: int, seq_k: int, name: str) -> None:
    """The output's and dV's zeros are the weights that are hidden or dropped."""
    call = with_dropout(CALLS[name], 0.3)
    assert call.rng is not None
    rng_seed, offset = call.rng.tolist()
    i, j = np.arange(seq_q)[:, None], np.arange(seq_k)[None, :]
    # Heads differ in their bytes: every head sees all of V's columns, and its own part of them is read.
    kept = [torch.from_numpy(attention_byte(rng_seed, offset, h, i, j) >= 77) for h in range(5)]
    seen = seen_keys(seq_q, seq_k, call)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return run_dense("cpu", q[None], k[None], v[None], call)[0]

    found = read_off(seq_q, seq_k, torch.float32, run)
    for key in range(seq_k):
        assert torch.equal(found.weights[:, key] != 0, seen[:, key] & kept[key // HEAD_DIM][:, key])
    for query in range(seq_q):
        assert torch.equal(found.weights_of_dv[query] != 0, seen[query] & kept[query // HEAD_DIM][query])
