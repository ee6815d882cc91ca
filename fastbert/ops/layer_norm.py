"""LayerNorm, alone and of the residual sum (Ba, Kiros and Hinton 2016; the order of Vaswani et al. 2017).

Fused, residual sum, dropout and LayerNorm read their inputs once and write their output once. The backward
computes the sum again, or reads it where it was wanted anyway, and keeps beside it two numbers a row and the ``rng``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.ops import elementwise, extension, philox
from fastbert.ops.elementwise_dropout import dropout, dropout_add
from fastbert.ops.validation import check_dropout, check_no_forward_mode, check_parameter, check_residual, check_rows


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last dimension, with statistics in float32 and the output in x's dtype.

    torch's own would hand back float32 under CUDA autocast, and with it a float32 residual stream.

    Args:
        x: (..., columns).
        weight: (columns,), of x's dtype or float32.
        bias: as weight.
        eps: added to the variance.
    """
    # torch's CPU kernel takes low precision input with float32 parameters.
    if x.dtype == weight.dtype or x.device.type == "cpu":
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    return F.layer_norm(x.float(), weight.shape, weight, bias, eps).to(x.dtype)


@overload
def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    p: float = ...,
    rng: Tensor | None = ...,
    site: int = ...,
    return_sum: Literal[False] = ...,
) -> Tensor: ...
@overload
def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    p: float = ...,
    rng: Tensor | None = ...,
    site: int = ...,
    return_sum: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    p: float = 0.0,
    rng: Tensor | None = None,
    site: int = 0,
    return_sum: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``LayerNorm(residual + dropout(x))``: what closes a post-LN sublayer, or opens the next pre-LN one.

    Arithmetic is in float32; a returned sum is rounded to x's type before it is normalised. One kernel for float32,
    bfloat16 and float16 with float32 parameters, on the CPU and, up to 16,384 columns, on GPUs (Triton); torch's
    operators, of the same definition, for all others.

    Args:
        x: (rows, columns), the branch: float32, bfloat16 or float16; without dropout any floating-point type.
        residual: of x's shape and type.
        weight: (columns,).
        bias: (columns,).
        eps: added to the variance.
        p: probability of dropping an element of x, as in :func:`fastbert.ops.dropout`.
        rng: int64 (2,) seed and offset on x's device; None draws a pair there, where p asks for one.
        site: which dropout of the layer this is.
        return_sum: also return the sum, which is the residual stream of a pre-LN model.

    Returns:
        (rows, columns) of x's type; with return_sum (normalised, sum).

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, device, probability or site.
        NotImplementedError: second derivatives, where the kernel ran; forward-mode differentiation.
    """
    check_rows("dropout_add_layer_norm", "x", x)
    check_residual("dropout_add_layer_norm", residual, x)
    check_parameter("dropout_add_layer_norm", "weight", weight, x)
    check_parameter("dropout_add_layer_norm", "bias", bias, x)
    if p != 0:
        check_dropout(x, p, rng, site)
        if p == 1:
            x, p = dropout(x, 1.0, rng=rng, site=site), 0.0
    if not elementwise.kernels_serve(x, weight, bias, whole_rows=True):
        total = dropout_add(x, residual, p=p, rng=rng, site=site) if p else residual + x
        out = layer_norm(total, weight, bias, eps)
        return (out, total) if return_sum else out
    check_no_forward_mode("dropout_add_layer_norm", x, residual, weight, bias)
    if p == 0:
        rng, threshold = None, 0
    else:
        rng, threshold = philox.draw_rng(x.device) if rng is None else rng, philox.threshold(p)
    arguments = (x, residual, weight, bias, rng, site, threshold, eps, return_sum)
    if not extension.nobody_watches(x, residual, weight, bias):
        out, total, _ = torch.ops.fastbert.dropout_add_layer_norm(*arguments)
        return (out, total) if return_sum else out
    if torch.is_grad_enabled() and (
        x.requires_grad or residual.requires_grad or weight.requires_grad or bias.requires_grad
    ):
        return _DropoutAddLayerNorm.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
    out, sum_or_none, _ = _forward(*arguments)
    return out if sum_or_none is None else (out, sum_or_none)


def _forward(x: Tensor, *inputs: Any) -> tuple[Tensor, Tensor | None, Tensor]:
    """out, the sum where it is wanted, and (2, rows) float32: mean and 1 / standard deviation."""
    return elementwise.kernels(x).layer_norm_forward(x, *inputs)  # type: ignore[no-any-return]


def _backward(dout: Tensor, *inputs: Any) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """dx (None without dropout: it is dresidual), dresidual, dweight, dbias. Reads the sum, or else x and residual."""
    return elementwise.kernels(dout).layer_norm_backward(dout, *inputs)  # type: ignore[no-any-return]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    x, residual, weight, _, rng, site, threshold, _, return_sum = inputs
    _, total, statistics = output
    if return_sum:
        ctx.save_for_backward(None, None, total, weight, statistics, rng)
    else:
        ctx.save_for_backward(x, residual, None, weight, statistics, rng)
    ctx.site, ctx.threshold = site, threshold
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, dout: Tensor | None, dtotal: Tensor | None, backward: Callable[..., tuple[Tensor | None, ...]]
) -> tuple[Tensor | None, ...]:
    x, residual, total, weight, statistics, rng = ctx.saved_tensors
    nothing = (None,) * 5
    if total is None:  # what the registered operator returns in its place is empty, and so is its gradient
        dtotal = None
    if dout is None:  # only the sum was used
        if dtotal is None:
            return None, None, None, None, *nothing
        dout = torch.zeros_like(dtotal)
    dx, dresidual, dweight, dbias = backward(
        dout, dtotal, x, residual, total, weight, statistics, rng, ctx.site, ctx.threshold
    )
    return dx if ctx.threshold else dresidual, dresidual, dweight, dbias, *nothing


class _DropoutAddLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor | tuple[Tensor, Tensor]:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        out, total, _ = output
        return out if total is None else (out, total)

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dtotal: Tensor | None = None) -> tuple[Tensor | None, ...]:
        # A graph of the backward is wanted: the registered operator will say that there is none.
        watched = torch.is_grad_enabled()
        return _gradients(
            ctx, dout, dtotal, torch.ops.fastbert.dropout_add_layer_norm_backward if watched else _backward
        )


_library = elementwise.new_library()
_library.define(
    "dropout_add_layer_norm(Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor? rng, int site, "
    "int threshold, float eps, bool return_sum) -> (Tensor out, Tensor sum, Tensor statistics)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "dropout_add_layer_norm_backward(Tensor dout, Tensor? dsum, Tensor? x, Tensor? residual, Tensor? sum, "
    "Tensor weight, Tensor statistics, Tensor? rng, int site, int threshold) "
    "-> (Tensor dx, Tensor dresidual, Tensor dweight, Tensor dbias)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def _forward_impl(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    out, total, statistics = _forward(*inputs)
    return out, out.new_empty(0) if total is None else total, statistics


def _backward_impl(dout: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dresidual, dweight, dbias = _backward(dout, *inputs)
    return dout.new_empty(0) if dx is None else dx, dresidual, dweight, dbias


elementwise.implement(_library, "dropout_add_layer_norm", _forward_impl)
elementwise.implement(_library, "dropout_add_layer_norm_backward", _backward_impl)


@torch.library.register_fake("fastbert::dropout_add_layer_norm", lib=_library)
def _forward_fake(x: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, return_sum = inputs
    statistics = x.new_empty((2, x.shape[0]), dtype=torch.float32)
    return x.new_empty(x.shape), x.new_empty(x.shape if return_sum else (0,)), statistics


@torch.library.register_fake("fastbert::dropout_add_layer_norm_backward", lib=_library)
def _backward_fake(dout: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight, threshold = inputs[4], inputs[8]
    dx = dout.new_empty(dout.shape if threshold else (0,))
    return dx, dout.new_empty(dout.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _registered_backward(
    ctx: Any, dout: Tensor | None, dtotal: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    return _gradients(ctx, dout, dtotal, torch.ops.fastbert.dropout_add_layer_norm_backward)


def _no_second(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    raise elementwise.no_second_derivatives("dropout_add_layer_norm")


torch.library.register_autograd(
    "fastbert::dropout_add_layer_norm", _registered_backward, setup_context=_save, lib=_library
)
torch.library.register_autograd("fastbert::dropout_add_layer_norm_backward", _no_second, lib=_library)
