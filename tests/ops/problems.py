"""What the tests of attention share: the backends, whole problems, and the rule for rounding errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import emulated_cuda
import pytest
import torch
from definition import Call
from torch import Tensor

from fastbert.ops import attention, attention_varlen, available_backends
from fastbert.ops.backends import backend_names

# Those that compute with CPU tensors in every type; the CUDA kernels, emulated, are slower by orders of magnitude.
# Triton's do so in its interpreter, which a process has or has not: tests/kernels starts one that has it.
_NOT_HERE = ("cuda", emulated_cuda.NAME, *(() if os.environ.get("TRITON_INTERPRET") == "1" else ("triton",)))
BACKENDS = tuple(name for name in backend_names() if name not in _NOT_HERE)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Every backend and device that the contract is tested on.
PAIRS = [
    *((name, "cpu") for name in BACKENDS),
    pytest.param(emulated_cuda.NAME, "cpu", marks=emulated_cuda.needs_nvcc),
    *((name, "cuda") for name in available_backends("cuda") if torch.cuda.is_available()),
]

QKV: TypeAlias = tuple[Tensor, Tensor, Tensor]
T = TypeVar("T")


def served(backend: str, run: Callable[[], T]) -> T:
    """The result, or a skip with the backend's own reason why it does not serve the call."""
    try:
        return run()
    except ValueError as error:
        if f"backend {backend!r} cannot serve this call" in str(error):
            pytest.skip(str(error))
        raise


def usual_dtype(backend: str) -> torch.dtype:
    """float32, in which small errors show, where a backend computes in it."""
    return torch.bfloat16 if backend in ("cuda", emulated_cuda.NAME) else torch.float32


FULL = Call()


@dataclass(frozen=True)
class Dense:
    """A dense problem: shapes and options."""

    batch: int
    seq_q: int
    seq_k: int
    heads: int
    kv_heads: int
    head_dim: int
    call: Call = FULL
    dtype: torch.dtype = torch.float32
    masked: bool = False

    def tensors(self, device: str = "cpu") -> QKV:
        """q, k, v with gradients."""
        shape_q = (self.batch, self.seq_q, self.heads, self.head_dim)
        shape_k = (self.batch, self.seq_k, self.kv_heads, self.head_dim)
        q, k, v = (torch.randn(s, device=device).to(self.dtype).requires_grad_() for s in (shape_q, shape_k, shape_k))
        return q, k, v

    def mask(self, device: str = "cpu") -> Tensor | None:
        if not self.masked:
            return None
        lengths = torch.randint(self.seq_k // 2, self.seq_k + 1, (self.batch, 1))
        return (torch.arange(self.seq_k) < lengths).to(device)


def options(call: Call) -> dict[str, Any]:
    """A call as keyword arguments of the operators."""
    return {
        "causal": call.causal,
        "window": call.window,
        "scale": call.scale,
        "dropout_p": call.dropout_p,
        "rng": call.rng,
    }


def run_dense(
    backend: str, q: Tensor, k: Tensor, v: Tensor, call: Call, mask: Tensor | None = None, **more: Any
) -> Any:
    arguments = options(call) | {"key_padding_mask": mask, "backend": backend} | more
    return served(backend, lambda: attention(q, k, v, **arguments))


def run_varlen(
    backend: str, q: Tensor, k: Tensor, v: Tensor, call: Call, cu_q: Tensor, cu_k: Tensor, slack: int = 0, **more: Any
) -> Any:
    bounds = {
        "cu_seqlens_q": cu_q,
        "cu_seqlens_k": cu_k,
        "max_seqlen_q": max(cu_q.diff().tolist(), default=0) + slack,
        "max_seqlen_k": max(cu_k.diff().tolist(), default=0) + slack,
    }
    arguments = options(call) | bounds | {"backend": backend} | more
    return served(backend, lambda: attention_varlen(q, k, v, **arguments))


def with_dropout(call: Call, p: float = 0.2, seed: int = -987654321, device: str = "cpu") -> Call:
    return replace(call, dropout_p=p, rng=torch.tensor([seed, 12], device=device))


def gradients(out: Tensor, dout: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, inputs, dout.to(out))


def doubles(inputs: QKV) -> QKV:
    """The same values in float64 on the CPU, with gradients of their own."""
    q, k, v = (x.detach().double().cpu().requires_grad_() for x in inputs)
    return q, k, v


# Of gradients alone. Torch's kernels round more often in their backward than the expression does (up to 3.5 times its
# error was seen), and take rowsum(dO * O), whose rounding errors do not cancel where a row sees one key. That is its
# accuracy, measured here so that it gets no worse; ours has none of this slack.
SLACK_OF_TORCH = {("sdpa", name): (4.0, 1e-5) for name in ("dq", "dk", "dv", "gradient")}


def assert_close(
    name: str, found: Tensor, exact: Tensor, plain: Tensor | None = None, backend: str = "", floor: float | None = None
) -> None:
    """Maximum and RMS error: at most twice those of the plain expression, plus 1e-5 (float32: 1e-6) of the size.

    Args:
        name: for messages.
        found: what a backend computed.
        exact: float64.
        plain: the plain expression in found's type, or None for no error at all.
        backend: whose result it is, where slack may be due.
        floor: in place of the 1e-5 or 1e-6.
    """
    assert found.shape == exact.shape, f"{name}: {tuple(found.shape)} instead of {tuple(exact.shape)}"
    if exact.numel() == 0:
        return
    exact = exact.detach()
    error = (found.detach().double().cpu() - exact).abs()
    assert error.isfinite().all(), f"{name}: not finite"
    allowed_max = allowed_rms = 0.0
    if plain is not None:
        plain_error = (plain.detach().double().cpu() - exact).abs()
        assert plain_error.isfinite().all(), f"{name}: the plain expression is not finite"
        allowed_max, allowed_rms = float(plain_error.max()), float(plain_error.square().mean().sqrt())
    factor, least = SLACK_OF_TORCH.get((backend, name), (2.0, 1e-6 if found.dtype == torch.float32 else 1e-5))
    floor = least if floor is None else floor
    absolute = floor * max(1.0, float(exact.abs().max()))
    largest, rms = float(error.max()), float(error.square().mean().sqrt())
    assert largest <= factor * allowed_max + absolute, (
        f"{name}: error {largest:.3g}, the plain expression {allowed_max:.3g}"
    )
    assert rms <= factor * allowed_rms + absolute, (
        f"{name}: RMS error {rms:.3g}, the plain expression {allowed_rms:.3g}"
    )


def forgiving(exact: Tensor, plain: Tensor, dtype: torch.dtype) -> Tensor:
    """The plain expression, or the exact one rounded once, number by number: among few the plain one may be lucky."""
    exact, plain = exact.detach(), plain.detach().double()
    rounded = exact.to(dtype).double()
    return torch.where((rounded - exact).abs() > (plain.to(exact) - exact).abs(), rounded, plain.to(exact))


def assert_lse_close(found: Tensor, exact: Tensor) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach().double().cpu(), exact.detach(), rtol=1e-5, atol=1e-5)
