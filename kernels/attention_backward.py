"""Attention, backward (Dao et al., FlashAttention, 2022, appendix B), in two kernels, deterministic.

    S = scale Q K^T,  P = e^(S - lse)
    dP = kept(s dO V^T)                          s is the survivors' scale
    dS = P (dP - delta + dlse)                   delta = rowsum(P dP) = rowsum(dO O)
    dQ = scale dS K,  dK = scale dS^T Q,  dV = s kept(P)^T dO

attention_backward_q computes dQ, a tile of queries a program, and writes delta - dlse; attention_backward_k reads that
and computes dK and dV, a tile of keys a program, walking the queries of all heads that share the key head. Each program
owns what it writes, so nothing is added atomically and every sum has one order. One kernel for all three would save two
of the seven products, and would have to add dQ atomically or in turns.

delta is rowsum(dO O) where a row's keys lie in several tiles. The O that is read is rounded, and where a row sees few
keys that error does not average out: where all of a row's keys lie in one tile, the sum over P dP is at hand and put in
its place, divided by the sum of P, which rounding keeps from being 1. A row that sees one key has dS = 0.

Layouts and grids are the forward's; dq, dk and dv are contiguous, delta is float32 in lse's layout.
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
    sees_within,
    sequence_rows,
    statistics,
    store_rows,
    tile_count,
    tile_start,
)
from fastbert.kernels.philox import kept_weights
from fastbert.kernels.rounding import rounded, widened


@triton.jit(do_not_specialize=VALUES)
def attention_backward_q(
    q,
    k,
    v,
    out,
    dout,
    lse,
    dlse,  # or None
    dq,
    delta,
    cu_seqlens_q,
    cu_seqlens_k,
    key_padding_mask,
    rng,
    q_batch,
    q_row,
    q_head,
    k_batch,
    k_row,
    k_head,
    v_batch,
    v_row,
    v_head,
    dout_batch,
    dout_row,
    dout_head,
    sequences,
    heads,
    group,
    total_q,
    total_k,
    seq_q,
    seq_k,
    tiles,
    window_left,
    window_right,
    scale,
    dropout_threshold,
    has_left: tl.constexpr,
    has_right: tl.constexpr,
    head_dim: tl.constexpr,
    dim: tl.constexpr,
    precision: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
):
    """dQ, and delta - dlse, which attention_backward_k reads."""
    tile, head_index = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    head, sequence = (head_index % heads).to(tl.int64), (head_index // heads).to(tl.int64)
    if has_right:
        tile = tiles - 1 - tile
    first_q, out_row = tile * block_q, heads * head_dim
    start_q, rows_q, past_q = sequence_rows(cu_seqlens_q, sequence, sequences, total_q, seq_q)
    start_k, rows_k, _ = sequence_rows(cu_seqlens_k, sequence, sequences, total_k, seq_k)
    dq += head * head_dim
    if cu_seqlens_q is not None:
        clear_unowned_rows(
            dq,
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
    if first_q >= rows_q:
        return
    q = head_rows(q, q_batch, q_row, q_head, cu_seqlens_q, sequence, start_q, head)
    k = head_rows(k, k_batch, k_row, k_head, cu_seqlens_k, sequence, start_k, head // group)
    v = head_rows(v, v_batch, v_row, v_head, cu_seqlens_k, sequence, start_k, head // group)
    dout = head_rows(dout, dout_batch, dout_row, dout_head, cu_seqlens_q, sequence, start_q, head)
    out += start_q * out_row + head * head_dim
    dq += start_q * out_row
    lse = statistics(lse, cu_seqlens_q, sequence, start_q, head, heads, total_q, seq_q)
    delta = statistics(delta, cu_seqlens_q, sequence, start_q, head, heads, total_q, seq_q)
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
    # One tile has all the weights at hand, and the code with masks is the one that uses them.
    single = high - low <= block_k
    full_low, full_high = tl.where(single, high, full_low), tl.where(single, high, full_high)

    row = first_q + tl.arange(0, block_q)
    row_lse = tl.load(lse + row, mask=row < rows_q, other=-float("inf"))
    sees = row_lse != -float("inf")
    row_lse = tl.where(row_lse == -float("inf"), float("inf"), row_lse)  # no weight; such rows are not even read
    query = load_rows(q, q_row, first_q, sees, block_q, head_dim, dim)
    gradient = load_rows(dout, dout_row, first_q, sees, block_q, head_dim, dim)
    output = load_rows(out, out_row, first_q, sees, block_q, head_dim, dim)
    average = tl.sum(widened(gradient) * widened(output), 1)
    row_dlse = tl.zeros((block_q,), tl.float32)
    if dlse is not None:
        dlse = statistics(dlse, cu_seqlens_q, sequence, start_q, head, heads, total_q, seq_q)
        row_dlse = tl.load(dlse + row, mask=sees, other=0.0)
    average -= row_dlse
    correction = tl.zeros((block_q,), tl.float32)
    result = tl.zeros((block_q, dim), tl.float32)
    for masked in tl.static_range(2):
        for n in range(tile_count(low, full_low, full_high, high, masked, block_k)):
            first_k = tile_start(n, low, full_low, full_high, masked, block_k)
            alive = None
            if masked:
                column = first_k + tl.arange(0, block_k)
                alive = living_keys(key_padding_mask, column, (column >= begin) & (column < end))
            key = load_rows(k, k_row, first_k, alive, block_k, head_dim, dim)
            value = load_rows(v, v_row, first_k, alive, block_k, head_dim, dim)
            score = dot(query, tl.trans(key), precision) * scale
            weight = tl.exp2((score - row_lse[:, None]) * LOG2_E)
            dweight = dot(gradient, tl.trans(value), precision)
            if rng is not None:
                keep = kept_weights(rng, head_index, first_q, first_k, dropout_threshold, block_q, block_k)
                dweight = tl.where(keep, dweight * (256.0 / (256 - dropout_threshold)), 0.0)
            dscore = weight * (dweight - average[:, None])
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
                weight = tl.where(visible, weight, 0.0)
                dscore = tl.where(visible, dscore, 0.0)
                alone = sees & sees_within(
                    first_k,
                    first_k + block_k,
                    row,
                    diagonal,
                    window_left,
                    window_right,
                    begin,
                    end,
                    has_left,
                    has_right,
                )
                here = tl.where(alone, tl.sum(dscore, 1) / tl.where(alone, tl.sum(weight, 1), 1.0) - row_dlse, 0.0)
                dscore -= weight * here[:, None]
                correction += here
            result += dot(rounded(dscore, key.dtype), key, precision)

    result = tl.where(sees[:, None], result * scale, 0.0)
    store_rows(dq, out_row, first_q, row < rows_q, result, block_q, head_dim, dim)
    tl.store(delta + row, average + correction, mask=row < rows_q)


@triton.jit(do_not_specialize=VALUES)
def attention_backward_k(
    q,
    k,
    v,
    dout,
    lse,
    delta,
    dk,
    dv,
    cu_seqlens_q,
    cu_seqlens_k,
    key_padding_mask,
    rng,
    q_batch,
    q_row,
    q_head,
    k_batch,
    k_row,
    k_head,
    v_batch,
    v_row,
    v_head,
    dout_batch,
    dout_row,
    dout_head,
    sequences,
    heads,
    group,
    total_q,
    total_k,
    seq_q,
    seq_k,
    tiles,
    window_left,
    window_right,
    scale,
    dropout_threshold,
    has_left: tl.constexpr,
    has_right: tl.constexpr,
    head_dim: tl.constexpr,
    dim: tl.constexpr,
    precision: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
):
    """dK and dV. Scores are computed transposed, keys by queries, as dK and dV want them.

    A key that is not alive has a row of its own in every product: its sums are wrong and not stored.
    """
    tile, head_index = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    kv_heads = heads // group
    kv_head, sequence = (head_index % kv_heads).to(tl.int64), (head_index // kv_heads).to(tl.int64)
    first_k, out_row = tile * block_k, kv_heads * head_dim
    start_q, rows_q, _ = sequence_rows(cu_seqlens_q, sequence, sequences, total_q, seq_q)
    start_k, rows_k, past_k = sequence_rows(cu_seqlens_k, sequence, sequences, total_k, seq_k)
    dk += kv_head * head_dim
    dv += kv_head * head_dim
    if cu_seqlens_k is not None:
        for x in tl.static_range(2):
            clear_unowned_rows(
                dk if x == 0 else dv,
                out_row,
                0.0,
                cu_seqlens_k,
                sequence,
                sequences,
                total_k,
                start_k + rows_k,
                past_k,
                tile,
                tiles,
                block_k,
                head_dim,
                dim,
            )
    if first_k >= rows_k:
        return
    k = head_rows(k, k_batch, k_row, k_head, cu_seqlens_k, sequence, start_k, kv_head)
    v = head_rows(v, v_batch, v_row, v_head, cu_seqlens_k, sequence, start_k, kv_head)
    dk += start_k * out_row
    dv += start_k * out_row

    diagonal = rows_k - rows_q
    column = first_k + tl.arange(0, block_k)
    begin, end, _ = seen_keys(None, rows_q, rows_k, diagonal, window_left, window_right, has_left, has_right)
    alive = (column >= begin) & (column < end)
    if key_padding_mask is not None:
        alive = living_keys(key_padding_mask + sequence * seq_k, column, alive)
    key = load_rows(k, k_row, first_k, alive, block_k, head_dim, dim)
    value = load_rows(v, v_row, first_k, alive, block_k, head_dim, dim)
    # Which queries see these keys is the band from the keys' side.
    last_k = tl.minimum(first_k + block_k, rows_k)
    low, full_low, full_high, high = band_tiles(
        first_k, last_k, -diagonal, window_right, window_left, 0, rows_q, True, has_right, has_left, block_q
    )
    dkey = tl.zeros((block_k, dim), tl.float32)
    dvalue = tl.zeros((block_k, dim), tl.float32)
    for member in range(group):
        head = kv_head * group + member
        q_of_head = head_rows(q, q_batch, q_row, q_head, cu_seqlens_q, sequence, start_q, head)
        dout_of_head = head_rows(dout, dout_batch, dout_row, dout_head, cu_seqlens_q, sequence, start_q, head)
        lse_of_head = statistics(lse, cu_seqlens_q, sequence, start_q, head, heads, total_q, seq_q)
        delta_of_head = statistics(delta, cu_seqlens_q, sequence, start_q, head, heads, total_q, seq_q)
        for masked in tl.static_range(2):
            for n in range(tile_count(low, full_low, full_high, high, masked, block_q)):
                first_q = tile_start(n, low, full_low, full_high, masked, block_q)
                row = first_q + tl.arange(0, block_q)
                sees = None
                if masked:
                    row_lse = tl.load(lse_of_head + row, mask=row < rows_q, other=-float("inf"))
                    row_delta = tl.load(delta_of_head + row, mask=row < rows_q, other=0.0)
                    sees = row_lse != -float("inf")
                else:
                    row_lse, row_delta = tl.load(lse_of_head + row), tl.load(delta_of_head + row)
                query = load_rows(q_of_head, q_row, first_q, sees, block_q, head_dim, dim)
                gradient = load_rows(dout_of_head, dout_row, first_q, sees, block_q, head_dim, dim)
                score = dot(key, tl.trans(query), precision) * scale
                weight = tl.exp2((score - row_lse[None, :]) * LOG2_E)
                dweight = dot(value, tl.trans(gradient), precision)
                kept = weight
                if rng is not None:
                    keep = kept_weights(
                        rng, sequence * heads + head, first_q, first_k, dropout_threshold, block_q, block_k
                    )
                    keep = tl.trans(keep)
                    dweight = tl.where(keep, dweight * (256.0 / (256 - dropout_threshold)), 0.0)
                    kept = tl.where(keep, weight, 0.0)
                dscore = weight * (dweight - row_delta[None, :])
                if masked:
                    visible = in_band(
                        sees[None, :],
                        row[None, :],
                        column[:, None],
                        diagonal,
                        window_left,
                        window_right,
                        has_left,
                        has_right,
                    )
                    kept = tl.where(visible, kept, 0.0)
                    dscore = tl.where(visible, dscore, 0.0)
                dvalue += dot(rounded(kept, gradient.dtype), gradient, precision)
                dkey += dot(rounded(dscore, query.dtype), query, precision)

    if rng is not None:
        dvalue *= 256.0 / (256 - dropout_threshold)
    present = column < rows_k
    store_rows(dk, out_row, first_k, present, tl.where(alive[:, None], dkey * scale, 0.0), block_k, head_dim, dim)
    store_rows(dv, out_row, first_k, present, tl.where(alive[:, None], dvalue, 0.0), block_k, head_dim, dim)
