"""The compiled CUDA kernels: bfloat16 and float16 on NVIDIA GPUs from compute capability 8.0 on (csrc/cuda/).

Here tensors become addresses and strides, the extension makes a plan of launches, and a device carries it out. Only the
device knows whether it is a GPU: tests execute the same plans without one. Nothing waits for the device and nothing of
it is read, so a call can be captured into a CUDA graph.

Kernels copy 16 bytes at a time. A tensor whose rows do not begin at multiples of that is copied first, and a head_dim
that is no multiple of 8 is filled up with zeros, which change no score and are cut off the results.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fastbert.ops import extension
from fastbert.ops.backends.calls import NO_STRIDES, contiguous, describe, strides
from fastbert.ops.backends.interface import KernelBackend
from fastbert.ops.problem import AttentionOptions, AttentionProblem, lse_shape

MOST_ROWS = 1 << 28  # of a sequence
_ALIGNMENT = 16  # bytes
_NUMBERS = 8  # of 16 bits in them


class Device(Protocol):
    """What one call runs on.

    Attributes:
        shared_bytes: shared memory that a block may have.
    """

    shared_bytes: int

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor for the kernels to write, aligned to 16 bytes."""

    def address(self, x: Tensor | None) -> int:
        """Where kernels find the first number of a tensor; 0 for None."""

    def run(self, plan: Any) -> None:
        """Carry out a ``fastbert._C.AttentionPlan``."""


class Gpu:
    """The GPU that a tensor lies on, and the current stream there."""

    def __init__(self, x: Tensor):
        self._compiled = extension.required("attention")
        self._device = x.device
        self.shared_bytes: int = self._compiled.cuda_shared_bytes(x.device.index)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def address(self, x: Tensor | None) -> int:
        return extension.address(x)

    def run(self, plan: Any) -> None:
        stream = torch.cuda.current_stream(self._device).cuda_stream
        self._compiled.cuda_launch(plan, self._device.index, stream)


def supports(problem: AttentionProblem) -> str | None:
    """CUDA tensors that the kernels can compute with, where they are built for the GPU."""
    if problem.device_type != "cuda":
        return f"it computes on NVIDIA GPUs, and the tensors are on {problem.device_type}"
    return unavailable() or declines(problem)


def unavailable() -> str | None:
    """Why the kernels do not run on the current GPU; None if they do."""
    if extension.error is not None or _UNUSABLE is not None:
        return extension.error or _UNUSABLE
    if not torch.cuda.is_available():
        return "torch finds no usable GPU"
    index = torch.cuda.current_device()
    return _unsuited(index) if torch.compiler.is_compiling() else _remembered(index)


def unusable(build: Mapping[str, Any], driver: int) -> str | None:
    """Why the kernels of a build run on no GPU of a machine.

    Args:
        build: ``fastbert._C.build_info()``.
        driver: the newest CUDA that the driver supports, as 12080; 0 without one.
    """
    runtime = build["cuda_runtime"]
    if not runtime:
        return f"fastbert._C has {build['cuda']}"
    if not driver:
        return "there is no NVIDIA driver"
    # Within a major version any driver runs any minor version of the runtime.
    if driver // 1000 < int(runtime.partition(".")[0]):
        return (
            f"its kernels are built with CUDA {runtime}, and the driver supports only {driver // 1000}."
            f"{driver % 1000 // 10}: update the driver, or build with an older nvcc"
        )
    return None


def unsuited(build: Mapping[str, Any], capability: tuple[int, int]) -> str | None:
    """Why the kernels of a build do not run on a GPU of a compute capability.

    Machine code runs within a major version from its minor version on; PTX from its version on.
    """
    major, minor = capability
    if major < 8:
        return f"its kernels need compute capability 8.0 (A100) or newer, and the GPU has {major}.{minor}"
    binaries, ptx = ([divmod(int(x), 10) for x in build[key].split(";") if x] for key in ("cuda_binaries", "cuda_ptx"))
    if any(m == major and n <= minor for m, n in binaries) or any(x <= capability for x in ptx):
        return None
    return (
        f"fastbert._C has {build['cuda']}, and the GPU has compute capability {major}.{minor}: "
        f"build with FASTBERT_CUDA_ARCHS={major}{minor}"
    )


def _unsuited(index: int) -> str | None:
    properties = torch.cuda.get_device_properties(index)
    return unsuited(_BUILD, (properties.major, properties.minor))


_remembered = functools.cache(_unsuited)
_BUILD: Mapping[str, Any] = {} if extension.compiled is None else extension.compiled.build_info()
_UNUSABLE = unusable(_BUILD, extension.compiled.cuda_driver_version()) if extension.compiled is not None else None


def declines(problem: AttentionProblem) -> str | None:
    """Why the kernels do not compute a problem, wherever its tensors are."""
    if problem.dtype not in (torch.bfloat16, torch.float16):
        name = str(problem.dtype).removeprefix("torch.")
        return (
            f"its kernels compute in bfloat16 and float16, and the tensors are {name}: "
            "use torch.autocast, or another backend"
        )
    # A packed call's bounds may be far above its lengths; they are cut to the rows that there are, which a plan checks.
    if not problem.varlen and max(problem.seq_q, problem.seq_k) > MOST_ROWS:
        return f"a sequence has {max(problem.seq_q, problem.seq_k)} rows, and its kernels count to {MOST_ROWS}"
    return None


def forward(device: Device, q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    """(out, lse); see :class:`KernelBackend`."""
    head_dim = q.shape[-1]
    q, k, v = (_ready(x) for x in (q, k, v))
    options = contiguous(options)
    out, lse = device.empty(q.shape, q.dtype), device.empty(lse_shape(q), torch.float32)
    plan = extension.required("attention").attention_forward_plan(
        describe(q, k, options, address=device.address),
        device.shared_bytes,
        *_addresses(device, q, k, v),
        device.address(out),
        device.address(lse),
    )
    device.run(plan)
    return _cut(out, head_dim), lse


def backward(
    device: Device,
    dout: Tensor | None,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    options: AttentionOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv); see :class:`KernelBackend`."""
    compiled = extension.required("attention")
    head_dim = q.shape[-1]
    q, k, v, out = (_ready(x) for x in (q, k, v, out.contiguous()))
    dout = None if dout is None else _ready(dout)
    dlse = None if dlse is None else dlse.contiguous()
    lse, options = lse.contiguous(), contiguous(options)
    dq, dk, dv = (device.empty(x.shape, x.dtype) for x in (q, k, v))
    call = describe(q, k, options, address=device.address)
    bytes_needed = compiled.attention_backward_workspace(call, device.shared_bytes, options.deterministic)
    workspace = device.empty((bytes_needed,), torch.uint8) if bytes_needed else None
    plan = compiled.attention_backward_plan(
        call,
        device.shared_bytes,
        options.deterministic,
        device.address(workspace),
        *_addresses(device, q, k, v),
        device.address(out),
        device.address(lse),
        device.address(dout),
        NO_STRIDES if dout is None else strides(dout),
        device.address(dlse),
        device.address(dq),
        device.address(dk),
        device.address(dv),
    )
    device.run(plan)
    return _cut(dq, head_dim), _cut(dk, head_dim), _cut(dv, head_dim)


def _ready(x: Tensor) -> Tensor:
    """The tensor as kernels can copy it: columns and strides in multiples of 8 numbers, the start in those of 16 bytes.

    A stride that nothing is multiplied with may be anything.
    """
    columns = x.shape[-1]
    if columns % _NUMBERS:
        return torch.nn.functional.pad(x, (0, -columns % _NUMBERS))
    if x.data_ptr() % _ALIGNMENT == 0 and (x.is_contiguous() or not _odd_strides(x)):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _odd_strides(x: Tensor) -> bool:
    return any(stride % _NUMBERS for stride, size in zip(x.stride()[:-1], x.shape, strict=False) if size > 1)


def _cut(x: Tensor, head_dim: int) -> Tensor:
    return x if x.shape[-1] == head_dim else x[..., :head_dim].contiguous()


def _addresses(device: Device, q: Tensor, k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return device.address(q), strides(q), device.address(k), strides(k), device.address(v), strides(v)


def _forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    return forward(Gpu(q), q, k, v, options)


def _backward(dout: Tensor | None, dlse: Tensor | None, q: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return backward(Gpu(q), dout, dlse, q, *rest)


BACKEND = KernelBackend("cuda", supports, _forward, _backward)
