"""Between the types that tensors have and float32, in which everything is computed."""

from __future__ import annotations

import triton
import triton.language as tl

# The interpreter computes on NumPy arrays, which have no bfloat16: it multiplies the bits, rounds towards zero, and
# makes tiny numbers of zeros. So it is given float32.
INTERPRETED: tl.constexpr = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def widened(x):
    """In float32."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        wide = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        wide = x.to(tl.float32)
    return wide


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 numbers in another type, the nearest, of two the even one."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        short = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        short = x.to(dtype)
    return short
