"""Attention, forward: out = dropout(softmax(scale q k^T)) v, and the log-sum-exp of the scores.

A program computes block_q queries of one head: it walks the key tiles that its band touches with a running maximum and
sum (Dao et al., FlashAttention, 2022), first those without masks, then those at the band's edges.

Layout: q (batch, seq_q, heads, head_dim), k and v (batch, seq_k, kv_heads, head_dim), any strides, the last one 1;
packed calls have cu_seqlens and no batch. out is contiguous in q's layout, lse is float32 (batch, heads, seq_q) or
(heads, total). The grid has one dimension: tiles, fastest, then heads, then sequences; packed calls have one sequence
more, which clears the rows past the last one.

The maximum is taken of the raw products, so the largest score has the weight 2^0 = 1 in every bit, and a row that sees
one key returns that key's value. A negative scale turns the queries' sign; |scale| is what the kernel multiplies by.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert.kernels.attention_tiles import (
    LOG2_E,
    VALUES,
    band_tiles,
    clear_unowned_rows,
    dot,
    head_rows,
    in_band,
    living_keys,
    load_rows,
    seen_keys,
    sequence_rows,
    statistics,
    store_rows,
    tile_count,
    tile_start,
)
from fastbert.kernels.philox import kept_weights
from fastbert.kernels.rounding import rounded, widened


@triton.jit(do_not_specialize=VALUES)
def attention_forward(
    q,
    k,
    v,
    out,
    lse,
    cu_seqlens_q,  # int32 (sequences + 1,), or None in a dense call
    cu_seqlens_k,
    key_padding_mask,  # uint8 (batch, seq_k), or None
    rng,  # int64 seed and offset, or None without dropout
    q_batch,
    q_row,
    q_head,
    k_batch,
    k_row,
    k_head,
    v_batch,
    v_row,
    v_head,
    sequences,
    heads,
    group,  # query heads that share a key head
    total_q,  # rows of the buffers in packed calls
    total_k,
    seq_q,  # lengths, or their upper bounds in packed calls
    seq_k,
    tiles,  # of the longest sequence
    window_left,
    window_right,
    scale,
    dropout_threshold,
    has_left: tl.constexpr,
    has_right: tl.constexpr,
    head_dim: tl.constexpr,
    dim: tl.constexpr,  # head_dim, rounded up to what a tile may have
    precision: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
):
    """See the head of this file."""
    tile, head_index = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    head, sequence = (head_index % heads).to(tl.int64), (head_index // heads).to(tl.int64)
    if has_right:
        tile = tiles - 1 - tile  # later queries see more keys, and the last programs of a grid should be short ones
    first_q, out_row = tile * block_q, heads * head_dim
    start_q, rows_q, past_q = sequence_rows(cu_seqlens_q, sequence, sequences, total_q, seq_q)
    start_k, rows_k, _ = sequence_rows(cu_seqlens_k, sequence, sequences, total_k, seq_k)
    out += head * head_dim
    if cu_seqlens_q is not None:
        clear_unowned_rows(
            out,
            out_row,
            0.0,
            cu_seqlens_q,
            sequence,
            sequences,
            total_q,
            start_q + rows_q,
            past_q,
            tile,
            tiles,
            block_q,
            head_dim,
            dim,
        )
        clear_unowned_rows(
            lse + head * total_q,
            1,
            -float("inf"),
            cu_seqlens_q,
            sequence,
            sequences,
            total_q,
            start_q + rows_q,
            past_q,
            tile,
            tiles,
            block_q,
            1,
            1,
        )
    if first_q >= rows_q:
        return
    q = head_rows(q, q_batch, q_row, q_head, cu_seqlens_q, sequence, start_q, head)
    k = head_rows(k, k_batch, k_row, k_head, cu_seqlens_k, sequence, start_k, head // group)
    v = head_rows(v, v_batch, v_row, v_head, cu_seqlens_k, sequence, start_k, head // group)
    out += start_q * out_row
    lse = statistics(lse, cu_seqlens_q, sequence, start_q, head, heads, total_q, seq_q)
    if key_padding_mask is not None:
        key_padding_mask += sequence * seq_k

    diagonal = rows_k - rows_q
    begin, end, whole = seen_keys(
        key_padding_mask, rows_q, rows_k, diagonal, window_left, window_right, has_left, has_right
    )
    last_q = tl.minimum(first_q + block_q, rows_q)
    low, full_low, full_high, high = band_tiles(
        first_q, last_q, diagonal, window_left, window_right, begin, end, whole, has_left, has_right, block_k
    )
    row = first_q + tl.arange(0, block_q)
    query = load_rows(q, q_row, first_q, row < rows_q, block_q, head_dim, dim)
    query = rounded(widened(query) * tl.where(scale < 0, -1.0, 1.0), query.dtype)
    # 0 would make NaN of a masked score, and 1e-37 makes the same weights of the others.
    exponent = tl.maximum(tl.abs(scale) * LOG2_E, 1e-37)
    top = tl.full((block_q,), -float("inf"), tl.float32)
    total = tl.zeros((block_q,), tl.float32)
    result = tl.zeros((block_q, dim), tl.float32)
    for masked in tl.static_range(2):
        for n in range(tile_count(low, full_low, full_high, high, masked, block_k)):
            first_k = tile_start(n, low, full_low, full_high, masked, block_k)
            alive = None
            if masked:
                column = first_k + tl.arange(0, block_k)
                alive = living_keys(key_padding_mask, column, (column >= begin) & (column < end))
            key = load_rows(k, k_row, first_k, alive, block_k, head_dim, dim)
            score = dot(query, tl.trans(key), precision)
            if masked:
                visible = in_band(
                    alive[None, :],
                    row[:, None],
                    column[None, :],
                    diagonal,
                    window_left,
                    window_right,
                    has_left,
                    has_right,
                )
                score = tl.where(visible, score, -float("inf"))
            higher = tl.maximum(top, tl.max(score, 1))
            reference = higher
            if masked:
                reference = tl.where(higher == -float("inf"), 0.0, higher)  # the row has seen no key yet
            weight = tl.exp2((score - reference[:, None]) * exponent)
            shrink = tl.exp2((top - reference) * exponent)
            total = total * shrink + tl.sum(weight, 1)
            top = higher
            if rng is not None:
                keep = kept_weights(rng, head_index, first_q, first_k, dropout_threshold, block_q, block_k)
                weight = tl.where(keep, weight, 0.0)
            value = load_rows(v, v_row, first_k, alive, block_k, head_dim, dim)
            result = result * shrink[:, None] + dot(rounded(weight, value.dtype), value, precision)

    blind = total == 0
    total = tl.where(blind, 1.0, total)
    if rng is not None:
        result *= 256.0 / (256 - dropout_threshold)
    result = tl.where(blind[:, None], 0.0, result / total[:, None])
    store_rows(out, out_row, first_q, row < rows_q, result, block_q, head_dim, dim)
    tl.store(lse + row, tl.where(blind, -float("inf"), top * tl.abs(scale) + tl.log(total)), mask=row < rows_q)
