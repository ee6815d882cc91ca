"""Triton as it is installed here, and what all launches of its kernels share.

Nothing imports Triton before a tensor needs it: that takes half a second, which users of a CPU do not owe.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import os
import re
from typing import Any

import torch

from fastbert.kernels import configurations

OLDEST_GPU = 8  # compute capability 8.0, of NVIDIA's
_OLDEST = (3, 5)

# Triton reads it when a kernel is defined; read here once, as all of the environment.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _version() -> str | None:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return None


def _complaint(version: str | None) -> str | None:
    """Why this Triton cannot be used."""
    if version is None:
        return "triton is not installed"
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        return f"triton {version} is installed, and the kernels need {_OLDEST[0]}.{_OLDEST[1]} or newer"
    return None


_VERSION = _version()
MISSING = _complaint(_VERSION)


def status() -> str:
    """For ``fastbert doctor``: the version that compiles the kernels, or why none can."""
    return MISSING or f"{_VERSION}{', interpreted' if INTERPRETING else ''}"


def old_gpu(index: int) -> bool:
    """Whether a CUDA device is an NVIDIA GPU too old for the kernels."""
    return _is_old(index) if torch.compiler.is_compiling() else _remembered(index)


def _is_old(index: int) -> bool:
    # A fake tensor can be on a GPU that is not there.
    nvidia = torch.version.hip is None and torch.cuda.is_available()
    return nvidia and torch.cuda.get_device_properties(index).major < OLDEST_GPU


_remembered = functools.cache(_is_old)  # torch.compile looks through a cache, with a warning


def current(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """What a launch on the device runs inside."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def module(name: str) -> Any:
    """A file of fastbert.kernels."""
    return importlib.import_module(f"fastbert.kernels.{name}")


@functools.cache
def architecture(device: torch.device) -> str:
    """The row of the table of configurations."""
    if INTERPRETING:
        return "interpreter"
    with current(device):
        target = importlib.import_module("triton.runtime").driver.active.get_current_target()
    return configurations.architecture(target.backend, target.arch)
