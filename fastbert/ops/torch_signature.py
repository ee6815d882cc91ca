"""scaled_dot_product_attention under torch's own name, signature, layout and semantics."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from fastbert.ops.backends import requested
from fastbert.ops.backends.sdpa import torch_sdpa
from fastbert.ops.functional import attend, autocast_inputs
from fastbert.ops.validation import MAX_HEAD_DIM, check_dense, check_options


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    rng: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Torch's operator on our backends, to put in its place.

    What the kernels' contract does not cover goes to torch's own function when the backend is "auto" (or "sdpa", which
    is that function): a mask that is not one key mask per batch entry (additive biases, masks that differ between
    queries or heads), a value of another head_dim than the query, head_dim 0 or above 256, batch or head dimensions
    that broadcast. There dropout draws torch's masks: that is warned of once for each reason, and an error if rng is
    given. Any other named backend raises instead.

    Args:
        query: (..., heads, seq_q, head_dim), or (seq_q, head_dim), with any number of batch dimensions.
        key: (..., kv_heads, seq_k, head_dim).
        value: as key.
        attn_mask: broadcastable to (..., heads, seq_q, seq_k). A boolean one (True = may be seen) that is the same for
            all heads and queries is key padding, whether its size there is 1 or expanded.
        dropout_p: as in :func:`fastbert.ops.attention`.
        is_causal: query i sees key j when j <= i: top-left aligned, unlike :func:`fastbert.ops.attention`.
        scale: None = head_dim ** -0.5.
        enable_gqa: allow fewer key heads than query heads.
        rng: int64 (2,) seed and offset; None draws one. Not in torch's signature.
        backend: as in :func:`fastbert.ops.attention`. Not in torch's signature.

    Returns:
        (..., heads, seq_q, head_dim). A row that sees no key is 0.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, device or value, both attn_mask and is_causal, or a named backend that cannot serve.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("scaled_dot_product_attention: attn_mask is given and is_causal is True; give one of them")
    query, key, value = autocast_inputs(query, key, value)
    reason = outside_contract(query, key, value, attn_mask)
    if reason is not None:
        if requested(backend) not in ("auto", "sdpa"):
            raise ValueError(
                f"scaled_dot_product_attention: backend {requested(backend)!r} cannot serve this call: {reason}"
            )
        if rng is not None:
            raise ValueError(
                "scaled_dot_product_attention: rng is given, but torch serves this call and draws masks of its own: "
                f"{reason}"
            )
        if dropout_p > 0 and not torch.compiler.is_compiling():
            _warn_of_other_masks(reason)
        return torch_sdpa(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    q, k, v = (_to_contract(x) for x in (query, key, value))
    key_padding_mask = None
    if attn_mask is not None:
        _check_repeated(attn_mask, q.shape[2], q.shape[1])
        key_padding_mask = _key_padding(attn_mask, (*query.shape[:-3], key.shape[-2]))
    check_dense(q, k, v, key_padding_mask)
    check_options(q, is_causal, None, scale, None, backend)
    # One key head serves all query heads in torch by broadcasting, which is what it does here.
    if k.shape[2] not in (1, q.shape[2]) and not enable_gqa:
        raise ValueError(
            f"scaled_dot_product_attention: query has {q.shape[2]} heads and key {k.shape[2]}; "
            "they must be equal unless enable_gqa is True"
        )
    out = attend(
        q,
        k,
        v,
        window_left=None,
        # j <= i, counted from the bottom-right diagonal i + seq_k - seq_q.
        window_right=q.shape[1] - k.shape[1] if is_causal else None,
        key_padding_mask=key_padding_mask,
        scale=scale,
        dropout_p=dropout_p,
        rng=rng,
        backend=backend,
    )
    assert isinstance(out, Tensor)
    out = out.transpose(1, 2)
    return out if query.dim() == 4 else out.reshape(query.shape)


@functools.cache
def _warn_of_other_masks(reason: str) -> None:
    warnings.warn(
        f"scaled_dot_product_attention: torch serves this call, and its dropout draws other masks: {reason}",
        RuntimeWarning,
        stacklevel=3,
    )


def _to_contract(x: Tensor) -> Tensor:
    """(..., heads, seq, dim) -> (batch, seq, heads, dim)"""
    if x.dim() != 4:
        x = x.reshape(-1, *x.shape[-3:]) if x.dim() > 4 else x[(None,) * (4 - x.dim())]
    return x.transpose(1, 2)


def outside_contract(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> str | None:
    """Why a call is torch's and not ours, or None."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, Tensor) or x.dim() < 2:
            raise ValueError(f"scaled_dot_product_attention: {name} must be a tensor (..., seq, head_dim)")
        if x.dtype == torch.float64:
            raise TypeError(
                f"scaled_dot_product_attention: {name} is {x.dtype}; allowed are float32, bfloat16 and float16"
            )
    shape_q, shape_k, shape_v = query.shape, key.shape, value.shape
    if shape_q[:-3] != shape_k[:-3] or shape_k[:-1] != shape_v[:-1]:
        return "batch dimensions that broadcast"
    heads_q, heads_k = (x.shape[-3] if x.dim() > 2 else 1 for x in (query, key))
    if heads_q == 0 or heads_k == 0:
        return "no heads"
    if heads_q == 1 != heads_k:
        return "head dimensions that broadcast"
    if shape_q[-1] == 0:
        return "head_dim is 0"
    if shape_v[-1] != shape_q[-1]:
        return f"value has head_dim {shape_v[-1]} and query {shape_q[-1]}"
    if shape_q[-1] > MAX_HEAD_DIM:
        return f"head_dim {shape_q[-1]} is above {MAX_HEAD_DIM}"
    if attn_mask is not None and (not isinstance(attn_mask, Tensor) or attn_mask.dim() < 2):
        raise ValueError("scaled_dot_product_attention: attn_mask must be a tensor (..., seq_q, seq_k) or None")
    if attn_mask is not None and not is_key_padding(attn_mask):
        return "attn_mask is not a boolean mask of keys, the same for all heads and queries"
    return None


def is_key_padding(mask: Tensor) -> bool:
    """Whether a mask says one thing for all heads and queries of a batch entry."""
    if mask.dtype != torch.bool:
        return False
    sizes, strides = mask.shape, mask.stride()
    return all(sizes[d] == 1 or (sizes[d] > 0 and strides[d] == 0) for d in range(max(-3, -mask.dim()), -1))


def _check_repeated(mask: Tensor, heads: int, seq_q: int) -> None:
    """The dimensions of a key mask that are dropped must fit all the same."""
    for dim, name, size in ((-2, "seq_q", seq_q), (-3, "heads", heads)):
        if mask.dim() >= -dim and mask.shape[dim] not in (1, size):
            raise ValueError(
                f"scaled_dot_product_attention: attn_mask has shape {tuple(mask.shape)}; its dimension {dim} must be "
                f"1 or {name} = {size}"
            )


def _key_padding(mask: Tensor, keys: tuple[int, ...]) -> Tensor:
    """The (batch, seq_k) mask in a (..., heads, seq_q, seq_k) one that repeats over heads and queries.

    Args:
        mask: of at least two dimensions.
        keys: batch dimensions and seq_k, which the mask must broadcast to.
    """
    of_keys = mask[..., 0, :]
    if of_keys.dim() > 1:
        of_keys = of_keys[..., 0, :]
    sizes = of_keys.shape
    if len(sizes) > len(keys) or any(n not in (1, m) for n, m in zip(reversed(sizes), reversed(keys), strict=False)):
        raise ValueError(
            f"scaled_dot_product_attention: attn_mask has shape {tuple(mask.shape)}; it must broadcast to "
            f"(..., heads, seq_q, seq_k) with batch and seq_k {keys}"
        )
    return of_keys.expand(keys).reshape(-1, keys[-1])
