"""Attention beside torch's scaled_dot_product_attention: dense, with dropout, and packed.

Each side gets the layout it likes best, made in advance from the same numbers: ours (batch, seq, heads, head_dim), as
projections leave it; torch (batch, heads, seq, head_dim), contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from machine import attention_backend, multiplies_bf16
from pairs import Row, Versus, assert_close, dtype_name
from torch import Tensor

from fastbert.ops import attention, attention_varlen
from fastbert.packing import Padding, unpad

HEADS = 12
DROPOUT = 0.1
# Multiples of the forward's work: it has two matrix products, the backward five.
BACKWARD, FORWARD_AND_BACKWARD = 2.5, 3.5

QKV = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Shape:
    """``rows`` (batch * heads) matrices of ``seq`` queries and as many keys, 12 heads."""

    rows: int
    seq: int
    head_dim: int = 64

    @property
    def batch(self) -> int:
        return self.rows // HEADS

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.seq}" + ("" if self.head_dim == 64 else f"x{self.head_dim}")

    def __str__(self) -> str:
        return f"{self.rows} x {self.seq}, head_dim {self.head_dim}"


@dataclass(frozen=True)
class Operands:
    """The same numbers for both sides: q, k and v, which need gradients, and the gradient of the output."""

    ours: QKV
    torch: QKV
    gradient: Tensor
    torch_gradient: Tensor


def dense(shape: Shape, dtype: torch.dtype) -> Operands:
    size = (shape.batch, shape.seq, HEADS, shape.head_dim)
    q, k, v, gradient = (torch.randn(size).to(dtype) for _ in range(4))
    return Operands(
        ours=_leaves(q, k, v),
        torch=_leaves(*(x.transpose(1, 2).contiguous() for x in (q, k, v))),
        gradient=gradient,
        torch_gradient=gradient.transpose(1, 2).contiguous(),
    )


def dense_row(work: str, shape: Shape, dtype: torch.dtype, causal: bool, passes: float, dropout: bool = False) -> Row:
    """The row of a dense problem; ``passes`` is its work in multiples of the forward's. Causal halves the work."""
    flop = passes * 4 * shape.rows * shape.seq**2 * shape.head_dim / (2 if causal else 1)
    return Row(
        work=work,
        shape=str(shape),
        dtype=dtype_name(dtype),
        variant="causal" if causal else "full",
        backend=attention_backend(
            dtype,
            batch=shape.batch,
            seq=shape.seq,
            heads=HEADS,
            head_dim=shape.head_dim,
            causal=causal,
            dropout=dropout,
        ),
        amount=flop / 1e9,
        unit="GFLOP",
    )


SHAPES = (Shape(192, 128), Shape(96, 512), Shape(24, 2048), Shape(12, 4096))
DROPOUT_SHAPES = (Shape(192, 128), Shape(96, 512), Shape(12, 2048))
VARLEN_SHAPES = (Shape(192, 128), Shape(96, 512), Shape(192, 128, 32), Shape(96, 512, 32))

causal_or_full = pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_name)


def each(shapes: tuple[Shape, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("shape", shapes, ids=lambda shape: shape.name)


def _backward_cases() -> list[Any]:
    """Every shape and dtype, and a mark on those that torch needs most of a minute for."""
    cases = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            slow = dtype is torch.bfloat16 and shape.seq >= 2048 and not multiplies_bf16()
            # At 5.8 GFLOP/s a thread, measured with AVX2: 5 to 11 s a call on two threads, five calls.
            mark = pytest.mark.costly(30 * shape.seq // 2048, "torch emulates bfloat16 products on this processor")
            cases.append(
                pytest.param(shape, dtype, marks=[mark] if slow else [], id=f"{shape.name}-{dtype_name(dtype)}")
            )
    return cases


@causal_or_full
@each_dtype
@each(SHAPES)
def test_forward(versus: Versus, shape: Shape, dtype: torch.dtype, causal: bool) -> None:
    """The forward of training: it keeps what the backward needs."""
    x = dense(shape, dtype)
    versus(
        lambda: attention(*x.ours, causal=causal),
        dense_row("attention forward", shape, dtype, causal, passes=1),
        agree=lambda ours, theirs: assert_close(ours, theirs.transpose(1, 2)),
        torch=lambda: F.scaled_dot_product_attention(*x.torch, is_causal=causal),
    )


@causal_or_full
@pytest.mark.parametrize(("shape", "dtype"), _backward_cases())
def test_backward(versus: Versus, shape: Shape, dtype: torch.dtype, causal: bool) -> None:
    """The backward alone, of a graph that is kept."""
    x = dense(shape, dtype)
    ours = attention(*x.ours, causal=causal)
    theirs = F.scaled_dot_product_attention(*x.torch, is_causal=causal)

    def agree(mine: QKV, other: QKV) -> None:
        for a, b in zip(mine, other, strict=True):
            assert_close(a, b.transpose(1, 2))

    versus(
        lambda: torch.autograd.grad(ours, x.ours, x.gradient, retain_graph=True),
        dense_row("attention backward", shape, dtype, causal, BACKWARD),
        agree=agree,
        torch=lambda: torch.autograd.grad(theirs, x.torch, x.torch_gradient, retain_graph=True),
    )


@causal_or_full
@each_dtype
@each(DROPOUT_SHAPES)
def test_dropout(versus: Versus, shape: Shape, dtype: torch.dtype, causal: bool) -> None:
    """Forward and backward with dropout; each side draws its own bits, so the results cannot be compared."""
    x = dense(shape, dtype)
    versus(
        lambda: torch.autograd.grad(attention(*x.ours, causal=causal, dropout_p=DROPOUT), x.ours, x.gradient),
        dense_row(
            "attention forward + backward, dropout 0.1", shape, dtype, causal, FORWARD_AND_BACKWARD, dropout=True
        ),
        torch=lambda: torch.autograd.grad(
            F.scaled_dot_product_attention(*x.torch, is_causal=causal, dropout_p=DROPOUT), x.torch, x.torch_gradient
        ),
    )


@dataclass(frozen=True)
class Packed:
    """Sequences of lengths uniform in [seq / 8, seq]: packed for us, padded to seq and masked for torch."""

    x: Operands
    cu_seqlens: Tensor
    mask: Tensor  # (batch, 1, 1, seq), True = a key
    padding: Padding

    def ours(self, seq: int) -> Tensor:
        return attention_varlen(
            *self.x.ours,
            cu_seqlens_q=self.cu_seqlens,
            cu_seqlens_k=self.cu_seqlens,
            max_seqlen_q=seq,
            max_seqlen_k=seq,
        )

    def theirs(self) -> Tensor:
        return F.scaled_dot_product_attention(*self.x.torch, attn_mask=self.mask)

    def assert_close(self, ours: Tensor, theirs: Tensor) -> None:
        assert_close(ours, unpad(theirs.transpose(1, 2), self.padding))


def packed(shape: Shape, dtype: torch.dtype) -> Packed:
    lengths = torch.randint(shape.seq // 8, shape.seq + 1, (shape.batch,))
    mask = torch.arange(shape.seq) < lengths[:, None]
    padding = Padding.from_mask(mask)
    size = (shape.batch, shape.seq, HEADS, shape.head_dim)
    q, k, v, gradient = ((torch.randn(size) * mask[..., None, None]).to(dtype) for _ in range(4))
    x = Operands(
        ours=_leaves(*(unpad(x, padding) for x in (q, k, v))),
        torch=_leaves(*(x.transpose(1, 2).contiguous() for x in (q, k, v))),
        gradient=unpad(gradient, padding),
        torch_gradient=gradient.transpose(1, 2).contiguous(),
    )
    return Packed(x, padding.cu_seqlens, mask[:, None, None, :], padding)


def packed_row(work: str, shape: Shape, dtype: torch.dtype, problem: Packed, passes: float) -> Row:
    """The row of a packed problem. Work counts real tokens only."""
    lengths = problem.cu_seqlens.diff().double()
    return Row(
        work=work,
        shape=str(shape),
        dtype=dtype_name(dtype),
        variant=f"{int(lengths.sum())} of {shape.batch * shape.seq} tokens",
        backend=attention_backend(
            dtype, batch=shape.batch, seq=shape.seq, heads=HEADS, head_dim=shape.head_dim, varlen=True
        ),
        amount=passes * 4 * HEADS * shape.head_dim * float((lengths**2).sum()) / 1e9,
        unit="GFLOP",
    )


@each_dtype
@each(VARLEN_SHAPES)
def test_varlen_forward(versus: Versus, shape: Shape, dtype: torch.dtype) -> None:
    problem = packed(shape, dtype)
    versus(
        lambda: problem.ours(shape.seq),
        packed_row("packed attention forward", shape, dtype, problem, passes=1),
        agree=problem.assert_close,
        torch_padded=problem.theirs,
    )


@each_dtype
@each(VARLEN_SHAPES)
def test_varlen_forward_backward(versus: Versus, shape: Shape, dtype: torch.dtype) -> None:
    problem = packed(shape, dtype)
    x = problem.x

    def agree(mine: QKV, other: QKV) -> None:
        for a, b in zip(mine, other, strict=True):
            problem.assert_close(a, b)

    versus(
        lambda: torch.autograd.grad(problem.ours(shape.seq), x.ours, x.gradient),
        packed_row("packed attention forward + backward", shape, dtype, problem, FORWARD_AND_BACKWARD),
        agree=agree,
        torch_padded=lambda: torch.autograd.grad(problem.theirs(), x.torch, x.torch_gradient),
    )


def _leaves(q: Tensor, k: Tensor, v: Tensor) -> QKV:
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
