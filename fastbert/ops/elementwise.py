"""What the fused row-by-row operators share: which calls their kernels serve, and their one error."""

from __future__ import annotations

import torch
from torch import Tensor

from fastbert.ops import extension


def kernels_serve(x: Tensor, *parameters: Tensor) -> bool:
    """Whether the compiled kernels take activations like x, with parameters in float32.

    Not inside torch.func: it has no rule for operators registered in Python, and differentiates torch's own.
    """
    return (
        x.is_cpu
        and x.dtype in extension.DTYPE_NAMES
        and extension.compiled is not None
        and all(parameter.dtype == torch.float32 for parameter in parameters)
        and (torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active())  # noqa: SLF001
    )


def no_second_derivatives(operator: str) -> NotImplementedError:
    """The error of operators whose backward is a kernel without a formula of its own."""
    return NotImplementedError(
        f"{operator}: second derivatives are not supported; write the operators of torch.nn.functional in its place"
    )


def new_library() -> torch.library.Library:
    """A handle to add operators to torch.ops.fastbert with."""
    return torch.library.Library("fastbert", "FRAGMENT")
