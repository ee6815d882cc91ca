"""The public operators: exact attention, dropout and what is fused with it, with one contract everywhere.

Shapes are (batch, seq, heads, head_dim), or packed (total, heads, head_dim) with cumulative lengths.
"""

from __future__ import annotations

from fastbert.ops.backends import available_backends
from fastbert.ops.bias_gelu import bias_gelu
from fastbert.ops.cross_entropy import cross_entropy
from fastbert.ops.elementwise_dropout import dropout, dropout_add
from fastbert.ops.functional import attention, attention_varlen
from fastbert.ops.layer_norm import dropout_add_layer_norm
from fastbert.ops.linear_cross_entropy import linear_cross_entropy
from fastbert.ops.philox import draw_rng
from fastbert.ops.torch_signature import scaled_dot_product_attention

__all__ = [
    "attention",
    "attention_varlen",
    "available_backends",
    "bias_gelu",
    "cross_entropy",
    "draw_rng",
    "dropout",
    "dropout_add",
    "dropout_add_layer_norm",
    "linear_cross_entropy",
    "scaled_dot_product_attention",
]
