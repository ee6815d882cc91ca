"""What the figures were measured on, and which attention backend ran."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastbert import _C
from fastbert.ops import available_backends
from fastbert.ops.backends import preferred
from fastbert.ops.problem import AttentionProblem


def describe() -> dict[str, Any]:
    """Processor, instruction set, threads, versions and attention backends, as JSON can hold them."""
    return {
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "instruction_set": _C.instruction_set(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fastbert": _version("fastbert-kernels"),
        "transformers": _version("transformers"),
        "python": platform.python_version(),
        "forced_backend": os.environ.get("FASTBERT_BACKEND") or None,
        "backends": available_backends("cpu"),
    }


def processor_name() -> str:
    """The model name that Linux gives, else what the platform calls itself."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def multiplies_bf16() -> bool:
    """Whether the processor multiplies bfloat16. Elsewhere torch may emulate it: a call can take ten seconds."""
    return _C.instruction_set() in ("avx512_bf16", "amx")


def attention_backend(
    dtype: torch.dtype,
    *,
    batch: int,
    seq: int,
    heads: int,
    head_dim: int,
    causal: bool = False,
    varlen: bool = False,
    dropout: bool = False,
) -> str:
    """The name of the backend that serves a training call which names none."""
    problem = AttentionProblem(
        device_type="cpu",
        dtype=dtype,
        varlen=varlen,
        batch=batch,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        seq_q=seq,
        seq_k=seq,
        window_right=0 if causal else None,
        dropout=dropout,
        requires_grad=True,
    )
    return preferred(problem)[0].name


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
