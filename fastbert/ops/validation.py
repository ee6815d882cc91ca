"""Every argument of every operator, checked before anything is computed.

An error says which argument, what came and what is allowed. Only shapes, types and devices are read; the values of
``cu_seqlens`` are looked at when the environment variable FASTBERT_CHECK is 1 (which makes the host wait for a GPU),
and backends clamp them to their buffers in any case.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastbert.ops.autocast import autocast_is_on

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256
MAX_SITE = 2**31 - 1

_INTEGERS = (int, torch.SymInt)
_NUMBERS = (int, float, torch.SymInt, torch.SymFloat)
_MOST = torch.finfo(torch.float32).max

# Read once, at import.
CHECK_VALUES = os.environ.get("FASTBERT_CHECK") == "1"


def check_dense(q: Tensor, k: Tensor, v: Tensor, key_padding_mask: Tensor | None) -> None:
    """q (batch, seq_q, heads, head_dim); k, v (batch, seq_k, kv_heads, head_dim); key_padding_mask (batch, seq_k)."""
    _check_qkv(q, k, v, "(batch, seq, heads, head_dim)", 4)
    if k.shape[0] != q.shape[0]:
        raise ValueError(f"attention: k has batch {k.shape[0]} but q has {q.shape[0]}; they must be equal")
    if key_padding_mask is None:
        return
    check_tensor("key_padding_mask", key_padding_mask, torch.bool, q)
    if key_padding_mask.shape != (k.shape[0], k.shape[1]):
        raise ValueError(
            f"attention: key_padding_mask has shape {tuple(key_padding_mask.shape)}; "
            f"it must be (batch, seq_k) = {(k.shape[0], k.shape[1])}"
        )


def check_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
) -> None:
    """q (total_q, heads, head_dim); k, v (total_k, kv_heads, head_dim); int32 (n + 1,) cu_seqlens on q's device."""
    _check_qkv(q, k, v, "(total, heads, head_dim)", 3)
    check_tensor("cu_seqlens_q", cu_seqlens_q, torch.int32, q)
    check_tensor("cu_seqlens_k", cu_seqlens_k, torch.int32, q)
    for name, lengths in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if lengths.dim() != 1 or lengths.shape[0] < 1:
            raise ValueError(f"attention: {name} has shape {tuple(lengths.shape)}; it must be (n + 1,)")
    if cu_seqlens_q.shape != cu_seqlens_k.shape:
        raise ValueError(
            f"attention: cu_seqlens_q has {cu_seqlens_q.shape[0]} entries but cu_seqlens_k has "
            f"{cu_seqlens_k.shape[0]}; both must be n + 1 for the same n sequences"
        )
    for name, bound in (("max_seqlen_q", max_seqlen_q), ("max_seqlen_k", max_seqlen_k)):
        if not isinstance(bound, _INTEGERS) or isinstance(bound, bool):
            raise TypeError(f"attention: {name} is a {type(bound).__name__}; it must be a Python int")
        if bound < 0:
            raise ValueError(f"attention: {name} is {bound}; it must be at least 0")
    if CHECK_VALUES and not torch.compiler.is_compiling():
        _check_lengths("cu_seqlens_q", cu_seqlens_q, q.shape[0], "max_seqlen_q", max_seqlen_q)
        _check_lengths("cu_seqlens_k", cu_seqlens_k, k.shape[0], "max_seqlen_k", max_seqlen_k)


def check_options(
    q: Tensor,
    causal: bool,
    window: tuple[int | None, int | None] | None,
    scale: float | None,
    deterministic: bool | None,
    backend: str | None,
) -> None:
    """The options both forms share."""
    if not isinstance(causal, bool):
        raise TypeError(f"attention: causal is a {type(causal).__name__}; it must be a bool")
    if window is not None:
        _check_window(window)
    # By comparison: math.isfinite refuses the symbolic number that a compiler traces a varying scale as.
    if scale is not None and not (_is_number(scale) and -_MOST < scale < _MOST):
        raise ValueError(f"attention: scale is {scale!r}; it must be finite in float32, or None for head_dim ** -0.5")
    if deterministic is not None and not isinstance(deterministic, bool):
        raise TypeError(f"attention: deterministic is {deterministic!r}; it must be True, False or None")
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"attention: backend is a {type(backend).__name__}; it must be a name or None")


def check_no_forward_mode(operator: str, *tensors: Tensor) -> None:
    """Refuse tangents: the registered operators have no forward-mode formula, and torch would take them for zero."""
    # Asking for the level first costs next to nothing; nobody is inside one in ordinary use.
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:  # noqa: SLF001
        return
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(
            f"{operator}: forward-mode differentiation is not supported; use reverse mode (backward, "
            "torch.autograd.grad, torch.func.vjp)"
        )


def check_probability(operator: str, p: float) -> None:
    """A dropout probability: a number in [0, 1]."""
    if not _is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"{operator}: the dropout probability is {p!r}; it must be a number in [0, 1]")


def check_rng(operator: str, rng: Tensor | None, x: Tensor) -> None:
    """int64 (2,) on x's device, or None."""
    if rng is None:
        return
    check_tensor("rng", rng, torch.int64, x, operator)
    if rng.shape != (2,):
        raise ValueError(f"{operator}: rng has shape {tuple(rng.shape)}; it must be (2,), a seed and an offset")


def check_rows(operator: str, name: str, x: Any) -> None:
    """A floating-point tensor of (rows, columns), with at least one column."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{operator}: {name} is a {type(x).__name__}; it must be a tensor")
    if x.dim() != 2 or x.size(1) < 1:
        raise ValueError(f"{operator}: {name} has shape {tuple(x.shape)}; it must be (rows, columns), columns >= 1")
    if not x.is_floating_point():
        raise TypeError(f"{operator}: {name} is {x.dtype}; it must be of a floating-point type")


def check_residual(operator: str, residual: Any, x: Tensor) -> None:
    """A tensor like x."""
    check_tensor("residual", residual, x.dtype, x, operator)
    if residual.shape != x.shape:
        raise ValueError(
            f"{operator}: residual has shape {tuple(residual.shape)}; it must be that of x, {tuple(x.shape)}"
        )


def check_parameter(operator: str, name: str, parameter: Any, x: Tensor) -> None:
    """A floating-point tensor (columns,) on x's device."""
    if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
        kind = parameter.dtype if isinstance(parameter, Tensor) else f"a {type(parameter).__name__}"
        raise TypeError(f"{operator}: {name} is {kind}; it must be a floating-point tensor")
    if parameter.dim() != 1 or parameter.numel() != x.size(1):
        raise ValueError(
            f"{operator}: {name} has shape {tuple(parameter.shape)}; it must be ({x.shape[1]},), a number for each "
            "column of x"
        )
    if not (parameter.is_cpu and x.is_cpu) and parameter.device != x.device:
        raise ValueError(f"{operator}: {name} is on {parameter.device} but x is on {x.device}")


def check_linear(operator: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """weight (classes, columns), bias (classes,) or None: of x's type unless autocast will cast them, on its device."""
    shapes = (("weight", weight, 2), ("bias", bias, 1)) if bias is not None else (("weight", weight, 2),)
    for name, parameter, dims in shapes:
        if not isinstance(parameter, Tensor):
            raise TypeError(f"{operator}: {name} is a {type(parameter).__name__}; it must be a tensor")
        if parameter.dim() != dims:
            raise ValueError(f"{operator}: {name} has shape {tuple(parameter.shape)}; it must have {dims} dimensions")
        if not autocast_is_on(x.device.type) and parameter.dtype != x.dtype:
            raise TypeError(f"{operator}: {name} is {parameter.dtype}; it must be {x.dtype}, as x")
        if parameter.device != x.device:
            raise ValueError(f"{operator}: {name} is on {parameter.device} but x is on {x.device}")
    if weight.shape[1] != x.shape[1] or weight.shape[0] < 1:
        raise ValueError(
            f"{operator}: weight has shape {tuple(weight.shape)}; it must be (classes, {x.shape[1]}), a number for "
            "each column of x"
        )
    if bias is not None and bias.shape[0] != weight.shape[0]:
        raise ValueError(
            f"{operator}: bias has shape {tuple(bias.shape)}; it must be ({weight.shape[0]},), a number for each class"
        )


def check_dropout(x: Tensor, p: float, rng: Tensor | None, site: int) -> None:
    """x (rows, columns) of a supported type; site fits the 31 bits it has in the counter."""
    if not isinstance(x, Tensor):
        raise TypeError(f"dropout: x is a {type(x).__name__}; it must be a tensor")
    if x.dim() != 2:
        raise ValueError(f"dropout: x has shape {tuple(x.shape)}; it must be (rows, columns)")
    if x.dtype not in DTYPES:
        raise TypeError(f"dropout: x is {x.dtype}; allowed are float32, bfloat16 and float16")
    check_probability("dropout", p)
    check_rng("dropout", rng, x)
    if not isinstance(site, int) or not 0 <= site <= MAX_SITE:
        raise ValueError(f"dropout: site is {site!r}; it must be an int from 0 to 2^31 - 1")


def check_tensor(name: str, x: Any, dtype: torch.dtype, like: Tensor, operator: str = "attention") -> None:
    """A tensor of one type on the device of another tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{operator}: {name} is a {type(x).__name__}; it must be a {dtype} tensor")
    if x.dtype != dtype:
        raise TypeError(f"{operator}: {name} is {x.dtype}; it must be {dtype}")
    if x.device != like.device:
        raise ValueError(f"{operator}: {name} is on {x.device} but the activations are on {like.device}")


def _check_qkv(q: Tensor, k: Tensor, v: Tensor, form: str, dims: int) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise TypeError(f"attention: {name} is a {type(x).__name__}; it must be a tensor")
        if x.dim() != dims:
            raise ValueError(f"attention: {name} has shape {tuple(x.shape)}; it must be {form}")
    if q.dtype not in DTYPES:
        raise TypeError(f"attention: q is {q.dtype}; allowed are float32, bfloat16 and float16")
    if k.dtype != q.dtype or v.dtype != q.dtype:
        raise TypeError(f"attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; they must be of one type")
    if k.device != q.device or v.device != q.device:
        raise ValueError(f"attention: q, k, v are on {q.device}, {k.device}, {v.device}; they must be on one device")
    shape_q, shape_k = q.shape, k.shape
    if v.shape != shape_k:
        raise ValueError(f"attention: v has shape {tuple(v.shape)}; it must be that of k, {tuple(shape_k)}")
    heads, head_dim, kv_heads = shape_q[-2], shape_q[-1], shape_k[-2]
    if shape_k[-1] != head_dim:
        raise ValueError(f"attention: k has head_dim {shape_k[-1]} but q has {head_dim}; they must be equal")
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"attention: q has head_dim {head_dim}; allowed are 1 to {MAX_HEAD_DIM}")
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"attention: q has {heads} heads and k has {kv_heads}; q's must be a positive multiple of k's")


def _check_window(window: tuple[int | None, int | None]) -> None:
    if not isinstance(window, (tuple, list)) or len(window) != 2:  # torch 2.9 cannot trace tuple | list
        raise TypeError(f"attention: window is {window!r}; it must be a pair (left, right) or None")
    for side in window:
        if side is None:
            continue
        if not isinstance(side, _INTEGERS) or isinstance(side, bool):
            raise TypeError(f"attention: window is {window!r}; each side must be an int or None")
        if side < 0:
            raise ValueError(f"attention: window is {window!r}; each side must be at least 0, or None for unbounded")


def _is_number(x: Any) -> bool:
    return isinstance(x, _NUMBERS) and not isinstance(x, bool)


def _check_lengths(name: str, cu_seqlens: Tensor, total: int, bound_name: str, bound: int) -> None:
    values = cu_seqlens.tolist()
    lengths = [end - start for start, end in itertools.pairwise(values)]
    if values[0] != 0:
        raise ValueError(f"attention: {name} starts at {values[0]}; it must start at 0")
    if min(lengths, default=0) < 0:
        raise ValueError(f"attention: {name} decreases at entry {lengths.index(min(lengths)) + 1}; it must not")
    if values[-1] > total:
        raise ValueError(f"attention: {name} ends at {values[-1]} but there are {total} rows")
    if max(lengths, default=0) > bound:
        raise ValueError(f"attention: {name} has a sequence of {max(lengths)} tokens but {bound_name} is {bound}")
