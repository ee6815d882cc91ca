"""What the fused row-by-row operators share: which calls their kernels serve, and their one error."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastbert.kernels.configurations import WIDEST_ROW
from fastbert.ops import elementwise_cpu, elementwise_triton, extension, triton_runtime


def kernels_serve(x: Tensor, *parameters: Tensor, whole_rows: bool = False) -> bool:
    """Whether there are kernels for activations like x, with parameters in float32.

    Not inside torch.func: it has no rule for operators registered in Python, and differentiates torch's own.

    Args:
        x: (rows, columns).
        parameters: of the operator.
        whole_rows: the operator's GPU kernel holds whole rows, and takes no wider ones than it can hold.
    """
    if x.dtype not in extension.DTYPE_NAMES or any(parameter.dtype != torch.float32 for parameter in parameters):
        return False
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():  # noqa: SLF001
        return False
    if x.is_cpu and not triton_runtime.INTERPRETING:
        return extension.compiled is not None
    if triton_runtime.MISSING is not None or (whole_rows and x.shape[1] > WIDEST_ROW):
        return False
    return x.is_cpu or (x.is_cuda and not triton_runtime.old_gpu(x.device.index))


def kernels(x: Tensor) -> ModuleType:
    """Who computes for tensors like x, where :func:`kernels_serve`: elementwise_cpu or elementwise_triton.

    Triton's interpreter, for tests, serves tensors on the CPU.
    """
    return elementwise_cpu if x.is_cpu and not triton_runtime.INTERPRETING else elementwise_triton


def no_second_derivatives(operator: str) -> NotImplementedError:
    """The error of operators whose backward is a kernel without a formula of its own."""
    return NotImplementedError(
        f"{operator}: second derivatives are not supported; write the operators of torch.nn.functional in its place"
    )


def new_library() -> torch.library.Library:
    """A handle to add operators to torch.ops.fastbert with."""
    return torch.library.Library("fastbert", "FRAGMENT")


def implement(library: torch.library.Library, operator: str, function: Callable[..., Any]) -> None:
    """Register what computes an operator wherever there are kernels."""
    for device in ("CPU", "CUDA"):
        library.impl(operator, function, device)
