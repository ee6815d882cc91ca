"""Cross entropy of logits in whatever type they have: one pass over them forward, one for their gradient.

The sum of exp(logits) is kept as its two parts, the largest logit and the logarithm of what exp(largest) is multiplied
by: added up they would round away the loss of a row whose largest logit is large.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fastbert.kernels.rounding import rounded, widened
from fastbert.kernels.row_tiles import VALUES, VECTORS


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=VECTORS)
def cross_entropy_forward(logits, targets, losses, largest, log_rest, classes, ignore_index, block: tl.constexpr):
    """One row. logits are contiguous (rows, classes), targets int64, the others float32 (rows,).

    A target that is no class has the loss NaN: nothing is read where it points.
    """
    row = tl.program_id(0)
    target = tl.load(targets + row)
    logits += row.to(tl.int64) * classes
    most, rest = -float("inf"), 0.0
    loss, log_of_rest = 0.0, 0.0
    if target == ignore_index:
        most = 0.0
    else:
        for first in range(0, classes, block):
            column = first + tl.arange(0, block)
            value = widened(tl.load(logits + column, mask=column < classes, other=-float("inf")))
            higher = tl.maximum(most, tl.max(value, 0))
            base = tl.where(higher == -float("inf"), 0.0, higher)
            rest = rest * tl.exp(most - base) + tl.sum(tl.exp(value - base), 0)
            most = higher
        log_of_rest = tl.log(rest)
        is_class = (target >= 0) & (target < classes)
        of_target = widened(tl.load(logits + target, mask=is_class, other=0.0))
        loss = tl.where(is_class, most - of_target + log_of_rest, float("nan"))
    tl.store(losses + row, loss)
    tl.store(largest + row, most)
    tl.store(log_rest + row, log_of_rest)


@triton.jit(do_not_specialize=VALUES, do_not_specialize_on_alignment=VECTORS)
def cross_entropy_backward(
    dlosses,
    dlosses_stride,  # 0: one number for all rows
    logits,
    targets,
    largest,
    log_rest,
    dlogits,
    classes,
    ignore_index,
    block: tl.constexpr,
):
    """One row: dloss (softmax(logits) - one-hot of the target)."""
    row = tl.program_id(0)
    target = tl.load(targets + row)
    offset = row.to(tl.int64) * classes
    logits, dlogits = logits + offset, dlogits + offset
    ignored = target == ignore_index
    is_class = (target >= 0) & (target < classes)
    gradient = tl.load(dlosses + row * dlosses_stride)
    gradient = tl.where(is_class, gradient, float("nan"))
    most, log_of_rest = tl.load(largest + row), tl.load(log_rest + row)
    for first in range(0, classes, block):
        column = first + tl.arange(0, block)
        exists = column < classes
        value = widened(tl.load(logits + column, mask=exists & (not ignored), other=0.0))
        probability = tl.exp(value - most - log_of_rest)
        value = gradient * tl.where(column == target, probability - 1.0, probability)
        value = tl.where(ignored, 0.0, value)
        tl.store(dlogits + column, rounded(value, dlogits.dtype.element_ty), mask=exists)
