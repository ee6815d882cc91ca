"""Cross entropy of a linear layer's outputs, some rows at a time: a large vocabulary's logits never exist at once.

The forward keeps two numbers a row; the backward multiplies the same rows again and turns their logits into gradients.
That is four products where the plain way has three, and 128 MiB of logits, beside as much of gradients in the backward,
where it has all of them, twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.ops import elementwise, extension, triton_runtime
from fastbert.ops.autocast import autocast_dtype
from fastbert.ops.cross_entropy import check_targets, cross_entropy
from fastbert.ops.validation import check_linear, check_no_forward_mode, check_rows

_LOGITS_BYTES = 128 << 20


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Literal["sum", "none"] = "sum",
) -> Tensor:
    """``cross_entropy(linear(x, weight, bias), targets)`` without the (rows, classes) logits.

    For float32, bfloat16 and float16 on the CPU and on GPUs (Triton); torch's operators, which hold the logits, for all
    others. Products are in x's type (autocast's, where it is on). The parameters' gradients of some thousand rows at a
    time are rounded to that type, and then summed in float32.

    Args:
        x: (rows, columns), of a floating-point type.
        weight: (classes, columns), of x's type; under autocast of any.
        bias: (classes,), as weight, or None.
        targets: int64 (rows,), classes.
        ignore_index: rows with this target have loss and gradient 0.
        reduction: "sum" over the rows, or "none".

    Returns:
        0-dim or (rows,), float32 (float64 for float64).

    Raises:
        TypeError, ValueError: as :func:`fastbert.ops.cross_entropy`; a weight or bias that does not fit x.
        NotImplementedError: second derivatives, where kernels ran; forward-mode differentiation.
    """
    check_rows("linear_cross_entropy", "x", x)
    dtype = autocast_dtype(x)
    check_linear("linear_cross_entropy", x, weight, bias)
    check_targets("linear_cross_entropy", targets, reduction, "x", x)
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if not elementwise.kernels_serve(x):
        return cross_entropy(F.linear(x, weight, bias), targets, ignore_index=ignore_index, reduction=reduction)
    leaves = (x, weight) if bias is None else (x, weight, bias)
    check_no_forward_mode("linear_cross_entropy", *leaves)
    arguments = (x, weight, bias, targets, ignore_index, reduction)
    if not extension.nobody_watches(*leaves, targets):
        return torch.ops.fastbert.linear_cross_entropy(*arguments)[0]  # type: ignore[no-any-return]
    if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
        return _LinearCrossEntropy.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(*arguments)[0]


def _chunks(x: Tensor, classes: int) -> Iterator[slice]:
    """Rows whose logits are computed together: a multiple of 128, as matrix units like it."""
    step = max(128, _LOGITS_BYTES // (classes * x.element_size()) // 128 * 128)
    return (slice(first, first + step) for first in range(0, x.shape[0], step))


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss, and (2, rows) float32: the largest logit and the logarithm of the sum of exp(logit - largest)."""
    _check_classes(targets, weight.shape[0], ignore_index)
    kernels = elementwise.kernels(x)
    losses, statistics = [], []
    with _types_as_they_are(x):
        for rows in _chunks(x, weight.shape[0]):
            logits = F.linear(x[rows], weight, bias)
            loss, kept = kernels.cross_entropy_forward(logits, targets[rows], ignore_index, reduction)
            del logits  # before the next are made
            losses.append(loss)
            statistics.append(kept)
    if not losses:
        shape = () if reduction == "sum" else (0,)
        return x.new_zeros(shape, dtype=torch.float32), x.new_zeros((2, 0), dtype=torch.float32)
    return torch.stack(losses).sum() if reduction == "sum" else torch.cat(losses), torch.cat(statistics, dim=1)


def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    statistics: Tensor,
    ignore_index: int,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """dx, dweight, dbias."""
    kernels = elementwise.kernels(x)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros(weight.shape, dtype=torch.float32, device=x.device)
    dbias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float32, device=x.device)
    with _types_as_they_are(x):
        for rows in _chunks(x, weight.shape[0]):
            dlosses = gradient if reduction == "sum" else gradient[rows]
            logits = F.linear(x[rows], weight, bias)
            dlogits = kernels.cross_entropy_backward(
                dlosses, logits, targets[rows], statistics[:, rows], ignore_index, reduction
            )
            del logits
            torch.mm(dlogits, weight, out=dx[rows])
            if x.dtype == torch.float32:
                dweight.addmm_(dlogits.t(), x[rows])
            else:
                dweight += dlogits.t() @ x[rows]
            if dbias is not None:
                dbias += dlogits.sum(0, dtype=torch.float32)
            del dlogits
    return dx, dweight.to(weight.dtype), None if dbias is None else dbias.to(weight.dtype)


def _types_as_they_are(x: Tensor) -> torch.autocast:
    """The call has chosen the type: its backward may run under an autocast that it did not have."""
    return torch.autocast(x.device.type, enabled=False)


def _check_classes(targets: Tensor, classes: int, ignore_index: int) -> None:
    """As the kernel does, which sees some of the targets only; on the CPU alone, for it would wait for a GPU."""
    if not targets.is_cpu or triton_runtime.INTERPRETING:
        return
    wrong = ((targets != ignore_index) & ((targets < 0) | (targets >= classes))).nonzero()
    if wrong.numel():
        place = int(wrong[0])
        raise ValueError(
            f"linear_cross_entropy: targets[{place}] is {int(targets[place])}; it must be {ignore_index} (ignored) or "
            f"a class below {classes}"
        )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the backward is wanted: the registered operator says there is none
            return _registered_backward(ctx, gradient)
        return *_backward(gradient, *ctx.saved_tensors, *ctx.options), None, None, None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, targets, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias, targets, output[1])


def _registered_backward(ctx: Any, gradient: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias = torch.ops.fastbert.linear_cross_entropy_backward(gradient, *ctx.saved_tensors, *ctx.options)
    return dx, dweight, None if ctx.saved_tensors[2] is None else dbias, None, None, None


def _no_second(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    raise elementwise.no_second_derivatives("linear_cross_entropy")


def _backward_impl(gradient: Tensor, x: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dbias = _backward(gradient, x, *inputs)
    return dx, dweight, x.new_empty(0) if dbias is None else dbias


_library = elementwise.new_library()
_library.define(
    "linear_cross_entropy(Tensor x, Tensor weight, Tensor? bias, Tensor targets, int ignore_index, str reduction) "
    "-> (Tensor loss, Tensor statistics)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "linear_cross_entropy_backward(Tensor dloss, Tensor x, Tensor weight, Tensor? bias, Tensor targets, "
    "Tensor statistics, int ignore_index, str reduction) -> (Tensor dx, Tensor dweight, Tensor dbias)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
elementwise.implement(_library, "linear_cross_entropy", _forward)
elementwise.implement(_library, "linear_cross_entropy_backward", _backward_impl)


@torch.library.register_fake("fastbert::linear_cross_entropy", lib=_library)
def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    rows = x.shape[0]
    loss = x.new_empty(() if reduction == "sum" else (rows,), dtype=torch.float32)
    return loss, x.new_empty((2, rows), dtype=torch.float32)


@torch.library.register_fake("fastbert::linear_cross_entropy_backward", lib=_library)
def _backward_fake(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *inputs: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dbias = x.new_empty((0,)) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), dbias


torch.library.register_autograd(
    "fastbert::linear_cross_entropy", _registered_backward, setup_context=_save, lib=_library
)
torch.library.register_autograd("fastbert::linear_cross_entropy_backward", _no_second, lib=_library)
