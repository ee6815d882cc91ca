"""The backends of attention, and the choice among them."""

from __future__ import annotations

import functools
import os
import warnings

import torch

from fastbert.ops.backends import cpu, cuda, reference, sdpa, triton
from fastbert.ops.backends.interface import Backend, CompositeBackend, KernelBackend
from fastbert.ops.problem import AttentionProblem

__all__ = [
    "Backend",
    "CompositeBackend",
    "KernelBackend",
    "available_backends",
    "backend_names",
    "choose",
    "example_problem",
    "kernel",
    "preferred",
    "requested",
]

_BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (reference.BACKEND, sdpa.BACKEND, cpu.BACKEND, cuda.BACKEND, triton.BACKEND)
}

# Fastest first.
_ORDER: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu", "sdpa", "reference"),
    "cuda": ("cuda", "triton", "sdpa", "reference"),
}
_ORDER_ELSEWHERE = ("sdpa", "reference")


def backend_names() -> tuple[str, ...]:
    """What ``backend=`` and FASTBERT_BACKEND may be, beside "auto"."""
    return tuple(_BACKENDS)


def _forced_backend() -> str:
    name = os.environ.get("FASTBERT_BACKEND") or "auto"
    if name != "auto" and name not in _BACKENDS:
        allowed = ", ".join(("auto", *_BACKENDS))
        raise ValueError(f"the environment variable FASTBERT_BACKEND is {name!r}; allowed are {allowed}")
    return name


# Read once, at import: a value that changed between calls would make compiled and eager code disagree.
_FORCED = _forced_backend()


def requested(backend: str | None) -> str:
    """The name that holds for a call: its own, else FASTBERT_BACKEND, else "auto"."""
    return _FORCED if backend is None else backend


def choose(problem: AttentionProblem, backend: str | None = None) -> Backend:
    """The backend that serves a call: :func:`preferred`, and a warning for each faster one that cannot.

    A reason is warned of once, in eager mode only.
    """
    chosen, skipped = preferred(problem, backend)
    if skipped and not torch.compiler.is_compiling():
        for name, reason in skipped.items():
            _warn_once(name, reason)
    return chosen


def preferred(problem: AttentionProblem, backend: str | None = None) -> tuple[Backend, dict[str, str]]:
    """The backend that serves a problem, and the faster ones that do not.

    Args:
        problem: the call, described.
        backend: a name, "auto", or None for FASTBERT_BACKEND (which is "auto" if unset).

    Returns:
        The one named; with "auto" the first in the device's order that supports the problem, and name -> reason of
        those before it.

    Raises:
        ValueError: an unknown name, or a named backend that cannot serve the problem (with its reason).
    """
    name = requested(backend)
    if name != "auto":
        chosen = _named(name)
        reason = chosen.supports(problem)
        if reason is not None:
            raise ValueError(f"attention: backend {name!r} cannot serve this call: {reason}")
        return chosen, {}
    skipped: dict[str, str] = {}
    for candidate in _order(problem.device_type):
        reason = _BACKENDS[candidate].supports(problem)
        if reason is None:
            return _BACKENDS[candidate], skipped
        skipped[candidate] = reason
    raise ValueError(f"attention: no backend serves this call on {problem.device_type}")


def kernel(name: str) -> KernelBackend:
    """The kernel backend of a name, for the registered operators."""
    backend = _named(name)
    if not isinstance(backend, KernelBackend):
        raise ValueError(f"attention: backend {name!r} is composed of torch operators and has no kernel")
    return backend


def available_backends(device_type: str = "cpu", problem: AttentionProblem | None = None) -> dict[str, str | None]:
    """Every backend of a device in the order "auto" tries them: None, or why it would not serve the problem.

    Args:
        device_type: "cpu", "cuda", ...; taken from the problem if there is one.
        problem: by default :func:`example_problem` without dropout.
    """
    if problem is None:
        problem = example_problem(device_type)
    return {name: _BACKENDS[name].supports(problem) for name in _order(problem.device_type)}


def example_problem(device_type: str, dropout: bool = False) -> AttentionProblem:
    """A training step's attention: bfloat16, head_dim 64, packed sequences of up to 512 tokens."""
    return AttentionProblem(
        device_type=device_type,
        dtype=torch.bfloat16,
        varlen=True,
        batch=8,
        heads=12,
        kv_heads=12,
        head_dim=64,
        seq_q=512,
        seq_k=512,
        dropout=dropout,
        requires_grad=True,
    )


def _order(device_type: str) -> tuple[str, ...]:
    return _ORDER.get(device_type, _ORDER_ELSEWHERE)


def _named(name: str) -> Backend:
    if name not in _BACKENDS:
        raise ValueError(f"attention: backend is {name!r}; allowed are {', '.join(('auto', *_BACKENDS))}")
    return _BACKENDS[name]


@functools.cache
def _warn_once(backend: str, reason: str) -> None:
    warnings.warn(f"attention skips the faster backend {backend!r}: {reason}", RuntimeWarning, stacklevel=2)
