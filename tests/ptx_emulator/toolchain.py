"""PTX for the tests, from nvcc and from Triton, kept by the content it is made of."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastbert.data.samples import cache_directory
from fastbert.files import made_once
from ptx_emulator.module import Module
from ptx_emulator.parser import parse


@cache
def nvcc_version() -> str:
    """What ``nvcc --version`` says last, "" where there is no nvcc."""
    if shutil.which("nvcc") is None:
        return ""
    return (
        subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
        .stdout.strip()
        .splitlines()[-1]
    )


def kept(key: str, make: Callable[[Path], str]) -> str:
    """The PTX that ``make`` writes, made once for each key."""
    directory = cache_directory() / "ptx" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not directory.is_dir():
        with made_once(directory) as aside:
            (aside / "kernel.ptx").write_text(make(aside), encoding="utf-8")
    return (directory / "kernel.ptx").read_text(encoding="utf-8")


@cache
def compiled(source: str, *options: str, arch: str = "sm_80") -> Module:
    """CUDA C++ compiled by nvcc. Raises RuntimeError with nvcc's words."""
    command = ["-ptx", f"-arch={arch}", "-std=c++17", *options]

    def make(directory: Path) -> str:
        path = directory / "kernel.cu"
        path.write_text(source, encoding="utf-8")
        result = subprocess.run(
            ["nvcc", *command, "-o", str(directory / "out.ptx"), str(path)], capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise RuntimeError(result.stderr)
        return (directory / "out.ptx").read_text(encoding="utf-8")

    return parse(kept("\0".join([nvcc_version(), *command, source]), make))


def triton_version() -> str:
    """The installed Triton, "" where there is none."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return ""


@cache
def triton_kernels() -> dict[str, dict[str, object]]:
    """PTX, shared bytes and warps of every kernel of triton_kernels.py, for sm_80."""
    script = Path(__file__).with_name("triton_kernels.py")

    def make(directory: Path) -> str:
        out = directory / "kernels.json"
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        result = subprocess.run(
            [sys.executable, str(script), str(out)], env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise RuntimeError(result.stderr)
        return out.read_text(encoding="utf-8")

    return json.loads(kept("\0".join(["triton", triton_version(), script.read_text(encoding="utf-8")]), make))
