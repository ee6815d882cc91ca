"""The operator contract, for every backend alike: a new one adds a row to the choice and nothing here.

A backend that does not serve a call by its own word is skipped with its reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from definition import Call, attention_byte, dense_attention, plain_attention, varlen_attention
from emulated_cuda import Emulation, emulation
from problems import (
    DTYPES,
    PAIRS,
    QKV,
    Dense,
    assert_close,
    assert_lse_close,
    doubles,
    forgiving,
    gradients,
    run_dense,
    run_varlen,
    usual_dtype,
    with_dropout,
)
from ptx_emulator import Options
from torch import Tensor

from fastbert.packing import cumulative_lengths

pytestmark = pytest.mark.parametrize(("backend", "device"), PAIRS)

# Lengths that straddle the tiles of kernels, queries and keys of different lengths both ways.
LENGTHS = [(1, 1), (2, 15), (16, 16), (17, 31), (63, 65), (64, 64), (97, 113), (128, 128), (129, 127), (200, 257)]
MORE_LENGTHS = [
    (q, k)
    for q, k in itertools.product((1, 2, 15, 16, 17, 31, 63, 64, 65, 97, 113, 127, 128, 129, 200, 257), repeat=2)
    if (q, k) not in LENGTHS
] + [(1023, 1025), (1025, 1023), (1025, 1025), (1, 1025)]
HEAD_DIMS = (1, 8, 32, 40, 59, 64, 80, 96, 111, 128, 256)
HEADS = [(1, 1), (2, 1), (3, 3), (12, 12), (16, 4)]
CALLS = {
    "full": Call(),
    "causal": Call(causal=True),
    "window": Call(window=(5, 3)),
    "left window": Call(window=(7, None)),
    "right window": Call(window=(None, 2)),
    "causal window": Call(causal=True, window=(4, 9)),
    "nothing but the diagonal": Call(window=(0, 0)),
    "scale": Call(scale=0.03),
}


def check_dense(backend: str, device: str, problem: Dense) -> None:
    """Output, log-sum-exp and gradients against float64, by the rule of errors."""
    call = problem.call
    inputs, mask = problem.tensors(device), problem.mask(device)
    out = run_dense(backend, *inputs, call, mask)
    exact_inputs = doubles(inputs)
    exact_mask = None if mask is None else mask.cpu()
    exact, _ = plain_attention(*exact_inputs, call, exact_mask)
    plain, _ = plain_attention(*inputs, call, mask)
    assert out.dtype == problem.dtype
    assert out.is_contiguous()
    assert_close("out", out, exact, plain)
    dout = torch.randn(out.shape, device=device).to(problem.dtype)
    triples = zip(
        ("dq", "dk", "dv"),
        gradients(out, dout, inputs),
        gradients(exact, dout, exact_inputs),
        gradients(plain, dout, inputs),
        strict=True,
    )
    for name, found, wanted, yardstick in triples:
        assert found.dtype == problem.dtype
        assert_close(name, found, wanted, yardstick, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("seq_q", "seq_k"), LENGTHS)
def test_lengths(
    seed: int, backend: str, device: str, seq_q: int, seq_k: int, causal: bool, dtype: torch.dtype
) -> None:
    check_dense(backend, device, Dense(2, seq_q, seq_k, 2, 2, 32, Call(causal=causal), dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("seq_q", "seq_k"), MORE_LENGTHS)
def test_more_lengths(
    seed: int, backend: str, device: str, seq_q: int, seq_k: int, causal: bool, dtype: torch.dtype
) -> None:
    check_dense(backend, device, Dense(2, seq_q, seq_k, 2, 1, 64, Call(causal=causal), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_head_dims(seed: int, backend: str, device: str, head_dim: int, dtype: torch.dtype) -> None:
    check_dense(backend, device, Dense(3, 33, 65, 4, 2, head_dim, Call(causal=True), dtype, masked=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
def test_heads(seed: int, backend: str, device: str, heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    check_dense(backend, device, Dense(2, 19, 23, heads, kv_heads, 16, Call(), dtype))


def check_against_loops(
    backend: str,
    results: tuple[Tensor, Tensor, Tensor],
    dout: Tensor,
    inputs: Sequence[Sequence[Tensor]],
    losses: Sequence[Tensor] | None = None,
) -> None:
    """What was found, what the definition's loops gave, and what the plain expression did, with their gradients.

    float32 has no yardstick: its rounding errors are below the floor.
    """
    exactly = results[0].dtype == torch.float32
    more: list[list[Tensor]] = [[], [], []] if losses is None else [[loss] for loss in losses]
    gradients_of_all = [
        torch.autograd.grad([y, *also], x, [dout.to(y), *map(torch.ones_like, also)], materialize_grads=True)
        for y, also, x in zip(results, more, inputs, strict=True)
    ]
    for name, triple in (("out", results), *(("gradient", triple) for triple in zip(*gradients_of_all, strict=True))):
        found, exact, plain = triple
        assert_close(name, found, exact, None if exactly else forgiving(exact, plain, found.dtype), backend)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_masks_against_loops(seed: int, backend: str, device: str, name: str, masked: bool) -> None:
    for seq_q, seq_k in ((9, 9), (5, 12), (12, 5)):
        problem = Dense(2, seq_q, seq_k, 2, 1, 8, CALLS[name], usual_dtype(backend), masked)
        inputs, mask = problem.tensors(device), problem.mask(device)
        out = run_dense(backend, *inputs, problem.call, mask)
        exact_inputs = doubles(inputs)
        exact, _ = dense_attention(*exact_inputs, problem.call, None if mask is None else mask.cpu())
        dout = torch.randn(out.shape).to(problem.dtype)
        plain = plain_attention(*inputs, problem.call, mask)[0]
        check_against_loops(backend, (out, exact, plain), dout, (inputs, exact_inputs, inputs))


@pytest.mark.parametrize("name", CALLS)
def test_dropout_and_lse_against_loops(seed: int, backend: str, device: str, name: str) -> None:
    call = with_dropout(CALLS[name], device=device)
    problem = Dense(2, 18, 35, 2, 1, 8, call, usual_dtype(backend), masked=True)
    inputs, mask = problem.tensors(device), problem.mask(device)
    assert mask is not None
    out, lse = run_dense(backend, *inputs, problem.call, mask, return_lse=True)
    exact_inputs = doubles(inputs)
    exact, exact_lse = dense_attention(*exact_inputs, problem.call, mask.cpu())
    plain, plain_lse = plain_attention(*inputs, call, mask)
    assert_lse_close(lse, exact_lse)
    dout, dlse = torch.randn(out.shape).to(problem.dtype), torch.randn(lse.shape)
    finite = exact_lse.isfinite()
    check_against_loops(
        backend,
        (out, exact, plain),
        dout,
        (inputs, exact_inputs, inputs),
        [(x.cpu()[finite] * dlse[finite]).sum() for x in (lse, exact_lse, plain_lse)],
    )


VARLEN = [
    ([5, 0, 17, 1], [5, 0, 17, 1]),
    ([16, 16], [16, 16]),
    ([3, 7, 0, 9], [8, 0, 5, 9]),
    ([0, 0], [0, 4]),
    ([33], [40]),
]


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("call", [Call(), Call(causal=True), Call(window=(3, 1))], ids=["full", "causal", "window"])
@pytest.mark.parametrize(("lengths_q", "lengths_k"), VARLEN)
@pytest.mark.parametrize("beyond", [0, 3])
def test_packed_sequences_against_loops(
    seed: int,
    backend: str,
    device: str,
    lengths_q: list[int],
    lengths_k: list[int],
    call: Call,
    dropout: bool,
    beyond: int,
) -> None:
    """`beyond` rows lie past the last sequence and hold NaN."""
    call = with_dropout(call, device=device) if dropout else call
    inputs, cu_q, cu_k = _packed(lengths_q, lengths_k, beyond, device, usual_dtype(backend))
    out = run_varlen(backend, *inputs, call, cu_q, cu_k, slack=beyond)
    exact_inputs = doubles(inputs)
    exact, _ = varlen_attention(*exact_inputs, call, lengths_q, lengths_k)
    assert out.is_contiguous()
    plain = _plain_varlen(inputs, call, lengths_q, lengths_k)
    dout = torch.randn(out.shape).to(out.dtype)
    dout[sum(lengths_q) :] = torch.nan
    check_against_loops(backend, (out, exact, plain), dout, (inputs, exact_inputs, inputs))


def _plain_varlen(inputs: QKV, call: Call, lengths_q: list[int], lengths_k: list[int]) -> Tensor:
    """The plain expression, sequence by sequence: each is the last of as many equal ones as have its dropout."""
    q, k, v = inputs
    outs: list[Tensor] = []
    row = key = 0
    for s, (seq_q, seq_k) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        parts = (q[row : row + seq_q], k[key : key + seq_k], v[key : key + seq_k])
        equal = (x.expand(s + 1, *x.shape) for x in parts)
        outs.append(plain_attention(*equal, call)[0][s] if seq_k else torch.zeros_like(parts[0]))
        row, key = row + seq_q, key + seq_k
    return torch.cat((*outs, torch.zeros_like(q[row:])))


def _packed(
    lengths_q: list[int], lengths_k: list[int], beyond: int, device: str, dtype: torch.dtype
) -> tuple[QKV, Tensor, Tensor]:
    inputs: list[Tensor] = []
    for lengths, heads in ((lengths_q, 4), (lengths_k, 2), (lengths_k, 2)):
        x = torch.randn(sum(lengths) + beyond, heads, 8, device=device, dtype=dtype)
        x[sum(lengths) :] = torch.nan
        inputs.append(x.requires_grad_())
    cu_q, cu_k = (cumulative_lengths(torch.tensor(lengths)).to(device) for lengths in (lengths_q, lengths_k))
    q, k, v = inputs
    return (q, k, v), cu_q, cu_q if lengths_q == lengths_k else cu_k


def test_packed_lse(seed: int, backend: str, device: str) -> None:
    lengths_q, lengths_k = [3, 7, 0, 9], [8, 0, 5, 9]
    inputs, cu_q, cu_k = _packed(lengths_q, lengths_k, 2, device, usual_dtype(backend))
    out, lse = run_varlen(backend, *inputs, Call(causal=True), cu_q, cu_k, return_lse=True)
    _, exact_lse = varlen_attention(*doubles(inputs), Call(causal=True), lengths_q, lengths_k)
    assert_lse_close(lse, exact_lse)
    (dq, *_) = torch.autograd.grad(lse[:, :3].sum() + out.sum() * 0, inputs)
    assert dq[:3].abs().sum() > 0
    assert dq[3:].eq(0).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_packed_and_right_padded_are_one(seed: int, backend: str, device: str, p: float, causal: bool) -> None:
    lengths = [7, 20, 1, 13]
    call = Call(causal=causal)
    call = with_dropout(call, p, device=device) if p else call
    padded = torch.randn(4, 20, 3, 16, device=device, dtype=usual_dtype(backend))
    mask = torch.arange(20, device=device) < torch.tensor(lengths, device=device)[:, None]
    cu = cumulative_lengths(torch.tensor(lengths)).to(device)
    packed = padded[mask]
    # In the padded form queries are as long as keys, so the diagonal is the same.
    from_padded = run_dense(backend, padded, padded, padded, call, mask)[mask]
    from_packed = run_varlen(backend, packed, packed, packed, call, cu, cu)
    torch.testing.assert_close(from_packed, from_padded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kept_set_is_the_defined_one(seed: int, backend: str, device: str, dtype: torch.dtype) -> None:
    """With V one-hot over head_dim keys, output column j is the weight of key j: zero exactly where dropped."""
    heads, seq_q, seq_k = 2, 40, 64
    call = with_dropout(Call(), 0.3, device=device)
    q = torch.randn(2, seq_q, heads, seq_k, device=device).to(dtype)
    k = torch.randn(2, seq_k, heads, seq_k, device=device).to(dtype)
    v = torch.eye(seq_k, device=device, dtype=dtype)[None, :, None].expand(2, -1, heads, -1)
    out = run_dense(backend, q, k, v, Call(scale=0.05, dropout_p=0.3, rng=call.rng))
    i, j = torch.arange(seq_q).numpy()[:, None], torch.arange(seq_k).numpy()[None, :]
    for b, h in itertools.product(range(2), range(heads)):
        kept = torch.from_numpy(attention_byte(-987654321, 12, b * heads + h, i, j) >= 77)
        assert torch.equal(out[b, :, h].cpu() != 0, kept)


def test_everything_dropped(seed: int, backend: str, device: str) -> None:
    inputs = Dense(2, 5, 7, 2, 1, 8, dtype=usual_dtype(backend)).tensors(device)
    out = run_dense(backend, *inputs, Call(dropout_p=1.0))
    assert out.eq(0).all()
    for gradient in gradients(out, torch.ones_like(out), inputs):
        assert gradient.eq(0).all()


def test_everything_dropped_leaves_the_lse(seed: int, backend: str, device: str) -> None:
    inputs = Dense(2, 5, 7, 2, 1, 8, dtype=usual_dtype(backend)).tensors(device)
    out, lse = run_dense(backend, *inputs, Call(dropout_p=1.0), return_lse=True)
    _, exact_lse = plain_attention(*doubles(inputs), Call())
    assert out.eq(0).all()
    assert_lse_close(lse, exact_lse)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_masked_keys_reach_nothing(seed: int, backend: str, device: str, causal: bool, p: float, poison: float) -> None:
    call = with_dropout(Call(causal=causal), p, device=device) if p else Call(causal=causal)
    inputs = Dense(2, 9, 9, 2, 2, 8, dtype=usual_dtype(backend)).tensors(device)
    mask = torch.ones(2, 9, dtype=torch.bool, device=device)
    mask[0, 6:] = False
    mask[1, 0] = False
    k, v = (x.detach().clone().requires_grad_() for x in inputs[1:])
    poisoned = inputs[0], k, v
    with torch.no_grad():
        for x in poisoned[1:]:
            x[~mask] = poison
    clean_out, out = (run_dense(backend, *x, call, mask) for x in (inputs, poisoned))
    assert torch.equal(out, clean_out)
    dout = torch.randn_like(out)
    for found, wanted in zip(gradients(out, dout, poisoned), gradients(clean_out, dout, inputs), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_keys_that_the_window_hides_from_everybody_reach_nothing(
    seed: int, backend: str, device: str, poison: float
) -> None:
    """Three queries, eight keys, one to the left: they see keys 4 to 7, and what the others hold is nobody's."""
    clean = Dense(1, 3, 8, 4, 2, 8, dtype=usual_dtype(backend)).tensors(device)
    k, v = (x.detach().clone() for x in clean[1:])
    k[:, 0], v[:, :4] = poison, poison
    poisoned = clean[0], k.requires_grad_(), v.requires_grad_()
    outs = [run_dense(backend, *x, Call(window=(1, 0))) for x in (clean, poisoned)]
    assert torch.equal(outs[1], outs[0])
    dout = torch.randn_like(outs[0])
    for found, wanted in zip(gradients(outs[1], dout, poisoned), gradients(outs[0], dout, clean), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("call", [Call(), Call(window=(1, 0)), Call(causal=True)], ids=["full", "window", "causal"])
def test_packed_keys_that_nobody_sees_reach_nothing(seed: int, backend: str, device: str, call: Call) -> None:
    """The first sequence has no query, the second two for seven keys: with the window they see the last three."""
    lengths_q, lengths_k = [0, 2, 3], [4, 7, 3]
    hidden = [*range(4), *range(4, 8)] if call.window else [*range(4)]
    cu_q, cu_k = (cumulative_lengths(torch.tensor(x)).to(device) for x in (lengths_q, lengths_k))
    dtype = usual_dtype(backend)
    shapes = ((5, 4, 8), (14, 2, 8), (14, 2, 8))
    clean = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes]
    k, v = (x.detach().clone() for x in clean[1:])
    k[hidden], v[hidden] = torch.nan, torch.inf
    poisoned = [clean[0], k.requires_grad_(), v.requires_grad_()]
    outs = [run_varlen(backend, *x, call, cu_q, cu_k) for x in (clean, poisoned)]
    assert torch.equal(outs[1], outs[0])
    dout = torch.randn_like(outs[0])
    for found, wanted in zip(gradients(outs[1], dout, poisoned), gradients(outs[0], dout, clean), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_a_negative_scale_is_as_exact_as_a_positive_one(
    seed: int, backend: str, device: str, causal: bool, dtype: torch.dtype
) -> None:
    """-0.37 q in q's type would be rounded once more; -q is not."""
    q, k, v = Dense(1, 64, 64, 2, 2, 64, dtype=dtype).tensors(device)
    found = run_dense(backend, q, k, v, Call(causal=causal, scale=-0.37))
    assert torch.equal(found, run_dense(backend, -q, k, v, Call(causal=causal, scale=0.37)))


def test_a_large_negative_scale_overflows_nothing(seed: int, backend: str, device: str) -> None:
    """|scale| * q is beyond float16, the scores are not."""
    q = (torch.randn(1, 8, 1, 64, device=device) * 3000).half()
    k = (q * 1e-3).half()
    assert run_dense(backend, q, k, k, Call(causal=True, scale=-50.0)).isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_zero_weighs_all_keys_alike(seed: int, backend: str, device: str, dtype: torch.dtype) -> None:
    inputs = Dense(1, 6, 6, 2, 2, 8, dtype=dtype).tensors(device)
    out = run_dense(backend, *inputs, Call(causal=True, scale=0.0))
    means = inputs[2].detach().double().cumsum(1) / torch.arange(1, 7, device=device).view(1, 6, 1, 1)
    torch.testing.assert_close(out.double(), means, rtol=0, atol=4 * torch.finfo(dtype).eps)
    dq, dk, _ = gradients(out, torch.randn_like(out), inputs)
    assert dq.eq(0).all()
    assert dk.eq(0).all()


@pytest.mark.parametrize("poison", [0.0, torch.nan])
def test_rows_that_see_no_key(seed: int, backend: str, device: str, poison: float) -> None:
    """Seven queries, three keys, causal: the first four rows see nothing, whatever they and their gradients hold."""
    inputs = Dense(1, 7, 3, 2, 1, 8, dtype=usual_dtype(backend)).tensors(device)
    with torch.no_grad():
        inputs[0][:, :4] += poison
    out = run_dense(backend, *inputs, Call(causal=True))
    assert out[:, :4].eq(0).all()
    assert out[:, 4:].ne(0).any(dim=-1).all()
    dout = torch.randn_like(out)
    dout[:, :4] += poison
    dq, dk, dv = gradients(out, dout, inputs)
    assert dq[:, :4].eq(0).all()
    for gradient in (dq, dk, dv):
        assert gradient.isfinite().all()


def test_batch_entries_without_keys(seed: int, backend: str, device: str) -> None:
    inputs = Dense(2, 4, 5, 2, 2, 8, dtype=usual_dtype(backend)).tensors(device)
    mask = torch.ones(2, 5, dtype=torch.bool, device=device)
    mask[1] = False
    out = run_dense(backend, *inputs, Call(), mask)
    assert out[1].eq(0).all()
    for gradient in gradients(out, torch.randn_like(out), inputs):
        assert gradient[1].eq(0).all()
        assert gradient.isfinite().all()


def test_lse_of_rows_without_keys(seed: int, backend: str, device: str) -> None:
    inputs = Dense(1, 7, 3, 2, 1, 8, dtype=usual_dtype(backend)).tensors(device)
    _, lse = run_dense(backend, *inputs, Call(causal=True), return_lse=True)
    assert lse[..., :4].eq(-torch.inf).all()
    (dq, *_) = torch.autograd.grad(lse, inputs, torch.ones_like(lse), allow_unused=True)
    assert dq.isfinite().all()
    assert dq[:, :4].eq(0).all()


@pytest.mark.parametrize(("batch", "seq_q", "seq_k"), [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_empty_tensors(backend: str, device: str, batch: int, seq_q: int, seq_k: int) -> None:
    inputs = Dense(batch, seq_q, seq_k, 2, 1, 8, dtype=usual_dtype(backend)).tensors(device)
    out = run_dense(backend, *inputs, Call(causal=True))
    assert out.shape == inputs[0].shape
    assert out.eq(0).all()
    transposed = inputs[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert run_dense(backend, transposed, *inputs[1:], Call(causal=True)).is_contiguous()
    for x, gradient in zip(inputs, gradients(out, torch.ones_like(out), inputs), strict=True):
        assert gradient.shape == x.shape
        assert gradient.eq(0).all()


def test_no_sequences_at_all(backend: str, device: str) -> None:
    q = torch.randn(3, 2, 8, device=device, dtype=usual_dtype(backend), requires_grad=True)
    cu = torch.zeros(1, dtype=torch.int32, device=device)
    out = run_varlen(backend, q, q, q, Call(), cu, cu, slack=4)
    assert out.eq(0).all()
    assert gradients(out, torch.ones_like(out), [q])[0].eq(0).all()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "heads first in memory": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "a slice of a fused projection": lambda x: torch.cat((x, x, x), dim=-1)[..., : x.shape[-1]],
    "every other row": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "last dimension strided": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "last dimension first in memory": lambda x: x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(seed: int, backend: str, device: str, layout: str) -> None:
    inputs = Dense(2, 6, 9, 4, 2, 8, dtype=usual_dtype(backend)).tensors(device)
    q, k, v = (LAYOUTS[layout](x) for x in inputs)
    wanted, out = (run_dense(backend, *x, Call(causal=True)) for x in (inputs, (q, k, v)))
    assert out.is_contiguous()
    torch.testing.assert_close(out, wanted)
    dout = LAYOUTS[layout](torch.randn_like(out))
    for found, expected in zip(gradients(out, dout, inputs), gradients(wanted, dout, inputs), strict=True):
        torch.testing.assert_close(found, expected)


def test_expanded_gradient(seed: int, backend: str, device: str) -> None:
    """out.sum() sends a gradient whose strides are all zero."""
    inputs = Dense(2, 6, 9, 2, 2, 8, dtype=usual_dtype(backend)).tensors(device)
    out = run_dense(backend, *inputs, Call())
    wanted = gradients(run_dense(backend, *inputs, Call()), torch.ones(out.shape), inputs)
    for found, expected in zip(torch.autograd.grad(out.sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(found, expected)


def test_inputs_that_need_no_gradient(seed: int, backend: str, device: str) -> None:
    q, k, v = Dense(1, 4, 4, 1, 1, 8, dtype=usual_dtype(backend)).tensors(device)
    out = run_dense(backend, q.detach(), k.detach(), v, Call())
    torch.autograd.grad(out.sum(), [v])
    assert not run_dense(backend, q.detach(), k.detach(), v.detach(), Call()).requires_grad


def test_large_scores(seed: int, backend: str, device: str) -> None:
    """Scores of some 10^4 overflow an exponential whose maximum is not taken off."""
    inputs = Dense(1, 17, 33, 2, 2, 16, dtype=usual_dtype(backend)).tensors(device)
    out = run_dense(backend, *inputs, Call(scale=1000.0))
    exact, _ = plain_attention(*doubles(inputs), Call(scale=1000.0))
    plain, _ = plain_attention(*inputs, Call(scale=1000.0))
    assert_close("out", out, exact, plain)
    for gradient in gradients(out, torch.randn_like(out), inputs):
        assert gradient.isfinite().all()


def test_weights_far_below_the_largest_are_exactly_zero(backend: str, device: str) -> None:
    """A score 200 below the largest has the weight e^-200, and no value that float32 holds makes that visible."""
    q, k, v = (torch.zeros(1, n, 1, 1, device=device, dtype=usual_dtype(backend)) for n in (1, 64, 64))
    q.fill_(1)
    k[:, 0], v[:, 1:] = 200, 3e38
    assert run_dense(backend, q, k, v, Call(scale=1.0)).eq(0).all()


@pytest.mark.parametrize("deterministic", [None, True])
@pytest.mark.parametrize("dropout", [False, True])
def test_repeats_are_bitwise_equal(
    seed: int, backend: str, device: str, dropout: bool, deterministic: bool | None
) -> None:
    if device == "cuda" and not deterministic:
        pytest.skip("repeats on CUDA are equal only where that is asked for")
    call = with_dropout(Call(causal=True), device=device) if dropout else Call(causal=True)
    inputs = Dense(3, 65, 70, 4, 2, 32, dtype=usual_dtype(backend)).tensors(device)
    dout = torch.randn_like(inputs[0])

    def run() -> list[Any]:
        out = run_dense(backend, *inputs, call, deterministic=deterministic)
        return [out, *gradients(out, dout, inputs)]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(), first, strict=True))


def test_autocast(seed: int, backend: str, device: str) -> None:
    inputs = Dense(2, 9, 9, 2, 2, 16).tensors(device)
    with torch.autocast(device, torch.bfloat16):
        out = run_dense(backend, inputs[0], inputs[1].half(), inputs[2].bfloat16(), Call(causal=True))
    assert out.dtype == torch.bfloat16
    wanted = run_dense(backend, inputs[0].bfloat16(), inputs[1].half().bfloat16(), inputs[2].bfloat16(), Call(True))
    assert torch.equal(out, wanted)
    with torch.autocast(device, torch.bfloat16):
        found = gradients(out, torch.ones_like(out), inputs)
    for gradient, expected in zip(found, gradients(wanted, torch.ones_like(out), inputs), strict=True):
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, expected)


def test_lengths_that_lie_are_clamped(seed: int, backend: str, device: str) -> None:
    """Wrong cumulative lengths give wrong numbers at worst: no error from memory that is not there.

    Sequences that overlap have rows that two blocks write, so the emulator must not look for races.
    """
    q = torch.randn(6, 2, 8, device=device, dtype=usual_dtype(backend), requires_grad=True)
    for lies in ([0, 4, 900], [3, 1, 2], [-5, 2, 6], [0, 2**31 - 1, 5]):
        cu = torch.tensor(lies, dtype=torch.int32, device=device)
        with emulation(Emulation(options=Options(races=False))):
            out = run_varlen(backend, q, q, q, Call(causal=True), cu, cu)
            assert out.isfinite().all()
            assert gradients(out, torch.ones_like(out), [q])[0].isfinite().all()
