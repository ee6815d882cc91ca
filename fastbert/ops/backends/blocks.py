"""Cutting a call into blocks of float32 scores that fit a budget: what the reference computes at a time.

A block is a run of consecutive sequences and some of their heads. Packed sequences are padded run by run, so the
padding, like every intermediate result, stays small enough for the cache, and a run is only as wide as its own longest
sequence where lengths can be read. Elsewhere every sequence may be as long as the caller's bound. Dropout's bytes are
drawn block by block too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastbert.ops import philox
from fastbert.ops.backends.layout import PaddedLayout, host_readable, select
from fastbert.ops.backends.visibility import seen_keys, visible_keys
from fastbert.ops.problem import AttentionOptions

# Scores computed at a time, in elements.
_BUDGET_ON_CPU = 1 << 19
_BUDGET_ELSEWHERE = 1 << 26


@dataclass(frozen=True)
class Side:
    """The rows of a run in the caller's tensors: of q, out and lse, or of k and v.

    Attributes:
        rows: slice of dimension 0, sequences of a dense call or tokens of a packed one.
        seq: rows of a sequence in dense form.
        layout: how the tokens make sequences, or None in a dense call.
        shared: whether rows of other runs lie among these.
    """

    rows: slice
    seq: int
    layout: PaddedLayout | None
    shared: bool = False

    def read(self, x: Tensor, heads: slice) -> Tensor:
        """float32 (batch, heads, seq, n), contiguous."""
        x = x[self.rows]
        if self.layout is not None:
            x = self.layout.pad(x)
        return x[:, :, heads].transpose(1, 2).to(torch.float32).contiguous()

    def write(self, x: Tensor, heads: slice, values: Tensor, fill: float = 0) -> None:
        """The inverse of read; the fill goes to rows of no sequence."""
        values = values.transpose(1, 2)
        if self.layout is not None:
            values = self.layout.pack(values, fill)
            if self.shared:
                values = torch.where(self.layout.owned[:, None, None], values, x[self.rows, ..., heads, :])
        x[self.rows, ..., heads, :] = values


@dataclass(frozen=True)
class Run:
    """Consecutive sequences.

    Attributes:
        batch: which ones.
        queries: their query rows.
        keys: their key rows.
    """

    batch: slice
    queries: Side
    keys: Side

    @property
    def scores_per_head(self) -> int:
        """Of all sequences together, padding included."""
        return int(self.batch.stop - self.batch.start) * self.queries.seq * self.keys.seq


@dataclass(frozen=True)
class Block:
    """Some heads of a run, ready to compute with.

    Attributes:
        run: which sequences.
        heads: of the queries.
        kv_heads: of keys and values.
        q: float32 (batch, heads, seq_q, head_dim), multiplied by the scale.
        k: float32 (batch, kv_heads, seq_k, head_dim), zeros in rows that no query sees.
        v: as k.
        visible: bool, broadcastable to (batch, 1, seq_q, seq_k), or None where every query sees every key.
        sees: bool, broadcastable to (batch, 1, seq_q, 1): rows that see a key, or None where all do.
        kept: float32 (batch, heads, seq_q, seq_k), 0 where a weight is dropped and 1 elsewhere, or None.
    """

    run: Run
    heads: slice
    kv_heads: slice
    q: Tensor
    k: Tensor
    v: Tensor
    visible: Tensor | None
    sees: Tensor | None
    kept: Tensor | None


def blocks(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Iterator[Block]:
    """Every block of a call that has scores at all; rows that no block covers see no key."""
    if q.numel() == 0 or k.numel() == 0:
        return
    heads, kv_heads = q.shape[-2], k.shape[-2]
    group = heads // kv_heads
    budget = _BUDGET_ON_CPU if q.device.type == "cpu" else _BUDGET_ELSEWHERE
    for run in _runs(q, k, options, budget // heads):
        if not run.scores_per_head:
            continue
        visible, living = _visible(run, options, q.device), _living(run, options, q.device)
        sees = None if visible is None else visible.any(dim=-1, keepdim=True)
        step = max(1, budget // (run.scores_per_head * group))
        for first in range(0, kv_heads, step):
            h_k = slice(first, min(first + step, kv_heads))
            h = slice(h_k.start * group, h_k.stop * group)
            k_block, v_block = run.keys.read(k, h_k), run.keys.read(v, h_k)
            if living is not None:
                k_block, v_block = select(living[:, None], k_block), select(living[:, None], v_block)
            kept = _kept(run, h, heads, options)
            q_block = run.queries.read(q, h) * options.scale
            yield Block(run, h, h_k, q_block, k_block, v_block, visible, sees, kept)


def _runs(q: Tensor, k: Tensor, options: AttentionOptions, budget: int) -> Iterator[Run]:
    """Runs of at most `budget` scores a head, or of one sequence."""
    if options.cu_seqlens_q is None or options.cu_seqlens_k is None:
        seq_q, seq_k = q.shape[1], k.shape[1]
        step = max(1, budget // max(1, seq_q * seq_k))
        for first in range(0, q.shape[0], step):
            rows = slice(first, min(first + step, q.shape[0]))
            yield Run(rows, Side(rows, seq_q, None), Side(rows, seq_k, None))
        return
    n = options.cu_seqlens_q.shape[0] - 1
    if not (host_readable(options.cu_seqlens_q) and host_readable(options.cu_seqlens_k)):
        step = max(1, budget // max(1, options.max_seqlen_q * options.max_seqlen_k))
        everything_q, everything_k = slice(0, q.shape[0]), slice(0, k.shape[0])
        for first in range(0, n, step):
            batch = slice(first, min(first + step, n))
            yield _packed_run(options, batch, everything_q, everything_k, shared=step < n)
        return
    bounds_q = [min(max(bound, 0), q.shape[0]) for bound in options.cu_seqlens_q.tolist()]
    bounds_k = [min(max(bound, 0), k.shape[0]) for bound in options.cu_seqlens_k.tolist()]
    first = 0
    while first < n:
        stop = _end_of_run(bounds_q, bounds_k, first, budget)
        batch = slice(first, stop)
        yield _packed_run(options, batch, _token_rows(bounds_q, batch), _token_rows(bounds_k, batch))
        first = stop


def _end_of_run(bounds_q: list[int], bounds_k: list[int], first: int, budget: int) -> int:
    longest_q = longest_k = 0
    stop = first
    while stop < len(bounds_q) - 1:
        longest_q = max(longest_q, bounds_q[stop + 1] - bounds_q[stop])
        longest_k = max(longest_k, bounds_k[stop + 1] - bounds_k[stop])
        if stop > first and (stop + 1 - first) * longest_q * longest_k > budget:
            break
        stop += 1
    return stop


def _token_rows(bounds: list[int], batch: slice) -> slice:
    return slice(bounds[batch.start], max(bounds[batch.start], bounds[batch.stop]))


def _packed_run(options: AttentionOptions, batch: slice, rows_q: slice, rows_k: slice, shared: bool = False) -> Run:
    sides = []
    for cu_seqlens, rows, bound, name in (
        (options.cu_seqlens_q, rows_q, options.max_seqlen_q, "max_seqlen_q"),
        (options.cu_seqlens_k, rows_k, options.max_seqlen_k, "max_seqlen_k"),
    ):
        assert cu_seqlens is not None
        local = cu_seqlens[batch.start : batch.stop + 1] - rows.start
        layout = PaddedLayout.of(local, rows.stop - rows.start, bound, name)
        sides.append(Side(rows, layout.max_seqlen, layout, shared))
    return Run(batch, *sides)


def _visible(run: Run, options: AttentionOptions, device: torch.device) -> Tensor | None:
    queries, keys = run.queries, run.keys
    if queries.layout is None or keys.layout is None:
        living = None if options.key_padding_mask is None else options.key_padding_mask[run.batch]
        diagonal: Tensor | int = keys.seq - queries.seq
    else:
        living = keys.layout.alive
        diagonal = keys.layout.lengths - queries.layout.lengths
        if queries.layout.alive is None and keys.layout.alive is None:
            diagonal = keys.seq - queries.seq
    return visible_keys(queries.seq, keys.seq, diagonal, options.window_left, options.window_right, living, device)


def _living(run: Run, options: AttentionOptions, device: torch.device) -> Tensor | None:
    """bool (batch or 1, seq_k): keys that may hold anything but zeros, beside what padding them has zeroed already."""
    queries, keys = run.queries, run.keys
    left, right = options.window_left, options.window_right
    if queries.layout is None or keys.layout is None:
        seen = seen_keys(keys.seq, queries.seq, keys.seq - queries.seq, left, right, device)
        if options.key_padding_mask is None:
            return seen
        living = options.key_padding_mask[run.batch]
        return living if seen is None else living & seen
    if options.cu_seqlens_q is options.cu_seqlens_k:
        return None  # the window of a sequence's queries over itself leaves no key of it out
    lengths_q, diagonal = queries.layout.lengths, keys.layout.lengths - queries.layout.lengths
    return seen_keys(keys.seq, lengths_q, diagonal, left, right, device)


def _kept(run: Run, heads: slice, total_heads: int, options: AttentionOptions) -> Tensor | None:
    if not options.dropout_threshold or options.rng is None:
        return None
    random = philox.attention_bytes(
        options.rng,
        run.batch.stop - run.batch.start,
        heads.stop - heads.start,
        run.queries.seq,
        run.keys.seq,
        first_sequence=run.batch.start,
        first_head=heads.start,
        total_heads=total_heads,
    )
    # 1 where byte >= threshold, else 0. In arithmetic, because torch's comparison and masked_fill of bytes are several
    # times slower on the CPU than its vectorised clamp and multiplication.
    least = options.dropout_threshold - 1
    return (random.clamp(least, least + 1) - least).to(torch.float32)
