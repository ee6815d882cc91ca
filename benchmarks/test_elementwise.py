"""The operators between the matrix products, forward and backward, beside the torch expressions they replace.

A new one is a new entry in OPERATORS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pairs import Row, Versus, assert_close, dtype_name
from torch import Tensor

from fastbert.ops import bias_gelu, cross_entropy, dropout, dropout_add, dropout_add_layer_norm

P = 0.1
# Rows are tokens: a MiniLM batch of short reviews, a BERT-base batch.
NARROW, WIDE = (1152, 384), (4096, 768)
HIDDEN, VOCABULARY = (4096, 3072), (600, 30522)  # the inside of BERT-base's MLP; the scores of the masked tokens
EPS = 1e-12


@dataclass(frozen=True)
class Operator:
    """Two ways to compute the same.

    Attributes:
        inputs: (rows, columns, dtype) -> the tensors that need gradients.
        ours: one tensor from these.
        torch: the same from torch's own operators.
        passes: how many (rows, columns) tensors forward and backward together must at least read or write.
        shapes: (rows, columns) of its rows in the report.
        random: each side draws its own bits, so the results cannot be compared.
    """

    inputs: Callable[[int, int, torch.dtype], tuple[Tensor, ...]]
    ours: Callable[..., Tensor]
    torch: Callable[..., Tensor]
    passes: int
    shapes: tuple[tuple[int, int], ...] = (NARROW, WIDE)
    random: bool = False


def one_matrix(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (torch.randn(rows, columns).to(dtype).requires_grad_(),)


def branch_and_residual(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (*one_matrix(rows, columns, dtype), *one_matrix(rows, columns, dtype))


def layer_norm_inputs(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    parameters = (torch.randn(columns).requires_grad_() for _ in range(2))
    return (*branch_and_residual(rows, columns, dtype), *parameters)


def gelu_inputs(rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return (*one_matrix(rows, columns, dtype), torch.randn(columns).requires_grad_())


def targets(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[0], device=logits.device) % logits.shape[1]


OPERATORS = {
    "dropout 0.1": Operator(
        inputs=one_matrix,
        ours=lambda x: dropout(x, P, rng=None, site=0),
        torch=lambda x: F.dropout(x, P),
        passes=4,  # x and out, then both gradients
        random=True,
    ),
    "residual + dropout 0.1": Operator(
        inputs=branch_and_residual,
        ours=lambda x, residual: dropout_add(x, residual, p=P, rng=None, site=0),
        torch=lambda x, residual: residual + F.dropout(x, P),
        passes=5,  # the residual's gradient is that of the output
        random=True,
    ),
    "LayerNorm of residual + dropout 0.1": Operator(
        inputs=layer_norm_inputs,
        ours=lambda x, residual, weight, bias: dropout_add_layer_norm(x, residual, weight, bias, eps=EPS, p=P),
        torch=lambda x, residual, weight, bias: F.layer_norm(
            residual + F.dropout(x, P), weight.shape, weight, bias, EPS
        ),
        passes=8,  # two in, one out; then these two and the output's gradient in, two out
        random=True,
    ),
    "LayerNorm of residual + branch": Operator(
        inputs=layer_norm_inputs,
        ours=lambda x, residual, weight, bias: dropout_add_layer_norm(x, residual, weight, bias, eps=EPS),
        torch=lambda x, residual, weight, bias: F.layer_norm(residual + x, weight.shape, weight, bias, EPS),
        passes=7,
    ),
    "bias + GELU": Operator(
        inputs=gelu_inputs,
        ours=bias_gelu,
        torch=lambda x, bias: F.gelu(x + bias.to(x.dtype)),
        passes=5,
        shapes=(NARROW, WIDE, HIDDEN),
    ),
    "bias + GELU (tanh)": Operator(
        inputs=gelu_inputs,
        ours=lambda x, bias: bias_gelu(x, bias, approximate="tanh"),
        torch=lambda x, bias: F.gelu(x + bias.to(x.dtype), approximate="tanh"),
        passes=5,
        shapes=(NARROW, WIDE, HIDDEN),
    ),
    "cross entropy": Operator(
        inputs=one_matrix,
        ours=lambda logits: cross_entropy(logits, targets(logits)),
        torch=lambda logits: F.cross_entropy(logits.float(), targets(logits), reduction="sum"),
        passes=3,
        shapes=(VOCABULARY,),
    ),
}


def _cases() -> list[Any]:
    return [
        pytest.param(name, rows, columns, dtype, id=f"{name}-{rows}x{columns}-{dtype_name(dtype)}".replace(" ", "-"))
        for name, operator in OPERATORS.items()
        for rows, columns in operator.shapes
        for dtype in (torch.float32, torch.bfloat16)
    ]


@pytest.mark.parametrize(("name", "rows", "columns", "dtype"), _cases())
def test_elementwise(versus: Versus, name: str, rows: int, columns: int, dtype: torch.dtype) -> None:
    operator = OPERATORS[name]
    inputs = operator.inputs(rows, columns, dtype)
    gradient = torch.randn_like(operator.torch(*inputs))

    def agree(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
        for mine, other in zip(ours, theirs, strict=True):
            # torch adds up a float32 parameter's gradient in the activations' bfloat16: 3% off, where ours is exact.
            if other.dtype == dtype:
                assert_close(mine, other)

    versus(
        lambda: forward_backward(operator.ours, inputs, gradient),
        Row(
            work=f"{name}, forward + backward",
            shape=f"{rows} x {columns}",
            dtype=dtype_name(dtype),
            amount=operator.passes * rows * columns * dtype.itemsize / 1e9,
            unit="GB",
        ),
        agree=None if operator.random else agree,
        torch=lambda: forward_backward(operator.torch, inputs, gradient),
    )


def forward_backward(
    operator: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradient: Tensor
) -> tuple[Tensor, ...]:
    """The output and the gradients of the inputs."""
    out = operator(*inputs)
    return out.detach(), *torch.autograd.grad(out, inputs, gradient)
