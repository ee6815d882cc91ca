"""GELU of a biased sum (Hendrycks and Gimpel 2016), for the hidden layer of an MLP.

The bias of the linear layer before it is added here, and its gradient summed up here, so that neither costs a pass of
its own. Kept for the backward: x and bias.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.ops import elementwise, extension
from fastbert.ops.validation import check_no_forward_mode, check_parameter, check_rows

APPROXIMATIONS = ("none", "tanh")


def bias_gelu(x: Tensor, bias: Tensor, *, approximate: str = "none") -> Tensor:
    """GELU(x + bias), in float32 arithmetic.

    One kernel for float32, bfloat16 and float16 with a float32 bias, on the CPU and on GPUs (Triton); torch's operators
    for all others.

    Args:
        x: (rows, columns), of a floating-point type.
        bias: (columns,).
        approximate: "none" for y * Phi(y), Phi the normal distribution; "tanh" for
            y / 2 * (1 + tanh(sqrt(2 / pi) * (y + 0.044715 y^3))).

    Returns:
        (rows, columns) of x's type, contiguous.

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape or device, or an unknown approximation.
        NotImplementedError: second derivatives, where the kernel ran; forward-mode differentiation.
    """
    check_rows("bias_gelu", "x", x)
    check_parameter("bias_gelu", "bias", bias, x)
    if approximate not in APPROXIMATIONS:
        raise ValueError(f"bias_gelu: approximate is {approximate!r}; allowed are 'none' and 'tanh'")
    if not elementwise.kernels_serve(x, bias):
        return F.gelu(x + bias.to(x.dtype), approximate=approximate)
    check_no_forward_mode("bias_gelu", x, bias)
    if not extension.nobody_watches(x, bias):
        return torch.ops.fastbert.bias_gelu(x, bias, approximate)  # type: ignore[no-any-return]
    if torch.is_grad_enabled() and (x.requires_grad or bias.requires_grad):
        return _BiasGelu.apply(x, bias, approximate)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(x, bias, approximate)


def _forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    return elementwise.kernels(x).bias_gelu_forward(x, bias, approximate)  # type: ignore[no-any-return]


def _backward(dout: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    return elementwise.kernels(x).bias_gelu_backward(dout, x, bias, approximate)  # type: ignore[no-any-return]


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, approximate: str) -> Tensor:
        _save(ctx, (x, bias, approximate), None)
        return _forward(x, bias, approximate)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the backward is wanted: the registered operator says there is none
            return _registered_backward(ctx, dout)
        x, bias = ctx.saved_tensors
        return *_backward(dout, x, bias, ctx.approximate), None


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, bias, ctx.approximate = inputs
    ctx.save_for_backward(x, bias)


def _registered_backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.fastbert.bias_gelu_backward(dout, *ctx.saved_tensors, ctx.approximate), None


def _no_second(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    raise elementwise.no_second_derivatives("bias_gelu")


_library = elementwise.new_library()
_library.define(
    "bias_gelu(Tensor x, Tensor bias, str approximate) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "bias_gelu_backward(Tensor dout, Tensor x, Tensor bias, str approximate) -> (Tensor dx, Tensor dbias)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
elementwise.implement(_library, "bias_gelu", _forward)
elementwise.implement(_library, "bias_gelu_backward", _backward)


@torch.library.register_fake("fastbert::bias_gelu", lib=_library)
def _forward_fake(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("fastbert::bias_gelu_backward", lib=_library)
def _backward_fake(dout: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


torch.library.register_autograd("fastbert::bias_gelu", _registered_backward, setup_context=_save, lib=_library)
torch.library.register_autograd("fastbert::bias_gelu_backward", _no_second, lib=_library)
