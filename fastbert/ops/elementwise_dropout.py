"""Element-wise dropout (embeddings, residual branches, heads) by the same definition as attention's.

Nothing is kept for the backward but the ``rng`` pair: the mask is drawn again, from the element's place. The
kernel, compiled for the CPU or Triton's for GPUs, draws, scales and adds in one pass, with no mask in memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.ops import elementwise, extension, philox
from fastbert.ops.validation import check_dropout, check_no_forward_mode, check_residual, check_rows


def dropout(x: Tensor, p: float, *, rng: Tensor | None, site: int) -> Tensor:
    """Drop elements with probability p and scale the others so that the expectation stays.

    With t = threshold(p), an element is kept where its random byte is at least t, and multiplied by 256 / (256 - t):
    the probability really used, so the expectation is exact. Bytes are those of
    :func:`fastbert.ops.philox.elementwise_bytes`. There is no train or eval mode here: p = 0 is off.

    Args:
        x: (rows, columns), float32, bfloat16 or float16. Under autocast the type stays.
        p: in [0, 1]. 0 returns x itself, 1 returns zeros. A constant of a compiled graph: a new value compiles anew.
        rng: int64 (2,) seed and offset on x's device, or None to draw a pair there.
        site: which dropout of the layer this is: sites of one rng drop independently.

    Returns:
        (rows, columns), contiguous (x itself when p is 0). Differentiable any number of times.

    Raises:
        TypeError: x is not a tensor of a supported type, or rng is not int64.
        ValueError: a wrong shape, device, probability or site.
        NotImplementedError: forward-mode differentiation.
    """
    check_dropout(x, p, rng, site)
    if p == 0:
        return x
    if p == 1:
        return x.masked_fill(torch.ones((), dtype=torch.bool, device=x.device), 0).contiguous()
    check_no_forward_mode("dropout", x)
    if rng is None:
        rng = philox.draw_rng(x.device)
    return _run(x, None, rng, site, philox.threshold(p))


def dropout_add(x: Tensor, residual: Tensor, *, p: float, rng: Tensor | None, site: int) -> Tensor:
    """``residual + dropout(x)``, the sum in float32: what closes a sublayer.

    Args:
        x: (rows, columns), as in :func:`dropout`; for p = 0 of any floating-point type.
        residual: of x's shape and type.
        p, rng, site: as in :func:`dropout`.

    Returns:
        (rows, columns). Differentiable any number of times.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`dropout`; residual is not like x.
    """
    check_rows("dropout_add", "x", x)
    check_residual("dropout_add", residual, x)
    if p == 0:
        return residual + x
    check_dropout(x, p, rng, site)
    if p == 1:
        return residual + dropout(x, p, rng=rng, site=site)
    check_no_forward_mode("dropout_add", x, residual)
    if rng is None:
        rng = philox.draw_rng(x.device)
    return _run(x, residual, rng, site, philox.threshold(p))


def _run(x: Tensor, residual: Tensor | None, rng: Tensor, site: int, threshold: int) -> Tensor:
    if not extension.nobody_watches(x, rng, x if residual is None else residual):
        if residual is None:
            return torch.ops.fastbert.dropout(x, rng, site, threshold)  # type: ignore[no-any-return]
        return torch.ops.fastbert.dropout_add(x, residual, rng, site, threshold)  # type: ignore[no-any-return]
    if torch.is_grad_enabled() and (x.requires_grad or (residual is not None and residual.requires_grad)):
        return _DropoutAdd.apply(x, residual, rng, site, threshold)  # type: ignore[no-any-return, no-untyped-call]
    return _compute(x, residual, rng, site, threshold)


def _compute(x: Tensor, residual: Tensor | None, rng: Tensor, site: int, threshold: int) -> Tensor:
    if elementwise.kernels_serve(x):
        return elementwise.kernels(x).dropout_add(x, residual, rng, site, threshold)  # type: ignore[no-any-return]
    rows, columns = x.shape
    random = philox.elementwise_bytes(rng, rows, columns, site)
    dropped = (x.contiguous() * philox.survivor_scale(threshold)).masked_fill_(random < threshold, 0)
    return dropped if residual is None else dropped.add_(residual)


class _DropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, rng: Tensor, site: int, threshold: int) -> Tensor:
        ctx.save_for_backward(rng)
        ctx.site, ctx.threshold, ctx.adds = site, threshold, residual is not None
        return _compute(x, residual, rng, site, threshold)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rng,) = ctx.saved_tensors
        dx = _run(gradient, None, rng, ctx.site, ctx.threshold)
        return dx, gradient if ctx.adds else None, None, None, None


def _dropout_impl(x: Tensor, rng: Tensor, site: int, threshold: int) -> Tensor:
    return _compute(x, None, rng, site, threshold)


_library = elementwise.new_library()
_library.define("dropout(Tensor x, Tensor rng, int site, int threshold) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(
    "dropout_add(Tensor x, Tensor residual, Tensor rng, int site, int threshold) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("dropout", _dropout_impl, "CompositeExplicitAutograd")
_library.impl("dropout_add", _compute, "CompositeExplicitAutograd")


@torch.library.register_fake("fastbert::dropout", lib=_library)
def _dropout_fake(x: Tensor, rng: Tensor, site: int, threshold: int) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("fastbert::dropout_add", lib=_library)
def _dropout_add_fake(x: Tensor, residual: Tensor, rng: Tensor, site: int, threshold: int) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *_, rng, ctx.site, ctx.threshold = inputs
    ctx.save_for_backward(rng)


def _dropout_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (rng,) = ctx.saved_tensors
    return torch.ops.fastbert.dropout(gradient, rng, ctx.site, ctx.threshold), None, None, None


def _dropout_add_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    dx, *nothing = _dropout_backward(ctx, gradient)
    return dx, gradient, *nothing


torch.library.register_autograd("fastbert::dropout", _dropout_backward, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(
    "fastbert::dropout_add", _dropout_add_backward, setup_context=_setup_context, lib=_library
)
