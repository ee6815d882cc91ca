"""The compiled CPU kernels: the whole contract, in C++ for the instruction set of the machine (csrc/cpu/).

Here tensors become addresses and strides; nothing else happens in Python.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.ops import extension
from fastbert.ops.backends.calls import NO_STRIDES, contiguous, describe, strides
from fastbert.ops.backends.interface import KernelBackend
from fastbert.ops.extension import address
from fastbert.ops.problem import AttentionOptions, AttentionProblem, lse_shape


def supports(problem: AttentionProblem) -> str | None:
    """Everything on CPU tensors, where the extension is built."""
    if problem.device_type != "cpu":
        return f"it computes on the CPU, and the tensors are on {problem.device_type}"
    return extension.error


def forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    """See :class:`KernelBackend`."""
    out = torch.empty(q.shape, dtype=q.dtype, device="cpu")
    lse = torch.empty(lse_shape(q), dtype=torch.float32, device="cpu")
    options = contiguous(options)
    extension.required("attention").attention_forward(
        describe(q, k, options, torch.get_num_threads()), *_addresses(q, k, v), out.data_ptr(), lse.data_ptr()
    )
    return out, lse


def backward(
    dout: Tensor | None,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    options: AttentionOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :class:`KernelBackend`."""
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device="cpu") for x in (q, k, v))
    options = contiguous(options)
    out, lse = out.contiguous(), lse.contiguous()
    dlse = None if dlse is None else dlse.contiguous()
    extension.required("attention").attention_backward(
        describe(q, k, options, torch.get_num_threads()),
        *_addresses(q, k, v),
        out.data_ptr(),
        lse.data_ptr(),
        address(dout),
        NO_STRIDES if dout is None else strides(dout),
        address(dlse),
        dq.data_ptr(),
        dk.data_ptr(),
        dv.data_ptr(),
    )
    return dq, dk, dv


def _addresses(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return q.data_ptr(), strides(q), k.data_ptr(), strides(k), v.data_ptr(), strides(v)


BACKEND = KernelBackend("cpu", supports, forward, backward)
