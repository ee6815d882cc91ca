"""Whom the GPU benchmark times: our backends, torch's kernels, and flash-attn where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from typing import Any

import torch
import torch.nn.functional as F
from gpu_problems import Operands, Problem
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastbert.ops import attention, attention_varlen, available_backends

OURS = ("cuda", "triton")


def ours(backend: str, problem: Problem, x: Operands) -> Tensor:
    """fastbert's attention."""
    causal, p = problem.causal, problem.dropout_p
    if x.cu_seqlens is None:
        return attention(x.q, x.k, x.v, causal=causal, dropout_p=p, backend=backend)
    return attention_varlen(
        x.q,
        x.k,
        x.v,
        cu_seqlens_q=x.cu_seqlens,
        cu_seqlens_k=x.cu_seqlens,
        max_seqlen_q=problem.seq,
        max_seqlen_k=problem.seq,
        causal=causal,
        dropout_p=p,
        backend=backend,
    )


def sdpa(backend: SDPBackend, problem: Problem, x: Operands) -> Tensor:
    """Torch's own, with one of its kernels."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(x.q, x.k, x.v, is_causal=problem.causal, dropout_p=problem.dropout_p)


@cache
def compiled_flex() -> Any:
    """FlexAttention, compiled; anew for each shape, as its users do."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@cache
def causal_blocks(seq: int) -> Any:
    """FlexAttention's block mask of a causal square."""
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(lambda b, h, i, j: i >= j, None, None, seq, seq, device="cuda")


def flex(problem: Problem, x: Operands) -> Tensor:
    """FlexAttention."""
    mask = causal_blocks(problem.seq) if problem.causal else None
    result: Tensor = compiled_flex()(x.q, x.k, x.v, block_mask=mask)
    return result


def torch_varlen(problem: Problem, x: Operands) -> Tensor:
    """Torch's packed attention, where this torch has it."""
    from torch.nn.attention import varlen

    attend: Any = varlen.varlen_attn
    result: Tensor = attend(x.q, x.k, x.v, x.cu_seqlens, x.cu_seqlens, problem.seq, problem.seq)
    return result


def flash_attn(problem: Problem, x: Operands) -> Tensor:
    """The package flash-attn."""
    package: Any = importlib.import_module("flash_attn")
    rest: dict[str, Any] = {"causal": problem.causal, "dropout_p": problem.dropout_p}
    if x.cu_seqlens is None:
        result: Tensor = package.flash_attn_func(x.q, x.k, x.v, **rest)
    else:
        bounds = (x.cu_seqlens, x.cu_seqlens, problem.seq, problem.seq)
        result = package.flash_attn_varlen_func(x.q, x.k, x.v, *bounds, **rest)
    return result


@dataclass(frozen=True)
class Side:
    """Who is timed: a function of the problem and its operands, and the layout it likes best."""

    name: str
    run: Callable[[Problem, Operands], Tensor]
    heads_first: bool = False


def sides(problem: Problem) -> list[Side]:
    """Whoever can be asked for this problem; ours first."""
    found = [
        Side(name, partial(ours, name))
        for name, reason in available_backends("cuda").items()
        if name in OURS and reason is None
    ]
    if problem.packed:
        found += [Side("torch varlen", torch_varlen)]
    else:
        kernels = {
            "flash": SDPBackend.FLASH_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cuDNN": SDPBackend.CUDNN_ATTENTION,
        }
        found += [Side(name, partial(sdpa, kernel), heads_first=True) for name, kernel in kernels.items()]
        if not problem.dropout_p and problem.seq in (512, 2048):  # each compilation takes seconds
            found += [Side("flex", flex, heads_first=True)]
    if version("flash-attn"):
        found += [Side("flash-attn", flash_attn)]
    return found


def version(distribution: str) -> str | None:
    """Of an installed distribution; None where it is not."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
