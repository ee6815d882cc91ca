"""Torch's own scaled_dot_product_attention, where its semantics are ours.

Torch differentiates and compiles it. What torch does differently is put right around it: keys that no query sees are
zeroed by selection, and a row that sees no key is shown all of them and then deselected, so that no NaN is made. A key
that some queries see and others do not is torch's to hide, and torch adds -inf to its scores: if it holds NaN or
infinity, these may reach every query of its sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fastbert.ops.backends.interface import CompositeBackend, no_second_derivatives
from fastbert.ops.backends.layout import PaddedLayout, host_readable, select
from fastbert.ops.backends.visibility import seen_keys, visible_keys
from fastbert.ops.problem import AttentionOptions, AttentionProblem

# Taken at import: fastbert.integrations.sdpa may put ours in its place.
torch_sdpa = functional.scaled_dot_product_attention
"""Torch's own function."""


def supports(problem: AttentionProblem) -> str | None:
    """What torch's semantics allow."""
    if problem.dropout:
        return "torch's SDPA draws other dropout masks than the one definition all backends share"
    if problem.return_lse:
        return "torch's SDPA does not return the log-sum-exp"
    if problem.deterministic and problem.device_type == "cpu":
        return "torch's SDPA rounds differently on the CPU with another number of threads"
    if problem.deterministic and problem.device_type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        return "torch's SDPA is deterministic on CUDA only under torch.use_deterministic_algorithms(True)"
    return None


def compose(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
    """See :class:`CompositeBackend`."""
    if q.numel() == 0 or k.numel() == 0:
        return _nothing_to_see(q, k, v)
    if options.cu_seqlens_q is None or options.cu_seqlens_k is None:
        return _compose_dense(q, k, v, options)
    return _compose_varlen(q, k, v, options, options.cu_seqlens_q, options.cu_seqlens_k)


def _compose_dense(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> Tensor:
    living = options.key_padding_mask
    if living is not None and host_readable(living) and living.all():
        living = None
    if living is not None:
        k, v = select(living, k), select(living, v)
    seq_q, seq_k = q.shape[1], k.shape[1]
    left, right = options.window_left, options.window_right
    if living is None and left is None and (right is None or right == seq_q - seq_k):
        # Torch's own causal mask: its diagonal starts at the top left.
        if right is not None and right < 0:
            # More keys than queries: the last ones are seen by none.
            k, v = k[:, :seq_q], v[:, :seq_q]
        return _sdpa(q, k, v, options.scale, is_causal=right is not None)
    seen = seen_keys(seq_k, seq_q, seq_k - seq_q, left, right, q.device)
    if seen is not None:
        k, v = select(seen, k), select(seen, v)
    visible = visible_keys(seq_q, seq_k, seq_k - seq_q, left, right, living, q.device)
    assert visible is not None
    return _masked_sdpa(q, k, v, options.scale, visible)


def _compose_varlen(
    q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor
) -> Tensor:
    to_itself = cu_seqlens_q is cu_seqlens_k and q.shape[0] == k.shape[0]
    rows_q = PaddedLayout.of(cu_seqlens_q, q.shape[0], options.max_seqlen_q, "max_seqlen_q")
    rows_k = rows_q
    if not to_itself or options.max_seqlen_k != options.max_seqlen_q:
        rows_k = PaddedLayout.of(cu_seqlens_k, k.shape[0], options.max_seqlen_k, "max_seqlen_k")
    left, right = options.window_left, options.window_right
    if rows_q.max_seqlen == 0 or rows_k.max_seqlen == 0:
        return _nothing_to_see(q, k, v)
    diagonal = rows_k.lengths - rows_q.lengths
    padded_k, padded_v = rows_k.pad(k), rows_k.pad(v)
    if not to_itself:
        seen = seen_keys(rows_k.max_seqlen, rows_q.lengths, diagonal, left, right, q.device)
        assert seen is not None
        padded_k, padded_v = select(seen, padded_k), select(seen, padded_v)
    padded = rows_q.pad(q), padded_k, padded_v
    if left is None and ((right == 0 and to_itself) or (right is None and rows_k.alive is None)):
        # Padding is on the right, so the causal mask alone hides dead keys from living queries.
        return rows_q.pack(_sdpa(*padded, options.scale, is_causal=right is not None))
    visible = visible_keys(rows_q.max_seqlen, rows_k.max_seqlen, diagonal, left, right, rows_k.alive, q.device)
    assert visible is not None
    return rows_q.pack(_masked_sdpa(*padded, options.scale, visible))


def _masked_sdpa(q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor) -> Tensor:
    """With a bool mask that broadcasts to (batch, 1, seq_q, seq_k) and may hide every key from a row."""
    sees = visible.any(dim=-1, keepdim=True)
    if host_readable(sees) and sees.all():
        return _sdpa(q, k, v, scale, attn_mask=visible)
    rows = sees.transpose(1, 2)
    out = _sdpa(torch.where(rows, q, 0), k, v, scale, attn_mask=visible | ~sees)
    return torch.where(rows, out, 0)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, scale: float, attn_mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    # Torch's CPU kernel multiplies its causal -inf by the scale, which one below or at 0 would turn into +inf or NaN.
    if scale < 0:
        q, scale = -q, -scale
    elif scale == 0:
        q, scale = torch.where(torch.zeros((), dtype=torch.bool, device=q.device), q, 0), 1.0
    out = torch_sdpa(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=attn_mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    if not torch.compiler.is_compiling() and out.grad_fn is not None:
        out.grad_fn.register_hook(_once_differentiable)
    return out.transpose(1, 2).contiguous()


def _nothing_to_see(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Zeros that depend on q, k and v, so that their gradients are zeros too."""
    nothing = torch.zeros((), dtype=torch.bool, device=q.device)
    return torch.where(nothing, q + k.sum() + v.sum(), 0).contiguous()


class _OnceDifferentiable(torch.autograd.Function):
    """The identity on a first gradient; to differentiate through it is an error that says what to do.

    Torch's own message names an internal operator.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        raise no_second_derivatives("sdpa")


def _once_differentiable(
    gradients: tuple[Tensor | None, ...], _: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...] | None:
    # One hook on torch's node: a hook on each of q, k and v took 15 microseconds of every call.
    if not torch.is_grad_enabled():
        return None
    return tuple(None if gradient is None else _once(gradient) for gradient in gradients)


def _once(gradient: Tensor) -> Tensor:
    result: Tensor = _OnceDifferentiable.apply(gradient)  # type: ignore[no-untyped-call]
    return result


BACKEND = CompositeBackend("sdpa", supports, compose)
