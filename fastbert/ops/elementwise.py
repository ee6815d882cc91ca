"""What the fused row-by-row operators share: which calls their kernels serve, and the short way there.

Each is a registered operator, which torch.compile, export and tracing modes need to see. Going through
torch's registration in Python costs some 60 microseconds a call, forward alone; where nobody watches, an
``autograd.Function`` around the same implementation costs a quarter of that. The registered operator and the function
call the same code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.ops import extension

DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

_PLAIN = (Tensor, torch.nn.Parameter)


def kernels_serve(x: Tensor, *parameters: Tensor) -> bool:
    """Whether the compiled kernels take activations like x, with parameters in float32.

    Not inside torch.func: it has no rule for operators registered in Python, and differentiates torch's own.
    """
    return (
        x.is_cpu
        and x.dtype in DTYPE_NAMES
        and extension.compiled is not None
        and all(parameter.dtype == torch.float32 for parameter in parameters)
        and (torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active())  # noqa: SLF001
    )


def nobody_watches(*tensors: Tensor) -> bool:
    """Whether the call is plain eager torch: not compiled, not traced, and not of a tensor subclass."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()  # noqa: SLF001
        or torch._C._are_functorch_transforms_active()  # noqa: SLF001
    ) and all(type(x) in _PLAIN for x in tensors)


def compiled() -> Any:
    """The extension; RuntimeError where it is missing."""
    if extension.compiled is None:
        raise RuntimeError(f"this operator's kernel cannot run: {extension.error}")
    return extension.compiled


def address(x: Tensor | None) -> int:
    """Where the numbers of a contiguous tensor lie; 0 for None."""
    return 0 if x is None else x.data_ptr()


def no_second_derivatives(operator: str) -> NotImplementedError:
    """The error of operators whose backward is a kernel without a formula of its own."""
    return NotImplementedError(
        f"{operator}: second derivatives are not supported; write the operators of torch.nn.functional in its place"
    )


def new_library() -> torch.library.Library:
    """A handle to add operators to torch.ops.fastbert with."""
    return torch.library.Library("fastbert", "FRAGMENT")
