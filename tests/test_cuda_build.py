"""Which CUDA kernels a build makes, and what it says where it makes none; scripts play nvcc and nvidia-smi."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "csrc" / "cuda" / "cuda_build.py"
pytestmark = pytest.mark.skipif(not SOURCE.is_file(), reason="the sources are not here")

Machine = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def cuda_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cuda_build", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An environment with an nvcc of some release, or none, and GPUs of some compute capabilities."""

    def make(nvcc: str | None = None, gpus: str = "", **environment: str) -> dict[str, str]:
        toolkit, driver = tmp_path / "toolkit", tmp_path / "driver"
        driver.mkdir()
        if nvcc is not None:
            for file in ("lib64/libcudart_static.a", "include/cuda_runtime_api.h"):
                (toolkit / file).parent.mkdir(parents=True)
                (toolkit / file).touch()
            program(
                toolkit / "bin" / "nvcc",
                f"""case "$*" in
                    *--version*) echo "Cuda compilation tools, release {nvcc}, V{nvcc}.88" ;;
                    *--list-gpu-arch*) printf 'compute_75\\ncompute_80\\ncompute_90\\ncompute_100\\ncompute_120\\n' ;;
                    *--dryrun*) echo "#\\$ TOP={toolkit}/bin/.." ;;
                    *) echo "ptxas info : (C7510) $WORDS"; touch "$(echo "$*" | sed 's/.*-o //')" ;;
                esac""",
            )
        if gpus:
            program(driver / "nvidia-smi", f"printf '{gpus}'")
        # The shell's own programs, but none of CUDA's.
        return {"PATH": f"{driver}:/usr/bin:/bin", "CUDA_HOME": str(toolkit)} | environment

    return make


def test_kernels_are_for_the_gpus_that_are_there(cuda_build: Any, machine: Machine) -> None:
    chosen = cuda_build.choose(machine("12.8", "9.0\\n8.0\\n9.0\\n"))
    assert (chosen.architectures, chosen.ptx) == ((80, 90), ())
    assert chosen.report == "kernels for sm_80, sm_90, by nvcc 12.8"


@pytest.mark.parametrize(
    ("switches", "architectures"),
    [
        ({"FASTBERT_CUDA": "1"}, (80, 90, 100, 120)),
        ({"FASTBERT_CUDA_ARCHS": "90;80;90"}, (80, 90)),
        ({"FASTBERT_CUDA": "1", "FASTBERT_CUDA_ARCHS": "120"}, (120,)),
    ],
)
def test_kernels_that_are_asked_for_need_no_gpu(
    cuda_build: Any, machine: Machine, switches: dict[str, str], architectures: tuple[int, ...]
) -> None:
    chosen = cuda_build.choose(machine("13.0", **switches))
    assert (chosen.architectures, chosen.ptx) == (architectures, (80,))
    assert chosen.report.endswith("PTX of compute_80, by nvcc 13.0")


@pytest.mark.parametrize(
    ("nvcc", "gpus", "switches", "reason"),
    [
        ("13.0", "9.0\\n", {"FASTBERT_CUDA": "0"}, "no kernels, as FASTBERT_CUDA=0 asks"),
        ("13.0", "9.0\\n", {"FASTBERT_CUDA": "0", "FASTBERT_CUDA_ARCHS": "80"}, "no kernels, as FASTBERT_CUDA=0 asks"),
        ("13.0", "", {}, "no kernels, since there is no NVIDIA GPU here"),
        ("13.0", "No devices were found\\n", {}, "no kernels, since there is no NVIDIA GPU here"),
        (None, "9.0\\n", {}, "no kernels, although there is a GPU: no nvcc in "),
        ("12.4", "9.0\\n", {}, "is of CUDA 12.4, and the kernels need 12.8 or newer"),
        ("13.0", "7.5\\n", {}, "the CUDA kernels need compute capability 8.0 (A100) or newer, not 7.5"),
        ("13.0", "13.0\\n", {}, "nvcc 13.0 does not compile for 130: it knows 80, 90, 100, 120"),
    ],
)
def test_no_kernels_has_a_reason(
    cuda_build: Any, machine: Machine, nvcc: str | None, gpus: str, switches: dict[str, str], reason: str
) -> None:
    found = cuda_build.choose(machine(nvcc, gpus, **switches))
    assert isinstance(found, str)
    assert found.startswith("no kernels")
    assert reason in found


@pytest.mark.parametrize(
    ("nvcc", "switches", "message"),
    [
        ("13.0", {"FASTBERT_CUDA": "yes"}, "FASTBERT_CUDA is 'yes': allowed are 0 and 1"),
        ("13.0", {"FASTBERT_CUDA_ARCHS": "80,90"}, "FASTBERT_CUDA_ARCHS is '80,90': allowed are numbers such as"),
        ("13.0", {"FASTBERT_CUDA_ARCHS": "70;80"}, "need compute capability 8.0 (A100) or newer, not 7.0"),
        ("13.0", {"FASTBERT_CUDA_ARCHS": "91"}, "nvcc 13.0 does not compile for 91: it knows 80, 90, 100, 120"),
        ("12.6", {"FASTBERT_CUDA": "1"}, "is of CUDA 12.6, and the kernels need 12.8 or newer"),
        (None, {"FASTBERT_CUDA": "1"}, "install CUDA 12.8 or newer, or set FASTBERT_CUDA=0"),
    ],
)
def test_what_was_asked_for_and_cannot_be_is_an_error(
    cuda_build: Any, machine: Machine, nvcc: str | None, switches: dict[str, str], message: str
) -> None:
    with pytest.raises(cuda_build.CudaBuildError) as error:
        cuda_build.choose(machine(nvcc, **switches))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient registers", 1),
        ("nothing to complain about", 0),
    ],
)
def test_matrix_products_that_wait_for_each_other_fail_the_build(
    cuda_build: Any, machine: Machine, tmp_path: Path, words: str, status: int
) -> None:
    environment = machine("13.0", FASTBERT_CUDA_ARCHS="90", WORDS=words)
    rule = cuda_build.choose(environment).ninja_rule(["g++", "-m64"])
    (tmp_path / "kernel.cu").touch()
    lines = [line for line in rule if "dep" not in line]
    (tmp_path / "build.ninja").write_text("\n".join([*lines, "build kernel.o: compile_cuda kernel.cu", ""]))
    ninja = shutil.which("ninja") or str(Path(sys.executable).parent / "ninja")
    result = subprocess.run([ninja], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stdout
    assert words in result.stdout
    assert (tmp_path / "kernel.o").exists() == (status == 0)


def test_instances_have_names_and_kernels_of_their_own(cuda_build: Any) -> None:
    instances = cuda_build.instances()
    kernels = [kernel for instance in instances for kernel in instance.kernels]
    assert len(set(kernels)) == len(kernels)
    assert len({instance.name for instance in instances}) == len(instances)
    for instance in instances:
        assert (SOURCE.parent / instance.source).is_file()
