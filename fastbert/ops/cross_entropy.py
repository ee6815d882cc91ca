"""Cross entropy with a sum, not a mean: who averages over what is the caller's business.

The forward reads the logits once, in the type they have, and keeps two numbers a row; the backward writes their
gradient in one pass. Neither makes a second array of the logits' size beside that gradient.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.ops import elementwise, extension
from fastbert.ops.validation import check_no_forward_mode, check_rows, check_tensor

REDUCTIONS = ("sum", "none")


def cross_entropy(
    logits: Tensor, targets: Tensor, *, ignore_index: int = -100, reduction: Literal["sum", "none"] = "sum"
) -> Tensor:
    """-log softmax(logits)[target], in float32.

    One kernel for float32, bfloat16 and float16, on the CPU and on GPUs (Triton); torch's operators for all others.

    Args:
        logits: (rows, classes), of a floating-point type.
        targets: int64 (rows,), classes.
        ignore_index: rows with this target have loss and gradient 0, whatever their logits.
        reduction: "sum" over the rows, or "none".

    Returns:
        0-dim or (rows,), float32 (float64 for float64 logits).

    Raises:
        TypeError: a wrong type or dtype.
        ValueError: a wrong shape, device or reduction; on the CPU, a target that is no class. GPUs, whose
            values nobody waits for, answer such a target with the loss NaN.
        NotImplementedError: second derivatives, where the kernel ran; forward-mode differentiation.
    """
    check_rows("cross_entropy", "logits", logits)
    check_targets("cross_entropy", targets, reduction, "logits", logits)
    if not elementwise.kernels_serve(logits):
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(wide, targets, ignore_index=ignore_index, reduction=reduction)
    check_no_forward_mode("cross_entropy", logits)
    arguments = (logits, targets, ignore_index, reduction)
    if not extension.nobody_watches(logits, targets):
        return torch.ops.fastbert.cross_entropy(*arguments)[0]  # type: ignore[no-any-return]
    if torch.is_grad_enabled() and logits.requires_grad:
        return _CrossEntropy.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(*arguments)[0]


def check_targets(operator: str, targets: Tensor, reduction: str, name: str, rows: Tensor) -> None:
    """Targets (rows,), one for each row of the tensor of that name; a reduction that exists."""
    check_tensor("targets", targets, torch.int64, rows, operator)
    if targets.dim() != 1 or targets.size(0) != rows.size(0):
        raise ValueError(
            f"{operator}: targets have shape {tuple(targets.shape)}; it must be ({rows.shape[0]},), one for each row "
            f"of {name}"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"{operator}: reduction is {reduction!r}; allowed are 'sum' and 'none'")


def _forward(logits: Tensor, targets: Tensor, ignore_index: int, reduction: str) -> tuple[Tensor, Tensor]:
    """The loss, and (2, rows) float32: the largest logit and the logarithm of the sum of exp(logit - largest)."""
    kernels = elementwise.kernels(logits)
    return kernels.cross_entropy_forward(logits, targets, ignore_index, reduction)  # type: ignore[no-any-return]


def _backward(
    gradient: Tensor, logits: Tensor, targets: Tensor, statistics: Tensor, ignore_index: int, reduction: str
) -> Tensor:
    kernels = elementwise.kernels(logits)
    return kernels.cross_entropy_backward(  # type: ignore[no-any-return]
        gradient, logits, targets, statistics, ignore_index, reduction
    )


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int, reduction: str) -> Tensor:
        loss, statistics = _forward(logits, targets, ignore_index, reduction)
        _save(ctx, (logits, targets, ignore_index, reduction), (loss, statistics))
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a graph of the backward is wanted: the registered operator says there is none
            return _registered_backward(ctx, gradient)
        return _backward(gradient, *ctx.saved_tensors, *ctx.options), None, None, None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, targets, *ctx.options = inputs
    ctx.save_for_backward(logits, targets, output[1])


def _registered_backward(ctx: Any, gradient: Tensor, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    dlogits = torch.ops.fastbert.cross_entropy_backward(gradient, *ctx.saved_tensors, *ctx.options)
    return dlogits, None, None, None


def _no_second(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    raise elementwise.no_second_derivatives("cross_entropy")


_library = elementwise.new_library()
_library.define(
    "cross_entropy(Tensor logits, Tensor targets, int ignore_index, str reduction) -> (Tensor loss, Tensor statistics)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "cross_entropy_backward(Tensor dloss, Tensor logits, Tensor targets, Tensor statistics, int ignore_index, "
    "str reduction) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
elementwise.implement(_library, "cross_entropy", _forward)
elementwise.implement(_library, "cross_entropy_backward", _backward)


@torch.library.register_fake("fastbert::cross_entropy", lib=_library)
def _forward_fake(logits: Tensor, targets: Tensor, ignore_index: int, reduction: str) -> tuple[Tensor, Tensor]:
    rows = logits.shape[0]
    loss = logits.new_empty(() if reduction == "sum" else (rows,), dtype=torch.float32)
    return loss, logits.new_empty((2, rows), dtype=torch.float32)


@torch.library.register_fake("fastbert::cross_entropy_backward", lib=_library)
def _backward_fake(gradient: Tensor, logits: Tensor, *inputs: Any) -> Tensor:
    return logits.new_empty(logits.shape)


torch.library.register_autograd("fastbert::cross_entropy", _registered_backward, setup_context=_save, lib=_library)
torch.library.register_autograd("fastbert::cross_entropy_backward", _no_second, lib=_library)
