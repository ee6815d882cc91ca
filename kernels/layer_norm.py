"""LayerNorm of the residual sum with dropout (Ba, Kiros and Hinton 2016), forward and backward.

A program holds whole rows, so that each is read once. The variance is that of the differences from the mean: the
one-pass formula cancels. The backward makes the sum again, or reads it where it was wanted anyway; what it adds to the
parameters' gradients is summed over a chunk of rows first, and over the chunks after the launch, so that every run adds
in the same order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert.kernels.philox import kept_elements
from fastbert.kernels.rounding import rounded, widened
from fastbert.kernels.row_tiles import (
    VALUES,
    VECTORS,
    load_columns,
    load_tile,
    store_column_sums,
    store_tile,
    tile_places,
)


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=VECTORS)
def layer_norm_forward(
    x,
    residual,
    weight,
    bias,
    out,
    total,  # where the sum goes; None: nobody wants it
    mean,
    rstd,
    rng,  # None: no dropout
    rows,
    columns,
    site,
    threshold,
    survivor_scale,
    eps,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    """Some rows. Activations are contiguous (rows, columns) of one type, parameters and statistics float32."""
    first_row = tl.program_id(0) * block_rows
    place, exists = tile_places(first_row, 0, rows, columns, block_rows, block_columns)
    value = load_tile(x, place, exists)
    if rng is not None:
        kept = kept_elements(rng, site, first_row, 0, threshold, block_rows, block_columns)
        value = tl.where(kept, value * survivor_scale, 0.0)
    value = load_tile(residual, place, exists) + value
    if total is not None:
        store_tile(total, place, exists, value)
        value = widened(rounded(value, total.dtype.element_ty))
    average = tl.sum(value, 1) / columns
    difference = tl.where(exists, value - average[:, None], 0.0)
    inverse = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(difference * difference, 1) / columns + eps))
    scaled = difference * inverse[:, None] * load_columns(weight, 0, columns, block_columns)
    store_tile(out, place, exists, scaled + load_columns(bias, 0, columns, block_columns))
    row = first_row + tl.arange(0, block_rows)
    tl.store(mean + row, average, mask=row < rows)
    tl.store(rstd + row, inverse, mask=row < rows)


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=VECTORS)
def layer_norm_backward(
    dout,
    dtotal,  # the gradient of the sum itself; None: zeros
    x,  # x and residual are None where total is given
    residual,
    total,
    weight,
    mean,
    rstd,
    rng,  # None: no dropout, and no dx, which dresidual would equal
    dx,
    dresidual,
    dweight,  # (chunks, columns) float32: what each chunk of rows adds; dbias too
    dbias,
    rows,
    columns,
    rows_each,  # of a chunk, a multiple of block_rows
    site,
    threshold,
    survivor_scale,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
):
    """One chunk of rows."""
    chunk = tl.program_id(0)
    scale = load_columns(weight, 0, columns, block_columns)
    weight_sums = tl.zeros((block_rows, block_columns), tl.float32)
    bias_sums = tl.zeros((block_rows, block_columns), tl.float32)
    for first_row in range(chunk * rows_each, tl.minimum(chunk * rows_each + rows_each, rows), block_rows):
        place, exists = tile_places(first_row, 0, rows, columns, block_rows, block_columns)
        if rng is not None:
            kept = kept_elements(rng, site, first_row, 0, threshold, block_rows, block_columns)
        if total is not None:
            value = load_tile(total, place, exists)
        else:
            value = load_tile(x, place, exists)
            if rng is not None:
                value = tl.where(kept, value * survivor_scale, 0.0)
            value = load_tile(residual, place, exists) + value
        row = first_row + tl.arange(0, block_rows)
        average = tl.load(mean + row, mask=row < rows, other=0.0)[:, None]
        inverse = tl.load(rstd + row, mask=row < rows, other=0.0)[:, None]
        normalised = tl.where(exists, (value - average) * inverse, 0.0)
        gradient = load_tile(dout, place, exists)
        weight_sums += gradient * normalised
        bias_sums += gradient
        gradient *= scale
        along = tl.sum(gradient * normalised, 1)[:, None] / columns
        gradient = inverse * (gradient - tl.sum(gradient, 1)[:, None] / columns - normalised * along)
        if dtotal is not None:
            gradient += load_tile(dtotal, place, exists)
        store_tile(dresidual, place, exists, gradient)
        if rng is not None:
            store_tile(dx, place, exists, tl.where(kept, gradient * survivor_scale, 0.0))
    offset = chunk.to(tl.int64) * columns
    store_column_sums(dweight + offset, 0, columns, weight_sums, block_columns)
    store_column_sums(dbias + offset, 0, columns, bias_sums, block_columns)
