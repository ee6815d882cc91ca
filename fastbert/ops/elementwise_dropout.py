"""Element-wise dropout (embeddings, residual branches, heads) by the same definition as attention's.

Nothing is kept for the backward but the ``rng`` pair: the mask is drawn again, from the element's place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.ops import philox
from fastbert.ops.validation import check_dropout, check_no_forward_mode


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
    result: Tensor = torch.ops.fastbert.dropout(x, rng, site, philox.threshold(p))
    return result


def _dropout_impl(x: Tensor, rng: Tensor, site: int, threshold: int) -> Tensor:
    rows, columns = x.shape
    random = philox.elementwise_bytes(rng, rows, columns, site)
    scaled = x.contiguous() * philox.survivor_scale(threshold)
    return scaled.masked_fill_(random < threshold, 0)


_library = torch.library.Library("fastbert", "FRAGMENT")
_library.define("dropout(Tensor x, Tensor rng, int site, int threshold) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.impl("dropout", _dropout_impl, "CompositeExplicitAutograd")


@torch.library.register_fake("fastbert::dropout", lib=_library)
def _dropout_fake(x: Tensor, rng: Tensor, site: int, threshold: int) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rng, ctx.site, ctx.threshold = inputs
    ctx.save_for_backward(rng)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (rng,) = ctx.saved_tensors
    return torch.ops.fastbert.dropout(gradient, rng, ctx.site, ctx.threshold), None, None, None


torch.library.register_autograd("fastbert::dropout", _backward, setup_context=_setup_context, lib=_library)
