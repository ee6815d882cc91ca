"""The random bytes of dropout, a tile at a time: what fastbert.ops.philox defines.

Philox4x32 with seven rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), addressed by
position. One call yields 16 bytes. In an activation they serve 16 columns of a row; in a tile of scores exactly the 16
scores of 16 x 32 that one thread holds in a tensor core's accumulator: where the compiler lays the calls out as it lays
the scores out, no byte changes its thread.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four counter words and two key words in, four random words out; all uint32."""
    for _ in tl.static_range(7):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1 = high1 ^ c1 ^ k0, low1
        c2, c3 = high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def random_bytes(rng, c0, c1, c2):
    """The 16 bytes of a tile of calls, whose last counter word is the offset and whose key is the seed.

    Args:
        rng: pointer to int64 seed and offset.
        c0: (rows, calls) integers; c1 and c2 have that shape too.

    Returns:
        (rows, calls, 2, 2, 4), by word // 2, word % 2 and byte of the word.
    """
    seed, offset = tl.load(rng), tl.load(rng + 1)
    w0, w1, w2, w3 = philox4x32(
        c0.to(tl.uint32),
        c1.to(tl.uint32),
        c2.to(tl.uint32),
        (c0 * 0 + offset).to(tl.uint32),
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    shift = (tl.arange(0, 4) * 8).to(tl.uint32)
    return words[:, :, :, :, None] >> shift[None, None, None, None, :] & 0xFF


@triton.jit
def kept_weights(rng, head_index, first_q, first_k, threshold, rows: tl.constexpr, columns: tl.constexpr):
    """Which weights of a tile survive dropout: bool (rows, columns).

    Args:
        rng: pointer to int64 seed and offset.
        head_index: batch_index * heads + head.
        first_q: the tile's first query in its sequence, a multiple of 16; rows is one too.
        first_k: its first key, a multiple of 32; columns is one too.
        threshold: a weight survives where its byte is at least this.
    """
    # Rows i and i + 8 of 16 share a call, and so do columns 2p, 2p + 1, 2p + 8, ..., 2p + 25 of 32.
    row, column = tl.arange(0, rows // 2)[:, None], tl.arange(0, columns // 8)[None, :]
    place = first_k + column // 4 * 32 + column % 4 + row % 8 * 4
    zero = place * 0
    byte = random_bytes(rng, place, zero + first_q // 16 + row // 8, zero + head_index)
    # Of query i and key j: (i // 16, i % 8, j // 32, j // 2 % 4, word // 2, word % 2, i // 8 % 2, j % 2)
    byte = byte.reshape(rows // 16, 8, columns // 32, 4, 2, 2, 2, 2)
    return byte.permute(0, 6, 1, 2, 4, 5, 3, 7).reshape(rows, columns) >= threshold


@triton.jit
def kept_elements(rng, site, first_row, first_column, threshold, rows: tl.constexpr, columns: tl.constexpr):
    """Which elements of a tile of activations survive dropout: bool (rows, columns).

    Args:
        rng: pointer to int64 seed and offset.
        site: which dropout of the layer this is.
        first_row: the tile's first row.
        first_column: its first column, a multiple of 16; columns is one too.
        threshold: an element survives where its byte is at least this.
    """
    row, call = first_row + tl.arange(0, rows)[:, None], first_column // 16 + tl.arange(0, columns // 16)[None, :]
    zero = row * 0 + call * 0
    byte = random_bytes(rng, zero + call, zero + row, (zero + site).to(tl.uint32) | 0x80000000)
    return byte.reshape(rows, columns) >= threshold
