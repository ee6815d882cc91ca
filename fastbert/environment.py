"""What this installation runs on: versions, device, compiled extension, attention backends and why which one runs.

``fastbert doctor`` prints it. Needs the core dependencies only.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fastbert
from fastbert.ops import available_backends, triton_runtime
from fastbert.ops.backends import cuda, example_problem, preferred, requested
from fastbert.ops.problem import AttentionProblem


@dataclass(frozen=True)
class AttentionChoice:
    """Which attention backend serves one kind of call.

    Attributes:
        call: the kind of call, in words.
        backends: backend name -> None if it serves the call, else the reason why not; in the order they are tried.
        runs: the backend that runs when the call names none, or None if none can.
        why: why that one.
    """

    call: str
    backends: dict[str, str | None]
    runs: str | None
    why: str


@dataclass(frozen=True)
class Environment:
    """What :func:`describe` finds.

    Attributes:
        fastbert: this library's version.
        python: the interpreter's version.
        platform: operating system and architecture.
        torch: torch's version.
        device: name of the GPU, or the processor's name and thread counts.
        cuda: CUDA as torch and the driver see it, in words.
        cuda_kernels: for which GPUs the extension has CUDA kernels, and whether they run here, in words.
        triton_kernels: the version of Triton that compiles its kernels, or why it cannot.
        instruction_set: what the CPU kernels run on, or the reason why that is unknown.
        extension: ``fastbert._C.build_info()``, or None if the extension cannot be imported.
        extension_error: the reason then, else None.
        attention: the choice of backend for each kind of call.
    """

    fastbert: str
    python: str
    platform: str
    torch: str
    device: str
    cuda: str
    cuda_kernels: str
    triton_kernels: str
    instruction_set: str
    extension: dict[str, Any] | None
    extension_error: str | None
    attention: tuple[AttentionChoice, ...]

    def as_dict(self) -> dict[str, Any]:
        """Nested dictionaries and lists that JSON can hold."""
        return dataclasses.asdict(self) | {"attention": [dataclasses.asdict(choice) for choice in self.attention]}

    def as_text(self) -> str:
        """A table of two columns for people."""
        rows = [
            ("fastbert", self.fastbert),
            ("python", f"{self.python} on {self.platform}"),
            ("torch", self.torch),
            ("device", self.device),
            ("cuda", self.cuda),
            ("cuda kernels", self.cuda_kernels),
            ("triton", self.triton_kernels),
            ("instructions", self.instruction_set),
            ("extension", _extension_text(self.extension, self.extension_error)),
        ]
        for choice in self.attention:
            rows.append(("attention", f"{choice.call}: {choice.runs or 'nothing'} runs; {choice.why}"))
            rows += [("", f"  {name}: {reason or 'available'}") for name, reason in choice.backends.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def describe() -> Environment:
    """Look around. Reads versions and /proc; starts no kernel and allocates nothing on a GPU."""
    extension, error = _extension()
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    return Environment(
        fastbert=fastbert.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if device_type == "cuda" else _processor(),
        cuda=cuda_status(torch.version.cuda, _driver_version(), device_type == "cuda"),
        cuda_kernels=cuda_kernels(extension, cuda.unavailable()),
        triton_kernels=triton_runtime.status(),
        instruction_set=_instruction_set(),
        extension=extension,
        extension_error=error,
        attention=tuple(_attention_choice(device_type, dropout) for dropout in (False, True)),
    )


def cuda_status(runtime: str | None, driver: tuple[int, int] | None, usable: bool) -> str:
    """CUDA in one sentence.

    Args:
        runtime: the CUDA version torch is built for, such as "12.8"; None for a build without CUDA.
        driver: the newest CUDA version the installed driver supports; None if there is no driver.
        usable: whether torch can use a GPU.
    """
    if runtime is None:
        return "torch is built without CUDA"
    if driver is None:
        return f"torch is built for CUDA {runtime}, but there is no NVIDIA driver"
    supported = f"{driver[0]}.{driver[1]}"
    if usable:
        return f"torch is built for CUDA {runtime}, the driver supports {supported}"
    # Within a major version any driver runs any minor version of the runtime.
    if driver[0] < int(runtime.split(".")[0]):
        return f"torch is built for CUDA {runtime}, but the driver supports only {supported}: update the driver"
    return f"torch is built for CUDA {runtime} and the driver supports {supported}, but torch finds no usable GPU"


def cuda_kernels(extension: dict[str, Any] | None, unavailable: str | None) -> str:
    """What CUDA kernels there are, and whether they run, in one sentence.

    Args:
        extension: ``fastbert._C.build_info()``, or None if the extension cannot be imported.
        unavailable: why they do not run here, or None if they do.
    """
    if extension is None:
        return "none: the extension is not available"
    if not extension["cuda_runtime"]:
        return str(extension["cuda"])
    return f"{extension['cuda']}: " + ("they run here" if unavailable is None else f"they do not run: {unavailable}")


def _driver_version() -> tuple[int, int] | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value == 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def _processor() -> str:
    return f"{_processor_name()}, {torch.get_num_threads()} threads on {os.cpu_count()} processors"


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _extension() -> tuple[dict[str, Any] | None, str | None]:
    try:
        return dict(importlib.import_module("fastbert._C").build_info()), None
    except ImportError as error:
        return None, str(error)


def _instruction_set() -> str:
    try:
        name: str = importlib.import_module("fastbert._C").instruction_set()
    except (ImportError, ValueError) as error:
        return f"unknown: {error}"
    return name


def _extension_text(extension: dict[str, Any] | None, error: str | None) -> str:
    if extension is None:
        return f"not available: {error}"
    return (
        f"{extension['version']}, {extension['compiler']}, OpenMP {extension['openmp']} "
        f"({extension['openmp_library'] or 'none'})"
    )


def _attention_choice(device_type: str, dropout: bool) -> AttentionChoice:
    problem = example_problem(device_type, dropout)
    backends = available_backends(device_type, problem)
    runs, why = _default_backend(problem, " > ".join(backends))
    return AttentionChoice(f"training {'with' if dropout else 'without'} dropout", backends, runs, why)


def _default_backend(problem: AttentionProblem, order: str) -> tuple[str | None, str]:
    """The backend that runs when a call names none, and why."""
    try:
        chosen, _ = preferred(problem)
    except ValueError as error:
        return None, str(error)
    if requested(None) != "auto":
        return chosen.name, "FASTBERT_BACKEND forces it"
    return chosen.name, f"the first of {order} that can"
