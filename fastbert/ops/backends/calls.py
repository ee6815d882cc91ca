"""A call as the compiled kernels take it: sizes, strides and addresses, the same for every backend in fastbert._C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fastbert.ops import extension
from fastbert.ops.problem import AttentionOptions

NO_STRIDES = (0, 0, 0)
_UNBOUNDED = 1 << 40


def contiguous(options: AttentionOptions) -> AttentionOptions:
    """The options with tensors that may be read by address alone; the caller keeps them alive over the call."""
    tensors = ("cu_seqlens_q", "cu_seqlens_k", "key_padding_mask", "rng")
    found = {name: getattr(options, name) for name in tensors}
    strided = {name: x.contiguous() for name, x in found.items() if x is not None and not x.is_contiguous()}
    return options._replace(**strided) if strided else options


def describe(
    q: Tensor,
    k: Tensor,
    options: AttentionOptions,
    num_threads: int = 1,
    address: Callable[[Tensor | None], int] = extension.address,
) -> Any:
    """The ``fastbert._C.AttentionProblem`` of a call whose options are :func:`contiguous`."""
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
        num_threads=num_threads,
    )


def strides(x: Tensor) -> tuple[int, ...]:
    """(batch, row, head); a packed tensor has no batch."""
    found = x.stride()[:-1]
    return found if len(found) == 3 else (0, *found)


def _bounded(side: int | None) -> int | None:
    """A window's side within 64 bits; beyond any sequence it is the same as none."""
    return None if side is None else max(-_UNBOUNDED, min(side, _UNBOUNDED))
