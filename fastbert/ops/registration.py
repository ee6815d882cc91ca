"""fastbert::attention_forward and fastbert::attention_backward: the one pair of operators every kernel runs behind.

The pair is opaque to torch.compile and known to it by its fake implementations; the autograd formula is registered
here, once, for every kernel backend. Packed and dense calls share it: a packed one has cumulative lengths.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from fastbert.ops.autocast import autocast_is_on
from fastbert.ops.backends import kernel
from fastbert.ops.backends.interface import no_second_derivatives
from fastbert.ops.extension import nobody_watches
from fastbert.ops.problem import AttentionOptions, lse_shape

_OPTIONS = (
    "Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k, Tensor? key_padding_mask, "
    "Tensor? rng, SymInt? window_left, SymInt? window_right, float scale, int dropout_threshold, bool deterministic, "
    "str backend"
)

_library = torch.library.Library("fastbert", "FRAGMENT")
_library.define(
    f"attention_forward(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor out, Tensor lse)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "attention_backward(Tensor? dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{_OPTIONS}) -> (Tensor dq, Tensor dk, Tensor dv)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions, backend: str
) -> tuple[Tensor, Tensor]:
    """(out, lse), differentiable in q, k and v: by way of the operator where somebody watches, else directly.

    The operator costs five times a small problem's computation in Python alone.
    """
    arguments = (q, k, v, *_flatten(options), backend)
    if not nobody_watches(q, k, v):
        return torch.ops.fastbert.attention_forward(*arguments)  # type: ignore[no-any-return]
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _Attention.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
    return _forward_impl(*arguments)


def _flatten(options: AttentionOptions) -> tuple[Any, ...]:
    return (
        options.cu_seqlens_q,
        options.cu_seqlens_k,
        options.max_seqlen_q,
        options.max_seqlen_k,
        options.key_padding_mask,
        options.rng,
        options.window_left,
        options.window_right,
        options.scale,
        options.dropout_threshold,
        options.deterministic,
    )


def _options(*flat: Any) -> AttentionOptions:
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, key_padding_mask, rng, left, right, *rest = flat
    scale, dropout_threshold, deterministic = rest
    return AttentionOptions(
        window_left=left,
        window_right=right,
        scale=scale,
        dropout_threshold=dropout_threshold,
        deterministic=deterministic,
        key_padding_mask=key_padding_mask,
        rng=rng,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
    )


def _forward_impl(q: Tensor, k: Tensor, v: Tensor, *flat: Any) -> tuple[Tensor, Tensor]:
    *options, backend = flat
    q, k, v = (_last_contiguous(x) for x in (q, k, v))
    with _autocast_off(q):
        return kernel(backend).forward(q, k, v, _options(*options))


def _backward_impl(
    dout: Tensor | None, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *flat: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *options, backend = flat
    q, k, v = (_last_contiguous(x) for x in (q, k, v))
    dout, dlse = (None if x is None else _last_contiguous(x) for x in (dout, dlse))
    with _autocast_off(q):
        return kernel(backend).backward(dout, dlse, q, k, v, out, lse, _options(*options))


def _last_contiguous(x: Tensor) -> Tensor:
    if x.stride(-1) == 1:
        return x
    if x.shape[-1] == 1:
        # Of one element, any stride is contiguous to torch; a kernel that reads the stride wants a 1.
        return x.as_strided(x.shape, (*x.stride()[:-1], 1))
    return x.contiguous()


def _autocast_off(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    # Inputs already have the type that autocast asked for; what a backend computes in float32 must stay there.
    on = autocast_is_on(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if on else contextlib.nullcontext()


_library.impl("attention_forward", _forward_impl, "CompositeExplicitAutograd")
_library.impl("attention_backward", _backward_impl, "CompositeExplicitAutograd")


@torch.library.register_fake("fastbert::attention_forward", lib=_library)
def _forward_fake(q: Tensor, k: Tensor, v: Tensor, *flat: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(lse_shape(q), dtype=torch.float32)


@torch.library.register_fake("fastbert::attention_backward", lib=_library)
def _backward_fake(
    dout: Tensor | None, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_q, max_k, key_padding_mask, rng, *scalars = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens_q, cu_seqlens_k, key_padding_mask, rng)
    ctx.bounds = (max_q, max_k)
    ctx.scalars = tuple(scalars)
    ctx.set_materialize_grads(False)


def _forward_autograd(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, key_padding_mask, rng = ctx.saved_tensors
    nothing = (None,) * 12
    if dout is None and dlse is None:
        return None, None, None, *nothing
    flat = (cu_seqlens_q, cu_seqlens_k, *ctx.bounds, key_padding_mask, rng, *ctx.scalars)
    *options, backend = flat
    chosen = kernel(backend)
    if chosen.differentiable and torch.is_grad_enabled():
        with _autocast_off(q):
            gradients = chosen.backward(dout, dlse, q, k, v, out, lse, _options(*options))
    elif torch.is_grad_enabled() or not nobody_watches(q, k, v):
        # A graph of the backward is wanted: the operator will say that there is none.
        gradients = torch.ops.fastbert.attention_backward(dout, dlse, q, k, v, out, lse, *flat)
    else:
        gradients = _backward_impl(dout, dlse, q, k, v, out, lse, *flat)
    return *gradients, *nothing


class _Attention(torch.autograd.Function):
    """The operator's forward and gradient, without the operator."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _forward_impl(*inputs)
        _setup_forward_context(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        return _forward_autograd(ctx, dout, dlse)


def _setup_backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.backend = inputs[-1]


def _backward_autograd(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    raise no_second_derivatives(ctx.backend)


torch.library.register_autograd(
    "fastbert::attention_forward", _forward_autograd, setup_context=_setup_forward_context, lib=_library
)
torch.library.register_autograd(
    "fastbert::attention_backward", _backward_autograd, setup_context=_setup_backward_context, lib=_library
)
