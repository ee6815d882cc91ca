"""The compiled extension, if it is there, and what its callers share. Every operator that has a kernel asks here.

Kernels are registered operators, which torch.compile, export and tracing modes need to see. Going through torch's
registration in Python costs some 60 microseconds a call, forward alone; where nobody watches, an ``autograd.Function``
around the same implementation costs a quarter of that.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

_PLAIN = (Tensor, torch.nn.Parameter)


def _load() -> tuple[ModuleType | None, str | None]:
    """The extension, or None and the reason. One that is there but broken is also warned of: the rest still works."""
    if importlib.util.find_spec("fastbert._C") is None:
        return None, "fastbert._C is not built"
    try:
        return importlib.import_module("fastbert._C"), None
    except ImportError as error:
        warnings.warn(
            f"fastbert._C cannot be imported, so slower code runs in its place: {error}", RuntimeWarning, stacklevel=2
        )
        return None, str(error)


compiled, error = _load()


def required(operator: str) -> Any:
    """The extension; RuntimeError where it is missing."""
    if compiled is None:
        raise RuntimeError(f"{operator}: the kernel cannot run: {error}")
    return compiled


def nobody_watches(*tensors: Tensor) -> bool:
    """Whether the call is plain eager torch: not compiled, not traced, and not of a tensor subclass."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()  # noqa: SLF001
        or torch._C._are_functorch_transforms_active()  # noqa: SLF001
    ) and all(type(x) in _PLAIN for x in tensors)


def address(x: Tensor | None) -> int:
    """Where the first number of a tensor lies; 0 for None."""
    return 0 if x is None else x.data_ptr()
