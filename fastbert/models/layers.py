"""The few operations every block is made of, with the library's rules for dropout and for precision."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fastbert.ops import dropout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class DropoutSite(enum.IntEnum):
    """Where in a layer an element-wise dropout sits; sites of one layer draw from streams of their own."""

    EMBEDDING = 0
    ATTENTION_OUTPUT = 1
    MLP_OUTPUT = 2
    CLASSIFIER = 3


def drop(x: Tensor, p: float, rng: Tensor | None, site: DropoutSite) -> Tensor:
    """Dropout of (rows, columns); ``rng`` None (evaluation) leaves ``x`` alone."""
    return x if rng is None else dropout(x, p, rng=rng, site=int(site))


class LayerNorm(nn.LayerNorm):
    """LayerNorm with float32 statistics and parameters whose output has the dtype of its input.

    torch's own would hand back float32 under CUDA autocast, and with it a float32 residual stream.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        if x.device.type == "cpu":  # torch's CPU kernel takes low precision input with float32 parameters
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return super().forward(x.float()).to(x.dtype)
