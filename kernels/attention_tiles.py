"""What the attention kernels share: where a sequence's rows lie, which tiles a band touches, loads and products.

Tiles begin at multiples of their size from a sequence's first row. A query sees keys in a band around a diagonal,

    i + diagonal - left <= j <= i + diagonal + right,   diagonal = seq_k - seq_q,

so a tile of queries meets a run of key tiles: some at its ends that the band's edge cuts, and between them some where
every query sees every key. The first are computed with masks, the others without any. has_left and has_right say
whether the band has that edge.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert.kernels.rounding import INTERPRETED, rounded, widened

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)

# Integers whose values must not compile a kernel anew.
VALUES = (
    "sequences",
    "heads",
    "group",
    "total_q",
    "total_k",
    "seq_q",
    "seq_k",
    "tiles",
    "window_left",
    "window_right",
    "dropout_threshold",
)


@triton.jit
def dot(a, b, precision: tl.constexpr):
    """a b with float32 sums. The precision is how float32 factors are taken; products of 16-bit ones are exact."""
    if INTERPRETED:
        a, b = widened(a), widened(b)
    return tl.dot(a, b, input_precision=precision)


@triton.jit
def clamped(cu_seqlens, at, total):
    """A row that the buffer has, or its end, whatever cu_seqlens says; int64."""
    return tl.minimum(tl.maximum(tl.load(cu_seqlens + at), 0), total).to(tl.int64)


@triton.jit
def sequence_rows(cu_seqlens, sequence, sequences, total, longest):
    """(first row, rows, end of the rows that it clears) of a sequence, in a buffer whose sequences are packed.

    In packed calls one sequence more than there are stands for the rows past the last one, and a sequence's rows beyond
    ``longest`` belong to nobody. In a dense call every sequence is ``longest`` rows.
    """
    if cu_seqlens is None:
        first, rows, past = sequence * longest, longest, (sequence + 1) * longest
    else:
        first = clamped(cu_seqlens, sequence, total)
        past = clamped(cu_seqlens, tl.minimum(sequence + 1, sequences), total)
        rows = tl.minimum(tl.maximum(past - first, 0), longest).to(tl.int32)
        past = tl.where(sequence == sequences, total, past)
    return first, rows, past


@triton.jit
def head_rows(x, batch_stride, row_stride, head_stride, cu_seqlens, sequence, first, head):
    """Where a sequence's rows of one head begin."""
    if cu_seqlens is None:
        x += sequence * batch_stride
    else:
        x += first * row_stride
    return x + head * head_stride


@triton.jit
def statistics(x, cu_seqlens, sequence, first, head, heads, total, seq):
    """Where a sequence's numbers of one head begin: x is (batch, heads, seq), or (heads, total) in packed calls."""
    if cu_seqlens is None:
        x += (sequence * heads + head) * seq
    else:
        x += head * total + first
    return x


@triton.jit
def band_tiles(
    first,
    past,
    diagonal,
    left,
    right,
    begin,
    end,
    whole,
    has_left: tl.constexpr,
    has_right: tl.constexpr,
    block: tl.constexpr,
):
    """Which columns rows ``first`` to ``past - 1`` see, of those in [begin, end); whole: there are no gaps in these.

    Returns:
        (low, full_low, full_high, high): tiles from low to full_low and from full_high to high need a mask; in those
        from full_low to full_high every row sees every column. low is a multiple of the block.
    """
    low, full_low, full_high, high = begin, begin, end, end
    if has_left:
        low = tl.maximum(begin, first + diagonal - left)
        full_low = tl.maximum(begin, past - 1 + diagonal - left)
    if has_right:
        high = tl.minimum(end, past + diagonal + right)
        full_high = tl.minimum(end, first + diagonal + right + 1)
    low = low // block * block
    high = tl.maximum(high, low)
    full_low = tl.minimum(tl.cdiv(full_low, block) * block, high)
    full_low = tl.where(whole, full_low, high)
    full_high = tl.maximum(full_high // block * block, full_low)
    return low, full_low, full_high, high


@triton.jit
def tile_count(low, full_low, full_high, high, masked: tl.constexpr, block: tl.constexpr):
    """How many tiles need a mask, or none."""
    if masked:
        count = tl.cdiv(full_low - low, block) + tl.cdiv(high - full_high, block)
    else:
        count = (full_high - full_low) // block
    return count


@triton.jit
def tile_start(n, low, full_low, full_high, masked: tl.constexpr, block: tl.constexpr):
    """Where the nth of them begins."""
    start = full_low + n * block
    if masked:
        start = low + n * block + tl.where(n < tl.cdiv(full_low - low, block), 0, full_high - full_low)
    return start


@triton.jit
def in_band(alive, row, column, diagonal, left, right, has_left: tl.constexpr, has_right: tl.constexpr):
    """``alive`` and inside the band; all broadcast against each other."""
    if has_left:
        alive = alive & (column >= row + (diagonal - left))
    if has_right:
        alive = alive & (column <= row + (diagonal + right))
    return alive


@triton.jit
def sees_within(first, past, row, diagonal, left, right, begin, end, has_left: tl.constexpr, has_right: tl.constexpr):
    """Rows all of whose columns lie in [first, past), of those in [begin, end)."""
    low, high = begin + row * 0, end + row * 0
    if has_left:
        low = tl.maximum(row + (diagonal - left), begin)
    if has_right:
        high = tl.minimum(row + (diagonal + right + 1), end)
    return (low >= first) & (high <= past)


@triton.jit
def living_keys(key_padding_mask, key, among):
    """The keys that the mask leaves of those among which to look, bool."""
    if key_padding_mask is not None:
        among = among & (tl.load(key_padding_mask + key, mask=among, other=0) != 0)
    return among


@triton.jit
def seen_keys(key_padding_mask, seq_q, seq_k, diagonal, left, right, has_left: tl.constexpr, has_right: tl.constexpr):
    """[begin, end) outside of which no query sees a key, and whether all keys inside are alive.

    What the others hold must reach nothing. Padding is on one side in practice: then the tiles outside are skipped, and
    those inside are computed without a mask.
    """
    begin, end = 0, seq_k
    if has_left:
        begin = tl.maximum(diagonal - left, 0)
    if has_right:
        end = tl.minimum(seq_q + diagonal + right, seq_k)
    end = tl.maximum(end, begin)
    whole = True
    if key_padding_mask is not None:
        step: tl.constexpr = 2048
        first, past, count = end, end * 0, 0
        for start in range(begin, end, step):
            key = start + tl.arange(0, step)
            alive = living_keys(key_padding_mask, key, key < end)
            first = tl.minimum(first, tl.min(tl.where(alive, key, end), 0))
            past = tl.maximum(past, tl.max(tl.where(alive, key + 1, 0), 0))
            count += tl.sum(alive.to(tl.int32), 0)
        begin, end = first, tl.maximum(first, past)
        whole = count == end - begin
    return begin, end, whole


@triton.jit
def load_rows(x, row_stride, first, alive, block: tl.constexpr, head_dim: tl.constexpr, dim: tl.constexpr):
    """(block, dim): the rows from ``first`` on that are alive, zeros for the others and beyond head_dim columns.

    ``alive`` is bool (block,), or None where every row is; dead rows are not read.
    """
    row, column = (first + tl.arange(0, block)).to(tl.int64), tl.arange(0, dim)
    place = x + row[:, None] * row_stride + column[None, :]
    if alive is None and head_dim == dim:
        rows = tl.load(place)
    elif alive is None:
        rows = tl.load(place, mask=column[None, :] < head_dim, other=0.0)
    elif head_dim == dim:
        rows = tl.load(place, mask=alive[:, None], other=0.0)
    else:
        rows = tl.load(place, mask=alive[:, None] & (column[None, :] < head_dim), other=0.0)
    return rows


@triton.jit
def store_rows(x, row_stride, first, alive, value, block: tl.constexpr, head_dim: tl.constexpr, dim: tl.constexpr):
    """The inverse of load_rows, in x's type; rows that are not alive are left."""
    row, column = (first + tl.arange(0, block)).to(tl.int64), tl.arange(0, dim)
    place = x + row[:, None] * row_stride + column[None, :]
    tl.store(place, rounded(value, x.dtype.element_ty), mask=alive[:, None] & (column[None, :] < head_dim))


@triton.jit
def clear_unowned_rows(
    x,
    row_stride,
    fill,
    cu_seqlens,
    sequence,
    sequences,
    total,
    start,
    past,
    tile,
    tiles,
    block: tl.constexpr,
    head_dim: tl.constexpr,
    dim: tl.constexpr,
):
    """The fill in packed rows ``start`` to ``past`` that belong to no sequence: this program's share of their tiles.

    The one after the last sequence also clears what lies before the first.
    """
    values = tl.full((block, dim), fill, tl.float32)
    step = tiles * block
    for first in range(start + tile * block, past, step):
        store_rows(x, row_stride, first, first + tl.arange(0, block) < past, values, block, head_dim, dim)
    before = tl.where(sequence == sequences, clamped(cu_seqlens, 0, total), 0)
    for first in range(tile * block, before, step):
        store_rows(x, row_stride, first, first + tl.arange(0, block) < before, values, block, head_dim, dim)
