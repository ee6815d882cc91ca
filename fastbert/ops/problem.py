"""One attention call, described: what backends are chosen by, and what they are handed beside q, k and v.

Both are named tuples: as immutable as frozen dataclasses, and three microseconds a call cheaper to make.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionProblem(NamedTuple):
    """The shapes, types and options of one call, without any tensor: what a backend says yes or no to.

    Attributes:
        device_type: "cpu", "cuda", ...
        dtype: of q, k and v.
        varlen: packed (total, heads, head_dim) tensors with cumulative lengths.
        batch: sequences.
        heads: query heads.
        kv_heads: key and value heads, a divisor of heads.
        head_dim: 1 to 256.
        seq_q: query length; in varlen the upper bound ``max_seqlen_q``.
        seq_k: key length; in varlen the upper bound ``max_seqlen_k``.
        window_left: query i sees no key left of i + d - window_left, with d = seq_k - seq_q; None = unbounded.
        window_right: query i sees no key right of i + d + window_right; None = unbounded. Causal is 0. Both bounds
            may be negative here, which is how another alignment of the diagonal is expressed.
        key_padding_mask: whether there is one.
        dropout: whether attention weights are dropped.
        return_lse: whether the caller reads the log-sum-exp.
        deterministic: whether bitwise equal repeats were asked for.
        requires_grad: whether a backward may follow.
    """

    device_type: str
    dtype: torch.dtype
    varlen: bool
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    seq_q: int
    seq_k: int
    window_left: int | None = None
    window_right: int | None = None
    key_padding_mask: bool = False
    dropout: bool = False
    return_lse: bool = False
    deterministic: bool = False
    requires_grad: bool = False


class AttentionOptions(NamedTuple):
    """Everything a backend computes with beside q, k and v.

    Attributes:
        window_left: see :class:`AttentionProblem`.
        window_right: see :class:`AttentionProblem`.
        scale: what scores are multiplied by.
        dropout_threshold: 0 = no dropout, else 1 to 255: a weight survives where its random byte is at least this.
        deterministic: bitwise equal repeats.
        key_padding_mask: bool (batch, seq_k), True = a key; dense calls only.
        rng: int64 (2,), seed and offset; not None where there is dropout.
        cu_seqlens_q: int32 (n + 1,) in varlen calls, else None.
        cu_seqlens_k: int32 (n + 1,) in varlen calls, else None.
        max_seqlen_q: upper bound of the query lengths in varlen calls, else seq_q.
        max_seqlen_k: upper bound of the key lengths in varlen calls, else seq_k.
    """

    window_left: int | None
    window_right: int | None
    scale: float
    dropout_threshold: int
    deterministic: bool
    key_padding_mask: Tensor | None
    rng: Tensor | None
    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    max_seqlen_q: int
    max_seqlen_k: int


def lse_shape(q: Tensor) -> tuple[int, ...]:
    """(batch, heads, seq_q), or (heads, total_q) for packed queries."""
    return (q.shape[1], q.shape[0]) if q.dim() == 3 else (q.shape[0], q.shape[2], q.shape[1])
