"""Attention straight from the definition, in plain torch: what every other backend is compared with.

Scores, softmax and dropout are written out, computed in float32 whatever the inputs are, on any device. The backward
is the usual one from the saved log-sum-exp (Dao et al., FlashAttention, 2022, appendix B): P = exp(S - lse),
dS = P * (dP - rowsum(P * dP) + dlse), with dropout folded in. Kernels take rowsum(dO * O) for the sum, which is equal
and cheaper for them; here the sum as it stands is exact where a row sees one key, and does not read a rounded O. All
of it is written in differentiable operators, so second derivatives work here and only here.

It is also what trains with dropout where no kernel does, so it is not naive: see :mod:`fastbert.ops.backends.blocks`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastbert.ops import philox
from fastbert.ops.backends.blocks import Block, blocks
from fastbert.ops.backends.interface import KernelBackend
from fastbert.ops.problem import AttentionOptions, AttentionProblem, lse_shape


def supports(problem: AttentionProblem) -> str | None:
    """Everything."""
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    """See :class:`KernelBackend`; float32 inside."""
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.full(lse_shape(q), -math.inf, dtype=torch.float32, device=q.device)
    for block in blocks(q, k, v, options):
        block_out, block_lse = _attend(block)
        if block.kept is not None:
            block_out = block_out * philox.survivor_scale(options.dropout_threshold)
        block.run.queries.write(out, block.heads, block_out)
        block.run.queries.write(_as_rows(lse), block.heads, block_lse, fill=-math.inf)
    return out, lse


def backward(
    dout: Tensor | None,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    options: AttentionOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :class:`KernelBackend`; float32 inside, differentiable."""
    dout = torch.zeros_like(out) if dout is None else dout
    dlse = torch.zeros_like(lse) if dlse is None else dlse
    dq, dk, dv = (torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    survivor_scale = philox.survivor_scale(options.dropout_threshold)
    for block in blocks(q, k, v, options):
        queries, keys = block.run.queries, block.run.keys
        of_block = (queries.read(x, block.heads) for x in (dout, _as_rows(dlse), _as_rows(lse)))
        block_dq, block_dk, block_dv = _attend_backward(block, *of_block, survivor_scale=survivor_scale)
        queries.write(dq, block.heads, block_dq * options.scale)
        keys.write(dk, block.kv_heads, block_dk)
        keys.write(dv, block.kv_heads, block_dv)
    return dq, dk, dv


def _as_rows(lse: Tensor) -> Tensor:
    """A view of a log-sum-exp in q's layout, with one column: (batch, seq, heads, 1) or (total, heads, 1)."""
    return lse.transpose(-1, -2).unsqueeze(-1)


def _attend(block: Block) -> tuple[Tensor, Tensor]:
    """softmax(q k^T) v without the survivors' scale, and the log-sum-exp (batch, heads, seq_q, 1)."""
    scores = _scores(block.q, block.k)
    if block.visible is not None and block.sees is not None:
        # A row that sees no key is shown all of them, so that softmax makes no NaN, and is deselected below.
        scores = torch.where(block.visible | ~block.sees, scores, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    # The largest weight is exp(max - lse), so the log-sum-exp needs no exponentials of its own.
    lse = scores.amax(dim=-1, keepdim=True) - weights.amax(dim=-1, keepdim=True).log()
    if block.kept is not None:
        weights.mul_(block.kept)
    out = (_fold(weights, block.k) @ block.v).view(block.q.shape)
    if block.sees is not None:
        out = torch.where(block.sees, out, 0)
        lse = torch.where(block.sees, lse, -math.inf)
    return out, lse


def _attend_backward(
    block: Block, dout: Tensor, dlse: Tensor, lse: Tensor, *, survivor_scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of one block: (of q times the scale, of k, of v)."""
    q = block.q
    if block.sees is not None:
        # exp(S - inf) = 0: a row that sees no key has no weights, and whatever came for it reaches nothing.
        q, dout, dlse = (torch.where(block.sees, x, 0) for x in (q, dout, dlse))
        lse = torch.where(block.sees, lse, math.inf)
    scores = _scores(q, block.k)
    if block.visible is not None:
        scores = torch.where(block.visible, scores, -math.inf)
    p = scores.sub_(lse).exp_()
    dout_folded = _fold(dout * survivor_scale, block.k)
    dp = (dout_folded @ block.v.transpose(-1, -2)).view(p.shape)
    p_kept = p
    if block.kept is not None:
        p_kept = p * block.kept
        dp.mul_(block.kept)
    dv = _fold(p_kept, block.k).transpose(-1, -2) @ dout_folded
    p_dp = p * dp
    ds = torch.addcmul(p_dp, p, dlse - p_dp.sum(dim=-1, keepdim=True))
    ds = _fold(ds, block.k)
    dq = (ds @ block.k).view(q.shape)
    dk = ds.transpose(-1, -2) @ _fold(q, block.k)
    return dq, dk, dv


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """(batch, heads, seq_q, seq_k)"""
    return (_fold(q, k) @ k.transpose(-1, -2)).view(*q.shape[:-1], k.shape[-2])


def _fold(x: Tensor, k: Tensor) -> Tensor:
    """(batch, heads, seq_q, n) -> (batch, kv_heads, heads / kv_heads * seq_q, n): rows that share a key head."""
    return x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


BACKEND = KernelBackend("reference", supports, forward, backward, differentiable=True)
