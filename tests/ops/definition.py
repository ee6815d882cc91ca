"""Attention and its dropout bits written a second time, from the definition alone, for tests to compare with.

Nothing here comes from fastbert: the generator is numpy, the sums are float64, and sequences, heads and queries are
plain loops.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WORD = np.uint64(0xFFFFFFFF)


def philox4x32(counter: list[np.ndarray], key: tuple[int, int], rounds: int = 7) -> list[np.ndarray]:
    """Salmon et al. 2011, figure 2, in uint64 arithmetic."""
    x0, x1, x2, x3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(rounds):
        product0 = np.uint64(0xD2511F53) * x0
        product1 = np.uint64(0xCD9E8D57) * x2
        x0 = (product1 >> np.uint64(32)) ^ x1 ^ np.uint64(k0)
        x2 = (product0 >> np.uint64(32)) ^ x3 ^ np.uint64(k1)
        x1 = product1 & WORD
        x3 = product0 & WORD
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]


def attention_byte(seed: int, offset: int, head_index: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """The random byte of queries i and keys j (broadcast) of head ``batch_index * heads + head``."""
    i, j = np.broadcast_arrays(i, j)
    counter = [
        (j // 32) * 32 + (i % 8) * 4 + (j % 8) // 2,
        i // 16,
        np.full(i.shape, head_index),
        np.full(i.shape, offset % 2**32),
    ]
    words = np.stack(philox4x32(counter, _key(seed)))
    word = np.take_along_axis(words, ((j % 32) // 8)[None], axis=0)[0]
    byte = (j % 2) + 2 * ((i % 16) // 8)
    return np.asarray((word >> (8 * byte).astype(np.uint64)) & np.uint64(0xFF))


def elementwise_byte(seed: int, offset: int, site: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The random byte of rows and columns (broadcast) of an activation."""
    row, column = np.broadcast_arrays(row, column)
    counter = [column // 16, row, np.full(row.shape, 2**31 | site), np.full(row.shape, offset % 2**32)]
    words = np.stack(philox4x32(counter, _key(seed)))
    place = column % 16
    word = np.take_along_axis(words, (place // 4)[None], axis=0)[0]
    return np.asarray((word >> (8 * (place % 4)).astype(np.uint64)) & np.uint64(0xFF))


def _key(seed: int) -> tuple[int, int]:
    return seed % 2**32, (seed >> 32) % 2**32


@dataclass(frozen=True)
class Call:
    """The options of a call as the definition has them."""

    causal: bool = False
    window: tuple[int | None, int | None] | None = None
    scale: float | None = None
    dropout_p: float = 0.0
    rng: Tensor | None = None


def visible(seq_q: int, seq_k: int, call: Call, living: list[bool] | None = None) -> np.ndarray:
    """Bool (seq_q, seq_k), one pair at a time."""
    result = np.zeros((seq_q, seq_k), dtype=bool)
    d = seq_k - seq_q
    left, right = call.window or (None, None)
    for i in range(seq_q):
        for j in range(seq_k):
            seen = not call.causal or j <= i + d
            seen = seen and (left is None or j >= i + d - left)
            seen = seen and (right is None or j <= i + d + right)
            result[i, j] = seen and (living is None or living[j])
    return result


def sequence_attention(
    q: Tensor, k: Tensor, v: Tensor, call: Call, batch_index: int = 0, living: list[bool] | None = None
) -> tuple[Tensor, Tensor]:
    """One sequence: q (seq_q, heads, head_dim) -> out (seq_q, heads, head_dim), lse (heads, seq_q), differentiable.

    Only what a row sees enters its sum, so a row that sees nothing has no gradient at all.
    """
    seq_q, heads, head_dim = q.shape
    group = heads // k.shape[1]
    scale = head_dim**-0.5 if call.scale is None else call.scale
    seen = visible(seq_q, k.shape[0], call, living)
    kept_scale = _kept_scale(call, batch_index, heads, seq_q, k.shape[0])
    out_rows, lse_rows = [], []
    for i in range(seq_q):
        keys = np.flatnonzero(seen[i]).tolist()
        for h in range(heads):
            if not keys:
                out_rows.append(q.new_zeros(head_dim))
                lse_rows.append(q.new_tensor(-math.inf))
                continue
            scores = scale * (k[keys, h // group] @ q[i, h])
            lse = torch.logsumexp(scores, dim=0)
            weights = torch.exp(scores - lse)
            if kept_scale is not None:
                weights = weights * kept_scale[h, i, keys].to(weights)
            out_rows.append(weights @ v[keys, h // group])
            lse_rows.append(lse)
    nothing = 0 * (q.sum() + k.sum() + v.sum())  # so that there are gradients, of zero, when nothing is seen at all
    if seq_q == 0:
        return q.new_zeros(q.shape) + nothing, q.new_zeros(heads, 0)
    return torch.stack(out_rows).view(q.shape) + nothing, torch.stack(lse_rows).view(seq_q, heads).t()


def _kept_scale(call: Call, batch_index: int, heads: int, seq_q: int, seq_k: int) -> Tensor | None:
    if call.dropout_p == 0:
        return None
    assert call.rng is not None
    seed, offset = call.rng.tolist()
    t = min(255, max(1, math.floor(256 * call.dropout_p + 0.5)))
    i, j = np.arange(seq_q)[:, None], np.arange(seq_k)[None, :]
    bytes_ = np.stack([attention_byte(seed, offset, batch_index * heads + h, i, j) for h in range(heads)])
    return torch.from_numpy(np.where(bytes_ >= t, 256 / (256 - t), 0.0))


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, call: Call, key_padding_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(batch, seq, heads, head_dim) -> out of q's shape, lse (batch, heads, seq_q)."""
    outs, lses = [], []
    for b in range(q.shape[0]):
        living = None if key_padding_mask is None else key_padding_mask[b].tolist()
        out, lse = sequence_attention(q[b], k[b], v[b], call, b, living)
        outs.append(out)
        lses.append(lse)
    return torch.stack(outs), torch.stack(lses)


def varlen_attention(
    q: Tensor, k: Tensor, v: Tensor, call: Call, lengths_q: list[int], lengths_k: list[int]
) -> tuple[Tensor, Tensor]:
    """(total, heads, head_dim) -> out of q's shape, lse (heads, total_q); rows past the lengths are 0 and -inf."""
    outs, lses = [], []
    start_q = start_k = 0
    for s, (length_q, length_k) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        rows_q, rows_k = slice(start_q, start_q + length_q), slice(start_k, start_k + length_k)
        out, lse = sequence_attention(q[rows_q], k[rows_k], v[rows_k], call, s)
        outs.append(out)
        lses.append(lse)
        start_q, start_k = rows_q.stop, rows_k.stop
    rest = q.shape[0] - start_q
    outs.append(q.new_zeros(rest, *q.shape[1:]))
    lses.append(q.new_full((q.shape[1], rest), -math.inf))
    return torch.cat(outs), torch.cat(lses, dim=1)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, call: Call, key_padding_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The expression one writes in PyTorch, in the inputs' own type: the yardstick of rounding errors.

    In float64 it is also the reference where loops would take too long; a test compares the two on small problems.
    """
    batch, seq_q, heads, head_dim = q.shape
    seq_k = k.shape[1]
    group = heads // k.shape[2]
    scale = head_dim**-0.5 if call.scale is None else call.scale
    seen = torch.from_numpy(visible(seq_q, seq_k, call)).to(q.device)[None, None]
    if key_padding_mask is not None:
        seen = seen & key_padding_mask[:, None, None, :]
        k = torch.where(key_padding_mask[:, :, None, None], k, 0)
        v = torch.where(key_padding_mask[:, :, None, None], v, 0)
    sees = seen.any(dim=-1, keepdim=True)
    k, v = (x.repeat_interleave(group, dim=2).transpose(1, 2) for x in (k, v))
    scores = scale * (q.transpose(1, 2) @ k.transpose(-1, -2))
    scores = torch.where(seen | ~sees, scores, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    lse = torch.where(sees[..., 0], torch.logsumexp(scores, dim=-1), -math.inf)
    if call.dropout_p:
        kept = [_kept_scale(call, b, heads, seq_q, seq_k) for b in range(batch)]
        weights = weights * torch.stack([x for x in kept if x is not None]).to(weights)
    out = torch.where(sees, weights @ v, 0)
    return out.transpose(1, 2), lse
