"""The CUDA backend without a GPU: its own marshalling and its own plans, carried out by the PTX emulator.

``emulate_forward(q, k, v, causal=True, ...)`` returns (out, lse) and ``emulate_backward(q, k, v, dout, dlse, ...)``
(dq, dk, dv), for CPU tensors in bfloat16 or float16 and the keywords of :func:`fastbert.ops.attention`, or of
``attention_varlen`` where there are ``cu_seqlens_q``. Kernels are compiled by nvcc from csrc/cuda, once for each
content of their sources. Tensors lie in the emulator's memory with their strides; what lies between their rows, and
what no kernel has written, may not be read; a result with a byte that nobody wrote is an error, and so is a race.
Importing this module also makes ``backend="cuda-emulated"`` known to the operators, which the contract's tests use.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import ptx_emulator
import pytest
import torch
from ptx_emulator import Buffer, Launch, Memory, Module, Options, Report, parse, run, run_all_orders
from ptx_emulator.memory import GLOBAL_BASE, WRITTEN
from ptx_emulator.toolchain import kept, nvcc_version
from torch import Tensor

from fastbert.data.samples import cache_directory
from fastbert.files import made_once
from fastbert.ops import attention, attention_varlen, backends
from fastbert.ops.backends import KernelBackend, cpu, cuda
from fastbert.ops.problem import AttentionOptions, AttentionProblem

NAME = "cuda-emulated"
CUDA = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
# Shared memory that a block may have.
SM_80, SM_86, SM_90 = 166_912, 101_376, 232_448
# Inputs begin so many bytes behind a multiple of 256: more than the kernels ask for they shall not rely on.
OFF_ALIGNMENT = 16

needs_nvcc = pytest.mark.skipif(
    not nvcc_version(), reason="the CUDA kernels need nvcc to become PTX, and there is none"
)


@dataclass(frozen=True)
class Emulation:
    """How calls are carried out.

    Attributes:
        shared_bytes: shared memory of a block on the GPU that is played; it decides on tiles.
        options: of the emulator.
        all_orders: every launch in all orders of blocks and warps, equal bits required; of sums in the workspace only
            where the call is deterministic.
        forward: False: the forward is computed by the CPU kernels, so that a backward can be tested alone.
        reports: takes (kernel, what was counted) of every launch, with ``Options(counters=True)``.
    """

    shared_bytes: int = SM_80
    options: Options = field(default_factory=Options)
    all_orders: bool = False
    forward: bool = True
    reports: list[tuple[str, Report]] = field(default_factory=list)


_current = Emulation()


@contextmanager
def emulation(chosen: Emulation) -> Iterator[Emulation]:
    """How ``backend="cuda-emulated"`` carries out calls, while the block lasts."""
    global _current
    before, _current = _current, chosen
    try:
        yield chosen
    finally:
        _current = before


def emulate_forward(q: Tensor, k: Tensor, v: Tensor, how: Emulation | None = None, **options: Any) -> Any:
    """(out, lse) by the emulated kernels; options as attention's, or attention_varlen's with cu_seqlens_q."""
    operator = attention_varlen if "cu_seqlens_q" in options else attention
    with emulation(how or Emulation()):
        return operator(q, k, v, backend=NAME, return_lse=True, **options)


def emulate_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor | None,
    dlse: Tensor | None = None,
    how: Emulation | None = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    """(dq, dk, dv) by the emulated kernels; out and lse come from the CPU kernels unless ``how`` says otherwise."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    with emulation(how or Emulation(forward=False)):
        results = emulate_forward(*leaves, _current, **options)
        given = [(y, dy) for y, dy in zip(results, (dout, dlse), strict=True) if dy is not None]
        return torch.autograd.grad([y for y, _ in given], leaves, [dy for _, dy in given])


class EmulatedDevice:
    """The :class:`fastbert.ops.backends.cuda.Device` of one call: its memory and what its kernels are to write."""

    def __init__(self, how: Emulation, deterministic: bool = True):
        self.shared_bytes = how.shared_bytes
        self._how, self._deterministic = how, deterministic
        self._memory = Memory()
        self._results: list[tuple[Tensor, Buffer]] = []
        self._workspace: Buffer | None = None

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        x = torch.empty(tuple(shape), dtype=dtype)
        buffer = self._memory.empty(x.nbytes, f"result{len(self._results)} {tuple(shape)} {dtype}")
        if dtype == torch.uint8:
            self._workspace = buffer
        self._results.append((x, buffer))
        return x

    def address(self, x: Tensor | None) -> int:
        if x is None or x.numel() == 0:
            return 0
        for result, buffer in self._results:
            if result is x:
                return buffer.address
        return self._upload(x)

    def run(self, plan: Any) -> None:
        for launch in plan.launches:
            self._run(plan.params, launch)
        for x, buffer in self._results:
            if buffer is not self._workspace and x.numel():
                values = torch.from_numpy(self._memory.read(buffer, np.uint8))
                x.view(-1).copy_(values.view(x.dtype))

    def _run(self, params: bytes, launch: Any) -> None:
        how, kernel = self._how, launch.kernel
        module = module_of(kernel)
        emulated = Launch(
            kernel,
            tuple(launch.grid),
            (launch.threads,),
            params,
            dynamic_shared=launch.shared_bytes,
            max_shared=how.shared_bytes,
        )
        if how.all_orders:
            exact = [x for x in self._memory.buffers if self._deterministic or x is not self._workspace]
            report = run_all_orders(module, emulated, self._memory, how.options, exact)
        else:
            report = run(module, emulated, self._memory, how.options)
        how.reports.append((kernel, report))

    def _upload(self, x: Tensor) -> int:
        """A strided tensor: its bytes are there, and whatever lies between them belongs to nobody's rows."""
        x = x.detach()
        span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        start = OFF_ALIGNMENT + x.data_ptr() % OFF_ALIGNMENT
        content = x.as_strided((span,), (1,)).view(torch.uint8).numpy()
        unread = np.ones(span, bool)
        strides = np.array(x.stride()) * unread.itemsize
        np.lib.stride_tricks.as_strided(unread, x.shape, strides)[...] = False

        buffer = self._memory.empty(start + content.size, f"input {tuple(x.shape)} {x.dtype}")
        self._memory.write(buffer, content, start)
        first = buffer.address - GLOBAL_BASE
        self._memory.arena.state[first : first + start] = 0
        self._memory.arena.state[first + start : first + start + content.size] &= np.where(
            np.repeat(unread, x.element_size()), ~np.uint8(WRITTEN), np.uint8(255)
        )
        return buffer.address + start


@cache
def cuda_build() -> Any:
    """csrc/cuda/cuda_build.py, which knows the instances."""
    spec = importlib.util.spec_from_file_location("cuda_build", CUDA / "cuda_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def module_of(kernel: str, arch: str = "sm_80") -> Module:
    """The PTX that holds a kernel, compiled as the build compiles it."""
    (instance,) = (x for x in cuda_build().instances() if kernel in x.kernels)
    return _module(CUDA / instance.source, instance.flags, arch)


@cache
def _module(source: Path, flags: tuple[str, ...], arch: str) -> Module:
    command = ["nvcc", "-ptx", "-std=c++17", f"-arch={arch}", *flags, str(source)]

    def make(directory: Path) -> str:
        out = directory / "out.ptx"
        result = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(result.stderr)
        return out.read_text(encoding="utf-8")

    key = [nvcc_version(), *command[:-1], *(path.read_text(encoding="utf-8") for path in sorted(_included(source)))]
    return _parsed(kept("\0".join(key), make))


def _parsed(ptx: str) -> Module:
    """The module of a PTX text, kept parsed: reading it back takes a tenth of the time."""
    parser = sorted(Path(ptx_emulator.__file__).parent.glob("*.py"))
    content = "\0".join([ptx, sys.version, *(path.read_text(encoding="utf-8") for path in parser)])
    directory = cache_directory() / "ptx-parsed" / hashlib.sha256(content.encode()).hexdigest()[:24]
    if not directory.is_dir():
        with made_once(directory) as aside:
            (aside / "module").write_bytes(pickle.dumps(parse(ptx)))
    module = pickle.loads((directory / "module").read_bytes())
    assert isinstance(module, Module)
    return module


def _included(source: Path) -> set[Path]:
    """A source and what it includes of the project's files, theirs included."""
    found, waiting = set(), [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        names = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        waiting += [(path.parent / name).resolve() for name in names]
    return found


def supports(problem: AttentionProblem) -> str | None:
    """What the CUDA kernels compute, on CPU tensors."""
    if problem.device_type != "cpu":
        return f"it emulates with CPU tensors, and the tensors are on {problem.device_type}"
    return cuda.declines(problem)


def _forward(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    if not _current.forward:
        return cpu.forward(q, k, v, options)
    return cuda.forward(EmulatedDevice(_current), q, k, v, options)


def _backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    deterministic: bool = inputs[-1].deterministic
    return cuda.backward(EmulatedDevice(_current, deterministic), *inputs)


BACKEND = KernelBackend(NAME, supports, _forward, _backward)
backends._BACKENDS[NAME] = BACKEND
