"""What a backend is: a name, an answer to "can you?", and the computation.

There are two kinds. A kernel computes forward and backward on plain tensors, below autograd; it runs inside the
registered operators of :mod:`fastbert.ops.registration`, so it may be as opaque as it likes. A composite is written in
torch operators that torch differentiates and compiles itself. A new kernel is one file in this directory and one row
in the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from fastbert.ops.problem import AttentionOptions, AttentionProblem

Supports: TypeAlias = Callable[[AttentionProblem], "str | None"]
Forward: TypeAlias = Callable[[Tensor, Tensor, Tensor, AttentionOptions], "tuple[Tensor, Tensor]"]
Backward: TypeAlias = Callable[
    ["Tensor | None", "Tensor | None", Tensor, Tensor, Tensor, Tensor, Tensor, AttentionOptions],
    "tuple[Tensor, Tensor, Tensor]",
]
Compose: TypeAlias = Callable[[Tensor, Tensor, Tensor, AttentionOptions], Tensor]


@dataclass(frozen=True)
class KernelBackend:
    """Forward and backward on tensors whose last dimension has stride 1 (gradients, dlse included).

    Attributes:
        name: what users call it.
        supports: None, or the reason why the problem cannot be served.
        forward: (q, k, v, options) -> (out contiguous in q's layout, lse float32).
        backward: (dout or None, dlse or None, q, k, v, out, lse, options) -> (dq, dk, dv), contiguous. None stands for
            zeros.
        differentiable: the backward is itself written in differentiable torch operators, so it may be called outside
            the registered operator when second derivatives are wanted.
    """

    name: str
    supports: Supports
    forward: Forward
    backward: Backward
    differentiable: bool = False


@dataclass(frozen=True)
class CompositeBackend:
    """Torch operators above autograd.

    Attributes:
        name: what users call it.
        supports: None, or the reason why the problem cannot be served.
        compose: (q, k, v, options) -> out, in q's layout.
    """

    name: str
    supports: Supports
    compose: Compose


Backend: TypeAlias = "KernelBackend | CompositeBackend"


def no_second_derivatives(backend: str) -> NotImplementedError:
    """The error of every backend whose backward is not differentiable."""
    return NotImplementedError(
        f"attention: backend {backend!r} has no second derivatives; use backend='reference', which has"
    )
