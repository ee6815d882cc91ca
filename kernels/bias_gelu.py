"""GELU of x + bias (Hendrycks and Gimpel 2016), its gradient, and the bias's gradient in the same pass."""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert.kernels.row_tiles import VALUES, load_columns, load_tile, store_column_sums, store_tile, tile_places


@triton.jit
def gelu_erf(y):
    """y Phi(y) and its derivative, by way of Phi(-a) = exp(-a^2 / 2) G(a).

    That keeps its accuracy in the tail and hands the derivative its exponential. G is a polynomial of degree 9 in
    (a - 3) / (a + 3), fitted on [0, 14] to the least largest relative error; beyond 13.3 the exponential is zero.
    """
    a = tl.minimum(tl.abs(y), 14.0)  # infinity too
    u = (a - 3.0) / (a + 3.0)
    g = 5.4042353e-5 * u + 1.1598719e-4
    g = g * u - 3.3988737e-4
    g = g * u - 9.8424102e-4
    g = g * u + 2.9047416e-3
    g = g * u + 6.1322423e-3
    g = g * u - 4.6213336e-2
    g = g * u + 1.2322501e-1
    g = g * u - 2.0640261e-1
    g = g * u + 1.2151395e-1
    bell = tl.exp(y * y * -0.5)
    tail = bell * g
    phi = tl.where(y >= 0.0, 1.0 - tail, tail)
    return y * phi, y * 0.39894228 * bell + phi


@triton.jit
def gelu_tanh(y):
    """y / 2 (1 + tanh(z)) = y s and its derivative, s = 1 / (1 + exp(-2z)), z = sqrt(2 / pi) (y + 0.044715 y^3)."""
    inner = tl.where(y > 30.0, 30.0, tl.where(y < -30.0, -30.0, y))  # s is 0 or 1 far before; NaN stays
    square = inner * inner
    twice_z = inner * (1.5957691 + 0.071354814 * square)
    small = tl.exp(-tl.abs(twice_z))
    large = 1.0 / (1.0 + small)
    s = tl.where(twice_z >= 0.0, large, small * large)
    other = tl.where(twice_z >= 0.0, small * large, large)  # 1 - s
    return y * s, inner * (1.5957691 + 0.21406444 * square) * s * other + s


@triton.jit
def gelu(y, tanh: tl.constexpr):
    """The function and its derivative."""
    if tanh:
        value, derivative = gelu_tanh(y)
    else:
        value, derivative = gelu_erf(y)
    return value, derivative


@triton.jit(do_not_specialize=VALUES)
def bias_gelu_forward(
    x, bias, out, rows, columns, tanh: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr
):
    """One tile. x and out are contiguous (rows, columns) of one type, bias is float32 (columns,)."""
    tiles = tl.cdiv(columns, block_columns)
    first_row, first_column = tl.program_id(0) // tiles * block_rows, tl.program_id(0) % tiles * block_columns
    place, exists = tile_places(first_row, first_column, rows, columns, block_rows, block_columns)
    y = load_tile(x, place, exists) + load_columns(bias, first_column, columns, block_columns)
    value, _ = gelu(y, tanh)
    store_tile(out, place, exists, value)


@triton.jit(do_not_specialize=VALUES)
def bias_gelu_backward(
    dout,
    x,
    bias,
    dx,
    dbias,  # (chunks, columns) float32: what each chunk of rows adds
    rows,
    columns,
    rows_each,  # of a chunk, a multiple of block_rows
    tanh: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    """One chunk of rows of one tile of columns."""
    tiles = tl.cdiv(columns, block_columns)
    chunk, first_column = tl.program_id(0) // tiles, tl.program_id(0) % tiles * block_columns
    added = load_columns(bias, first_column, columns, block_columns)
    sums = tl.zeros((block_rows, block_columns), tl.float32)
    for first_row in range(chunk * rows_each, tl.minimum(chunk * rows_each + rows_each, rows), block_rows):
        place, exists = tile_places(first_row, first_column, rows, columns, block_rows, block_columns)
        _, derivative = gelu(load_tile(x, place, exists) + added, tanh)
        gradient = load_tile(dout, place, exists) * derivative
        store_tile(dx, place, exists, gradient)
        sums += tl.where(exists, gradient, 0.0)
    store_column_sums(dbias + chunk.to(tl.int64) * columns, first_column, columns, sums, block_columns)
