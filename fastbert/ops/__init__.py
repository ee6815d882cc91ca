"""The public operators: exact attention and dropout, with one contract on every backend.

Shapes are (batch, seq, heads, head_dim), or packed (total, heads, head_dim) with cumulative lengths.
"""

from __future__ import annotations

from fastbert.ops.backends import available_backends
from fastbert.ops.elementwise_dropout import dropout
from fastbert.ops.functional import attention, attention_varlen
from fastbert.ops.philox import draw_rng
from fastbert.ops.torch_signature import scaled_dot_product_attention

__all__ = [
    "attention",
    "attention_varlen",
    "available_backends",
    "draw_rng",
    "dropout",
    "scaled_dot_product_attention",
]
