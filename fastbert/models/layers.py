"""The few operations every block is made of, with the library's rules for dropout and for precision."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastbert.ops import bias_gelu, dropout, dropout_add, dropout_add_layer_norm
from fastbert.ops.elementwise import kernels_serve
from fastbert.ops.layer_norm import layer_norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
GELU = {"gelu": "none", "gelu_new": "tanh"}  # which approximation of it


class DropoutSite(enum.IntEnum):
    """Where in a layer an element-wise dropout sits; sites of one layer draw from streams of their own."""

    EMBEDDING = 0
    ATTENTION_OUTPUT = 1
    MLP_OUTPUT = 2
    CLASSIFIER = 3


NO_DROPOUT = (0.0, None, DropoutSite.EMBEDDING)


def drop(x: Tensor, p: float, rng: Tensor | None, site: DropoutSite) -> Tensor:
    """Dropout of (rows, columns); ``rng`` None (evaluation) leaves ``x`` alone."""
    return x if rng is None else dropout(x, p, rng=rng, site=int(site))


def add(branch: Tensor, residual: Tensor, p: float, rng: Tensor | None, site: DropoutSite) -> Tensor:
    """``residual + dropout(branch)``; ``rng`` None (evaluation) drops nothing."""
    return dropout_add(branch, residual, p=0.0 if rng is None else p, rng=rng, site=int(site))


class LayerNorm(nn.LayerNorm):
    """LayerNorm with float32 statistics and parameters whose output has the dtype of its input."""

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        dropout: tuple[float, Tensor | None, DropoutSite] = NO_DROPOUT,
        *,
        return_sum: bool = False,
    ) -> Any:
        """The norm of (..., hidden), or of (rows, hidden) added to a residual stream.

        Args:
            x: what is normalised; with a residual the branch that :func:`add` adds to it first.
            residual: of x's shape and dtype.
            dropout: p, rng and site of :func:`add`.
            return_sum: return the pair of the norm and the sum.
        """
        if residual is None:
            return layer_norm(x, self.weight, self.bias, self.eps)
        p, rng, site = dropout
        return dropout_add_layer_norm(
            x,
            residual,
            self.weight,
            self.bias,
            eps=self.eps,
            p=0.0 if rng is None else p,
            rng=rng,
            site=int(site),
            return_sum=return_sum,  # type: ignore[call-overload]
        )


def activate(linear: nn.Linear, activation: str, x: Tensor) -> Tensor:
    """A linear layer of (rows, columns) and the activation after it.

    GELU's kernel adds the bias on its way; there it is left out of the matrix product.
    """
    approximate = GELU.get(activation)
    bias = linear.bias
    if approximate is None or bias is None or not _is_plain(linear) or not kernels_serve(x, bias):
        return ACTIVATIONS[activation](linear(x))
    return bias_gelu(F.linear(x, linear.weight), bias, approximate=approximate)


def _is_plain(linear: nn.Module) -> bool:
    """Whether calling the module does nothing but torch's linear: an adapter must get its call."""
    return type(linear) is nn.Linear and only_its_forward(linear)


def only_its_forward(module: nn.Module) -> bool:
    """Whether a call of the module is its class's forward and no more: a hook must get its call."""
    hooks = (
        module._forward_hooks,  # noqa: SLF001
        module._forward_pre_hooks,  # noqa: SLF001
        module._backward_hooks,  # noqa: SLF001
        module._backward_pre_hooks,  # noqa: SLF001
    )
    return (
        not any(hooks)
        and "forward" not in vars(module)  # replaced on the instance, as offloading does
        and not nn.modules.module._has_any_global_hook()  # noqa: SLF001
    )
