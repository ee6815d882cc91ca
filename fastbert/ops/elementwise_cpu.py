"""The fused row-by-row operators on the CPU: tensors become addresses for the compiled extension (csrc/cpu/).

:mod:`fastbert.ops.elementwise_triton` has the same functions. Any strides come in; what goes out is contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert.ops import extension


def dropout_add(x: Tensor, residual: Tensor | None, rng: Tensor, site: int, threshold: int) -> Tensor:
    """residual + dropout(x), or dropout(x) alone."""
    x, rng = x.contiguous(), rng.contiguous()
    residual = None if residual is None else residual.contiguous()
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    extension.required("dropout").dropout_add(
        extension.DTYPE_NAMES[x.dtype],
        *x.shape,
        x.data_ptr(),
        extension.address(residual),
        out.data_ptr(),
        threshold,
        rng.data_ptr(),
        site,
        torch.get_num_threads(),
    )
    return out


def bias_gelu_forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU(x + bias)."""
    x, bias = x.contiguous(), bias.contiguous()
    out = torch.empty_like(x)
    extension.required("bias_gelu").bias_gelu_forward(
        extension.DTYPE_NAMES[x.dtype],
        approximate == "tanh",
        *x.shape,
        x.data_ptr(),
        bias.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def bias_gelu_backward(dout: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """dx, dbias."""
    dout, x, bias = dout.contiguous(), x.contiguous(), bias.contiguous()
    dx, dbias = torch.empty_like(x), torch.empty_like(bias)
    extension.required("bias_gelu").bias_gelu_backward(
        extension.DTYPE_NAMES[x.dtype],
        approximate == "tanh",
        *x.shape,
        dout.data_ptr(),
        x.data_ptr(),
        bias.data_ptr(),
        dx.data_ptr(),
        dbias.data_ptr(),
        torch.get_num_threads(),
    )
    return dx, dbias


def layer_norm_forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    rng: Tensor | None,
    site: int,
    threshold: int,
    eps: float,
    return_sum: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """out, the sum where it is wanted, and (2, rows) float32: mean and 1 / standard deviation."""
    rows, columns = x.shape
    x, residual, weight, bias = x.contiguous(), residual.contiguous(), weight.contiguous(), bias.contiguous()
    rng = None if rng is None else rng.contiguous()
    out = torch.empty_like(x)
    total = torch.empty_like(x) if return_sum else None
    statistics = torch.empty((2, rows), dtype=torch.float32, device="cpu")
    if rows == 0:
        return out, total, statistics
    where = statistics.data_ptr()
    extension.required("dropout_add_layer_norm").layer_norm_forward(
        extension.DTYPE_NAMES[x.dtype],
        rows,
        columns,
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        eps,
        out.data_ptr(),
        extension.address(total),
        where,
        where + 4 * rows,
        threshold,
        extension.address(rng),
        site,
        torch.get_num_threads(),
    )
    return out, total, statistics


def layer_norm_backward(
    dout: Tensor,
    dtotal: Tensor | None,
    x: Tensor | None,
    residual: Tensor | None,
    total: Tensor | None,
    weight: Tensor,
    statistics: Tensor,
    rng: Tensor | None,
    site: int,
    threshold: int,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """dx (None without dropout: it is dresidual), dresidual, dweight, dbias. Reads the sum, or else x and residual."""
    rows, columns = dout.shape
    dout, weight, statistics = dout.contiguous(), weight.contiguous(), statistics.contiguous()
    if total is not None:
        total = total.contiguous()
    elif x is not None and residual is not None:
        x, residual = x.contiguous(), residual.contiguous()
    dtotal = None if dtotal is None else dtotal.contiguous()
    rng = None if rng is None else rng.contiguous()
    dresidual = torch.empty_like(dout)
    dx = torch.empty_like(dout) if threshold else None
    if rows == 0:
        return dx, dresidual, torch.zeros_like(weight), torch.zeros_like(weight)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)
    where = statistics.data_ptr()
    extension.required("dropout_add_layer_norm").layer_norm_backward(
        extension.DTYPE_NAMES[dout.dtype],
        rows,
        columns,
        dout.data_ptr(),
        extension.address(dtotal),
        extension.address(total),
        extension.address(x),
        extension.address(residual),
        weight.data_ptr(),
        where,
        where + 4 * rows,
        extension.address(dx),
        dresidual.data_ptr(),
        dweight.data_ptr(),
        dbias.data_ptr(),
        threshold,
        extension.address(rng),
        site,
        torch.get_num_threads(),
    )
    return dx, dresidual, dweight, dbias


def _floats(*shape: int) -> Tensor:
    # Spelled out: torch's default dtype and device are the user's to change, and the kernel writes float32.
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def cross_entropy_forward(logits: Tensor, targets: Tensor, ignore_index: int, reduction: str) -> tuple[Tensor, Tensor]:
    """The loss, and (2, rows) float32: the largest logit and the logarithm of the sum of exp(logit - largest)."""
    logits, targets = logits.contiguous(), targets.contiguous()
    rows, classes = logits.shape
    losses, statistics = _floats(rows), _floats(2, rows)
    total = _floats() if reduction == "sum" else None
    where = statistics.data_ptr()
    extension.required("cross_entropy").cross_entropy_forward(
        extension.DTYPE_NAMES[logits.dtype],
        rows,
        classes,
        logits.data_ptr(),
        targets.data_ptr(),
        ignore_index,
        losses.data_ptr(),
        extension.address(total),
        where,
        where + 4 * rows,
        torch.get_num_threads(),
    )
    return losses if total is None else total, statistics


def cross_entropy_backward(
    gradient: Tensor, logits: Tensor, targets: Tensor, statistics: Tensor, ignore_index: int, reduction: str
) -> Tensor:
    """dlogits, of a gradient that is 0-dim or (rows,) as the reduction has it."""
    gradient, logits, targets, statistics = (x.contiguous() for x in (gradient, logits, targets, statistics))
    rows, classes = logits.shape
    dlogits = torch.empty_like(logits)
    where = statistics.data_ptr()
    extension.required("cross_entropy").cross_entropy_backward(
        extension.DTYPE_NAMES[logits.dtype],
        rows,
        classes,
        gradient.data_ptr(),
        0 if reduction == "sum" else 1,
        logits.data_ptr(),
        targets.data_ptr(),
        ignore_index,
        where,
        where + 4 * rows,
        dlogits.data_ptr(),
        torch.get_num_threads(),
    )
    return dlogits
