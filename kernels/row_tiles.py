"""What the kernels over rows of activations share: contiguous (rows, columns), a tile of them at a time."""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert.kernels.rounding import rounded, widened

# Integers whose values must not compile a kernel anew. Of columns the divisors matter: they say how many numbers of a
# row can be loaded at once.
VALUES = ("rows", "rows_each", "site", "threshold", "ignore_index")
# Pointers to the second of two vectors, which begins at a multiple of 16 bytes for some numbers of rows only.
VECTORS = ("mean", "rstd", "dlosses", "largest", "log_rest")


@triton.jit
def tile_places(first_row, first_column, rows, columns, block_rows: tl.constexpr, block_columns: tl.constexpr):
    """Where the numbers of a tile lie, int64, and which of them exist; both (block_rows, block_columns)."""
    row = first_row + tl.arange(0, block_rows)[:, None]
    column = first_column + tl.arange(0, block_columns)[None, :]
    return row.to(tl.int64) * columns + column, (row < rows) & (column < columns)


@triton.jit
def load_tile(x, place, exists):
    """In float32; zeros for what does not exist."""
    return widened(tl.load(x + place, mask=exists, other=0.0))


@triton.jit
def store_tile(x, place, exists, value):
    """In x's type."""
    tl.store(x + place, rounded(value, x.dtype.element_ty), mask=exists)


@triton.jit
def load_columns(x, first_column, columns, block_columns: tl.constexpr):
    """(1, block_columns) of a float32 vector, zeros beyond its end."""
    column = first_column + tl.arange(0, block_columns)
    return tl.load(x + column, mask=column < columns, other=0.0)[None, :]


@triton.jit
def store_column_sums(x, first_column, columns, tile, block_columns: tl.constexpr):
    """The sums over a tile's rows, (block_columns,), in float32."""
    column = first_column + tl.arange(0, block_columns)
    tl.store(x + column, tl.sum(tile, 0), mask=column < columns)
