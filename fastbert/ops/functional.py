"""The public attention operators: the contract, in front of every backend."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from fastbert.ops import philox
from fastbert.ops.autocast import autocast_dtype, autocast_is_on
from fastbert.ops.backends import choose
from fastbert.ops.backends.interface import CompositeBackend
from fastbert.ops.problem import AttentionOptions, AttentionProblem
from fastbert.ops.registration import attention_forward
from fastbert.ops.validation import (
    check_dense,
    check_no_forward_mode,
    check_options,
    check_probability,
    check_rng,
    check_varlen,
)

Window = tuple[int | None, int | None]


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = ...,
    window: Window | None = ...,
    key_padding_mask: Tensor | None = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    rng: Tensor | None = ...,
    return_lse: Literal[False] = ...,
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = ...,
    window: Window | None = ...,
    key_padding_mask: Tensor | None = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    rng: Tensor | None = ...,
    return_lse: Literal[True],
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: Window | None = None,
    key_padding_mask: Tensor | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    rng: Tensor | None = None,
    return_lse: bool = False,
    deterministic: bool | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention, softmax(scale * q k^T) v, over dense batches.

    With d = seq_k - seq_q, query i sees key j when j <= i + d if causal, when i + d - left <= j <= i + d + right for a
    window, and when key_padding_mask[b, j] is True. Masked scores are deselected: whatever lies in a masked key or
    value, NaN included, reaches neither the output nor a gradient. (A NaN that some query does see may reach others.)
    A row that sees no key gives output 0, lse -inf and gradient 0.

    Args:
        q: (batch, seq_q, heads, head_dim), float32, bfloat16 or float16, any strides, 1 <= head_dim <= 256. Under
            autocast q, k and v are cast as torch's scaled_dot_product_attention casts them.
        k: (batch, seq_k, kv_heads, head_dim), heads a multiple of kv_heads: query head h reads key head
            h // (heads // kv_heads).
        v: as k.
        causal: bottom-right aligned.
        window: (left, right), each at least 0 or None for unbounded.
        key_padding_mask: bool (batch, seq_k), True = a key that may be seen.
        scale: of the scores, finite; None = head_dim ** -0.5. A compiled graph holds for one value, as with torch's own
            operator: a new one compiles anew.
        dropout_p: probability of dropping an attention weight, in [0, 1]. The mask depends on rng and the weight's
            place alone (see :func:`fastbert.ops.philox.attention_bytes`), so it is the same on every backend and the
            backward stores none. A constant of a compiled graph: a new value compiles anew.
        rng: int64 (2,) seed and offset on q's device; None draws a pair there with torch.randint.
        return_lse: also return the log-sum-exp.
        deterministic: True for bitwise equal repeats; None follows torch.use_deterministic_algorithms.
        backend: a name, "auto", or None for the environment variable FASTBERT_BACKEND, else "auto".

    Returns:
        out, contiguous, of q's shape and (autocast) type; with return_lse (out, lse), lse float32
        (batch, heads, seq_q): the natural logarithm of the sum of exponentials, before dropout, differentiable.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, device or value, or a named backend that cannot serve (with its reason).
        NotImplementedError: second derivatives, on every backend but "reference"; forward-mode differentiation.
    """
    q, k, v = autocast_inputs(q, k, v)
    check_dense(q, k, v, key_padding_mask)
    check_options(q, causal, window, scale, deterministic, backend)
    left, right = window_bounds(causal, window)
    return attend(
        q,
        k,
        v,
        window_left=left,
        window_right=right,
        key_padding_mask=key_padding_mask,
        scale=scale,
        dropout_p=dropout_p,
        rng=rng,
        return_lse=return_lse,
        deterministic=deterministic,
        backend=backend,
    )


@overload
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = ...,
    window: Window | None = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    rng: Tensor | None = ...,
    return_lse: Literal[False] = ...,
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = ...,
    window: Window | None = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    rng: Tensor | None = ...,
    return_lse: Literal[True],
    deterministic: bool | None = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool = False,
    window: Window | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    rng: Tensor | None = None,
    return_lse: bool = False,
    deterministic: bool | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Exact attention over packed sequences: :func:`attention` for each of them, and none sees another.

    Sequence s owns the query rows ``cu_seqlens_q[s]:cu_seqlens_q[s + 1]`` and the key rows
    ``cu_seqlens_k[s]:cu_seqlens_k[s + 1]``; i, j and d of the definition count inside it, for the mask and for dropout
    alike, so the packed and the right-padded form of a batch drop the same weights. Sequences may be empty. Rows past
    the last sequence come back as zeros (lse -inf) and have zero gradients.

    Args:
        q: (total_q, heads, head_dim).
        k: (total_k, kv_heads, head_dim).
        v: as k.
        cu_seqlens_q: int32 (n + 1,) on q's device, from 0, never decreasing. Lengths are clamped to the buffers, and
            validated only when the environment variable FASTBERT_CHECK is 1.
        cu_seqlens_k: as cu_seqlens_q, for the same n sequences.
        max_seqlen_q: host int, an upper bound of the query lengths; it may exceed the true maximum. One below it is an
            error where the host can read the lengths (on the CPU), and cuts sequences off elsewhere.
        max_seqlen_k: as max_seqlen_q.
        causal, window, scale, dropout_p, rng, return_lse, deterministic, backend: as in :func:`attention`.

    Returns:
        out (total_q, heads, head_dim), contiguous; with return_lse (out, lse), lse float32 (heads, total_q).

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`attention`.
    """
    q, k, v = autocast_inputs(q, k, v)
    check_varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    check_options(q, causal, window, scale, deterministic, backend)
    left, right = window_bounds(causal, window)
    return attend(
        q,
        k,
        v,
        window_left=left,
        window_right=right,
        scale=scale,
        dropout_p=dropout_p,
        rng=rng,
        return_lse=return_lse,
        deterministic=deterministic,
        backend=backend,
        cu_seqlens=(cu_seqlens_q, cu_seqlens_k),
        max_seqlens=(max_seqlen_q, max_seqlen_k),
    )


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window_left: int | None,
    window_right: int | None,
    scale: float | None,
    dropout_p: float,
    rng: Tensor | None,
    return_lse: bool = False,
    deterministic: bool | None = None,
    backend: str | None = None,
    key_padding_mask: Tensor | None = None,
    cu_seqlens: tuple[Tensor, Tensor] | None = None,
    max_seqlens: tuple[int, int] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """What the public forms share: choose a backend and run it. Tensors are checked; bounds may be negative."""
    check_probability("attention", dropout_p)
    check_rng("attention", rng, q)
    shape_q, shape_k = q.shape, k.shape
    head_dim = shape_q[-1]
    seq_q, seq_k = (shape_q[1], shape_k[1]) if max_seqlens is None else max_seqlens
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    everything_dropped = dropout_p == 1
    dropped = 0 < dropout_p < 1
    problem = AttentionProblem(
        device_type=q.device.type,
        dtype=q.dtype,
        varlen=cu_seqlens is not None,
        batch=shape_q[0] if cu_seqlens is None else cu_seqlens[0].shape[0] - 1,
        heads=shape_q[-2],
        kv_heads=shape_k[-2],
        head_dim=head_dim,
        seq_q=seq_q,
        seq_k=seq_k,
        window_left=window_left,
        window_right=window_right,
        key_padding_mask=key_padding_mask is not None,
        dropout=dropped,
        return_lse=return_lse,
        deterministic=deterministic,
        requires_grad=torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad),
    )
    chosen = choose(problem, backend)
    if everything_dropped and not return_lse:
        return _zeros_like_q(q, k, v)
    if dropped and rng is None:
        rng = philox.draw_rng(q.device)
    options = AttentionOptions(
        window_left=window_left,
        window_right=window_right,
        scale=head_dim**-0.5 if scale is None else float(scale),
        dropout_threshold=philox.threshold(dropout_p) if dropped else 0,
        deterministic=deterministic,
        key_padding_mask=key_padding_mask,
        rng=rng if dropped else None,
        cu_seqlens_q=None if cu_seqlens is None else cu_seqlens[0],
        cu_seqlens_k=None if cu_seqlens is None else cu_seqlens[1],
        max_seqlen_q=seq_q,
        max_seqlen_k=seq_k,
    )
    if isinstance(chosen, CompositeBackend):
        return chosen.compose(q, k, v, options)
    check_no_forward_mode("attention", q, k, v)
    out, lse = attention_forward(q, k, v, options, chosen.name)
    if everything_dropped:
        out = _zeros_like_q(q, k, v)
    return (out, lse) if return_lse else out


def window_bounds(causal: bool, window: Window | None) -> Window:
    """Causal is a window whose right bound is 0."""
    left, right = (None, None) if window is None else window
    if causal:
        right = 0 if right is None else min(right, 0)
    return left, right


def autocast_inputs(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Under autocast, floating-point inputs in the autocast type, as torch casts them for its own operator."""
    if not isinstance(q, Tensor) or not autocast_is_on(q.device.type):
        return q, k, v
    return _autocast(q), _autocast(k), _autocast(v)


def _autocast(x: Tensor) -> Tensor:
    return x.to(autocast_dtype(x)) if isinstance(x, Tensor) else x  # what is no tensor, validation will refuse


def _zeros_like_q(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Zeros that depend on q, k and v with gradient zero, whatever values they hold."""
    everywhere = torch.ones((), dtype=torch.bool, device=q.device)
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    out = out + q.masked_fill(everywhere, 0) + sum(x.masked_fill(everywhere, 0).sum() for x in (k, v))
    return out.contiguous()
