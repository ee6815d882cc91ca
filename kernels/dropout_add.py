"""Element-wise dropout, and the residual sum it goes into: out = residual + dropout(x).

The mask is drawn from the elements' places, so nothing is kept for the backward: dx is the dropout of dout by the same
kernel. Without a residual the sum is left out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert.kernels.philox import kept_elements
from fastbert.kernels.row_tiles import VALUES, load_tile, store_tile, tile_places


@triton.jit(do_not_specialize=VALUES)
def dropout_add(
    x,
    residual,  # None: there is none
    out,
    rng,
    rows,
    columns,
    site,
    threshold,
    survivor_scale,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    """One tile. x, residual and out are contiguous (rows, columns) of one type; rng is int64 seed and offset."""
    tiles = tl.cdiv(columns, block_columns)
    first_row, first_column = tl.program_id(0) // tiles * block_rows, tl.program_id(0) % tiles * block_columns
    place, exists = tile_places(first_row, first_column, rows, columns, block_rows, block_columns)
    kept = kept_elements(rng, site, first_row, first_column, threshold, block_rows, block_columns)
    value = tl.where(kept, load_tile(x, place, exists) * survivor_scale, 0.0)
    if residual is not None:
        value = load_tile(residual, place, exists) + value
    store_tile(out, place, exists, value)
