"""The compiled CPU kernels: the whole contract, in C++ for the instruction set of the machine (csrc/cpu/).

Here tensors become addresses and strides; nothing else happens in Python.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.ops import extension
from fastbert.ops.backends.interface import KernelBackend
from fastbert.ops.extension import address
from fastbert.ops.problem import AttentionOptions, AttentionProblem, lse_shape

_NO_STRIDES = (0, 0, 0)
_UNBOUNDED = 1 << 40


def supports(problem: AttentionProblem) -> str | None:
    """Everything on CPU tensors, where the extension is built."""
    if problem.device_type != "cpu":
        return f"it computes on the CPU, and the tensors are on {problem.device_type}"
    return extension.error


def forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    """See :class:`KernelBackend`."""
    out = torch.empty(q.shape, dtype=q.dtype, device="cpu")
    lse = torch.empty(lse_shape(q), dtype=torch.float32, device="cpu")
    options = _contiguous(options)
    extension.required("attention").attention_forward(
        _problem(q, k, options), *_addresses(q, k, v), out.data_ptr(), lse.data_ptr()
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
    options = _contiguous(options)
    out, lse = out.contiguous(), lse.contiguous()
    dlse = None if dlse is None else dlse.contiguous()
    extension.required("attention").attention_backward(
        _problem(q, k, options),
        *_addresses(q, k, v),
        out.data_ptr(),
        lse.data_ptr(),
        address(dout),
        _NO_STRIDES if dout is None else _strides(dout),
        address(dlse),
        dq.data_ptr(),
        dk.data_ptr(),
        dv.data_ptr(),
    )
    return dq, dk, dv


def _contiguous(options: AttentionOptions) -> AttentionOptions:
    """The options with tensors that may be read by address alone; the caller keeps them alive over the call."""
    tensors = ("cu_seqlens_q", "cu_seqlens_k", "key_padding_mask", "rng")
    found = {name: getattr(options, name) for name in tensors}
    strided = {name: x.contiguous() for name, x in found.items() if x is not None and not x.is_contiguous()}
    return options._replace(**strided) if strided else options


def _problem(q: Tensor, k: Tensor, options: AttentionOptions) -> Any:
    varlen = options.cu_seqlens_q is not None
    return extension.required("attention").AttentionProblem(
        dtype=extension.DTYPE_NAMES[q.dtype],
        batch=options.cu_seqlens_q.shape[0] - 1 if options.cu_seqlens_q is not None else q.shape[0],
        heads=q.shape[-2],
        kv_heads=k.shape[-2],
        head_dim=q.shape[-1],
        seq_q=min(options.max_seqlen_q, q.shape[0]) if varlen else options.max_seqlen_q,
        seq_k=min(options.max_seqlen_k, k.shape[0]) if varlen else options.max_seqlen_k,
        total_q=q.shape[0] if varlen else 0,
        total_k=k.shape[0] if varlen else 0,
        cu_seqlens_q=address(options.cu_seqlens_q),
        cu_seqlens_k=address(options.cu_seqlens_k),
        key_padding_mask=address(options.key_padding_mask),
        window_left=_bounded(options.window_left),
        window_right=_bounded(options.window_right),
        scale=options.scale,
        dropout_threshold=options.dropout_threshold,
        rng=address(options.rng),
        num_threads=torch.get_num_threads(),
    )


def _addresses(q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return q.data_ptr(), _strides(q), k.data_ptr(), _strides(k), v.data_ptr(), _strides(v)


def _bounded(side: int | None) -> int | None:
    """A window's side within 64 bits; beyond any sequence it is the same as none."""
    return None if side is None else max(-_UNBOUNDED, min(side, _UNBOUNDED))


def _strides(x: Tensor) -> tuple[int, ...]:
    """(batch, row, head); a packed tensor has no batch."""
    strides = x.stride()[:-1]
    return strides if len(strides) == 3 else (0, *strides)


BACKEND = KernelBackend("cpu", supports, forward, backward)
