"""The Triton kernels: the whole contract on any GPU that Triton compiles for (kernels/).

Here tensors become pointers and strides, and a call becomes one launch forward and two backward. Under
TRITON_INTERPRET=1 Triton runs the same kernels on NumPy, and CPU tensors are served, slowly: for tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastbert.kernels.configurations import configuration, float32_precision, padded
from fastbert.ops import triton_runtime
from fastbert.ops.backends.interface import KernelBackend
from fastbert.ops.problem import AttentionOptions, AttentionProblem, lse_shape

# A row's number plus or minus a window must fit in 32 bits.
_LONGEST = 1 << 29
_WIDEST = 1 << 30
_LARGEST_GRID = (1 << 31) - 1
_WIDE, _SHARED_WHEN_WIDE = 128, 102_400


def supports(problem: AttentionProblem) -> str | None:
    """Everything on GPUs: NVIDIA's from Ampere on, and AMD's."""
    if triton_runtime.MISSING is not None:
        return triton_runtime.MISSING
    if problem.device_type != "cuda" and not (triton_runtime.INTERPRETING and problem.device_type == "cpu"):
        return f"it computes on GPUs, and the tensors are on {problem.device_type}"
    if problem.device_type == "cuda" and torch.version.hip is None and torch.cuda.is_available():
        return _declines(problem, torch.cuda.get_device_properties(torch.cuda.current_device()))
    return None


def _declines(problem: AttentionProblem, gpu: Any) -> str | None:
    """Why an NVIDIA GPU cannot run the problem."""
    if gpu.major < triton_runtime.OLDEST_GPU:
        return f"it needs compute capability 8.0 or newer, and the GPU has {gpu.major}.{gpu.minor}"
    wide = problem.dtype == torch.float32 and problem.head_dim > _WIDE and problem.requires_grad
    if wide and gpu.shared_memory_per_block_optin < _SHARED_WHEN_WIDE:
        return (
            f"its float32 gradients of more than {_WIDE} numbers a head need {_SHARED_WHEN_WIDE} bytes of shared "
            f"memory, and the GPU has {gpu.shared_memory_per_block_optin}"
        )
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    """See :class:`KernelBackend`."""
    if q.numel() == 0 or k.numel() == 0 or _sequences(q, options) == 0:
        return torch.zeros_like(q, memory_format=torch.contiguous_format), q.new_full(
            lse_shape(q), -torch.inf, dtype=torch.float32
        )
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(lse_shape(q), dtype=torch.float32, device=q.device)
    _launch("forward", q, k, v, options, out=out, lse=lse)
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
    if q.numel() == 0 or k.numel() == 0 or _sequences(q, options) == 0:
        dq, dk, dv = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        return dq, dk, dv
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    out, lse = out.contiguous(), lse.contiguous()
    dout = torch.zeros_like(out) if dout is None else dout
    dlse = None if dlse is None else dlse.contiguous()
    delta = torch.empty_like(lse)
    gradient = {"dout": dout, "lse": lse, "delta": delta, **_strides("dout", dout)}
    _launch("backward_q", q, k, v, options, out=out, dlse=dlse, dq=dq, **gradient)
    _launch("backward_k", q, k, v, options, dk=dk, dv=dv, **gradient)
    return dq, dk, dv


def _launch(kernel: str, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions, **arguments: Any) -> None:
    """One kernel over all tiles of queries, or of keys for backward_k, of every head and sequence."""
    varlen = options.cu_seqlens_q is not None
    heads, kv_heads, head_dim = q.shape[-2], k.shape[-2], q.shape[-1]
    seq_q, seq_k = options.max_seqlen_q, options.max_seqlen_k
    if varlen:
        seq_q, seq_k = min(seq_q, q.shape[0]), min(seq_k, k.shape[0])
    if max(seq_q, seq_k) >= _LONGEST:
        raise ValueError(f"attention: backend 'triton' takes sequences below {_LONGEST} rows, not {max(seq_q, seq_k)}")
    architecture = triton_runtime.architecture(q.device)
    dim = padded(head_dim)
    chosen = configuration(kernel, architecture, q.element_size(), dim)
    by_key = kernel == "backward_k"
    # One at least: a packed call clears the rows that are nobody's.
    tiles = max(1, -(-seq_k // chosen.block_k) if by_key else -(-seq_q // chosen.block_q))
    sequences = _sequences(q, options)
    mask = None if options.key_padding_mask is None else options.key_padding_mask.contiguous().view(torch.uint8)
    left, right = (_bounded(side, seq_q + seq_k) for side in (options.window_left, options.window_right))
    programs = (sequences + varlen) * (kv_heads if by_key else heads) * tiles
    if programs > _LARGEST_GRID:
        raise ValueError(
            f"attention: backend 'triton' would launch {programs} programs, more than a grid has: a tighter max_seqlen "
            "makes fewer"
        )
    function = getattr(triton_runtime.module(f"attention_{kernel.split('_')[0]}"), f"attention_{kernel}")
    with triton_runtime.current(q.device):
        function[(programs,)](
            q=q,
            k=k,
            v=v,
            **arguments,
            cu_seqlens_q=None if options.cu_seqlens_q is None else options.cu_seqlens_q.contiguous(),
            cu_seqlens_k=None if options.cu_seqlens_k is None else options.cu_seqlens_k.contiguous(),
            key_padding_mask=mask,
            rng=options.rng.contiguous() if options.dropout_threshold and options.rng is not None else None,
            **_strides("q", q),
            **_strides("k", k),
            **_strides("v", v),
            sequences=sequences,
            heads=heads,
            group=heads // kv_heads,
            total_q=q.shape[0],
            total_k=k.shape[0],
            seq_q=seq_q,
            seq_k=seq_k,
            tiles=tiles,
            window_left=left or 0,
            window_right=right or 0,
            scale=options.scale,
            dropout_threshold=options.dropout_threshold,
            has_left=left is not None,
            has_right=right is not None,
            head_dim=head_dim,
            dim=dim,
            precision=float32_precision(architecture),
            block_q=chosen.block_q,
            block_k=chosen.block_k,
            num_warps=chosen.num_warps,
            num_stages=chosen.num_stages,
            enable_fp_fusion=True,  # float32 products are multiply-adds; Triton 3.10 is to leave it off by default
        )


def _sequences(q: Tensor, options: AttentionOptions) -> int:
    return q.shape[0] if options.cu_seqlens_q is None else options.cu_seqlens_q.shape[0] - 1


def _bounded(side: int | None, rows: int) -> int | None:
    """A window's side within 32 bits; None where it bounds nothing."""
    return None if side is None or side >= rows else max(-_WIDEST, side)


def _strides(name: str, x: Tensor) -> dict[str, int]:
    """Of batch, row and head; a packed tensor has no batch."""
    batch, row, head = (0, *x.stride()[:2]) if x.dim() == 3 else x.stride()[:3]
    return {f"{name}_batch": batch, f"{name}_row": row, f"{name}_head": head}


BACKEND = KernelBackend("triton", supports, forward, backward)
