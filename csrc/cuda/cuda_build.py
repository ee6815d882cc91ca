"""Which CUDA kernels a build has, for which GPUs, and how they are compiled. Read by setup.py and by the tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
HEAD_DIMS = (32, 64, 96, 128, 256)
ELEMENTS = {"bf16": "BFloat16", "f16": "Float16"}  # part of a kernel's name -> the C++ type
# Keys and queries of the backward's tiles, as tile_choice.h has them: on GPUs with much shared memory, and on others.
LARGE_TILES = {32: (128, 64), 64: (128, 64), 96: (128, 64), 128: (128, 64), 256: (64, 32)}
SMALL_TILES = {32: (128, 64), 64: (128, 32), 96: (64, 64), 128: (64, 32), 256: (32, 32)}
# GPUs that run machine code of these always have little shared memory, or always much. Code for sm_80 runs on both.
LITTLE_SHARED, MUCH_SHARED = frozenset({86, 89, 120, 121}), frozenset({90, 100, 103})

OLDEST_NVCC = (12, 8)
OLDEST_ARCHITECTURE = 80
EVERY_GENERATION = (80, 90, 100, 120)
PTX = 80  # what a GPU runs that is newer than all of them
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden")
JOB_BYTES = 1 << 29  # of memory for one compilation; 190 MB was the most that was seen


class CudaBuildError(Exception):
    """Why kernels that were asked for cannot be built: one sentence."""


@dataclass(frozen=True)
class Instance:
    """One compilation of a source: the kernels of one type, head_dim and tile, with and without dropout.

    Attributes:
        source: below this folder.
        kernels: the functions it defines.
        defines: what the source is compiled for.
        unused_on: architectures on which no plan names these kernels.
    """

    source: str
    kernels: tuple[str, ...]
    defines: tuple[str, ...]
    unused_on: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """Of the object file."""
        return self.kernels[0].removeprefix("fastbert_")

    @property
    def flags(self) -> tuple[str, ...]:
        """The defines as the compiler takes them."""
        return tuple(f"-D{define}" for define in self.defines)


def forward_instances() -> tuple[Instance, ...]:
    """The forward: one for each type and head_dim."""
    return tuple(
        Instance(
            "sm80/attention_forward.cu",
            _both(f"fastbert_attention_forward_{element}_{head_dim}"),
            (*_element(element), f"FASTBERT_HEAD_DIM={head_dim}"),
        )
        for element in ELEMENTS
        for head_dim in HEAD_DIMS
    )


def backward_instances() -> tuple[Instance, ...]:
    """The backward: one for each type, head_dim and tile."""
    return tuple(
        Instance(
            "sm80/attention_backward.cu",
            _both(f"fastbert_attention_backward_{element}_{head_dim}_{keys}x{queries}"),
            (
                *_element(element),
                f"FASTBERT_HEAD_DIM={head_dim}",
                f"FASTBERT_KEYS={keys}",
                f"FASTBERT_QUERIES={queries}",
            ),
            _unused_on(head_dim, (keys, queries)),
        )
        for element in ELEMENTS
        for head_dim in HEAD_DIMS
        for keys, queries in sorted({LARGE_TILES[head_dim], SMALL_TILES[head_dim]})
    )


def _unused_on(head_dim: int, tile: tuple[int, int]) -> frozenset[int]:
    large, small = LARGE_TILES[head_dim], SMALL_TILES[head_dim]
    if large == small:
        return frozenset()
    return LITTLE_SHARED if tile == large else MUCH_SHARED


def rows_instances() -> tuple[Instance, ...]:
    """What runs before and after the backward, for any head_dim."""
    return tuple(
        Instance(
            "sm80/attention_backward_rows.cu",
            (f"fastbert_attention_backward_prepare_{element}", f"fastbert_attention_backward_finish_{element}"),
            _element(element),
        )
        for element in ELEMENTS
    )


def instances() -> tuple[Instance, ...]:
    """All of them."""
    return (*forward_instances(), *backward_instances(), *rows_instances())


def _both(name: str) -> tuple[str, ...]:
    return name, f"{name}_dropout"


def _element(name: str) -> tuple[str, ...]:
    return f"FASTBERT_ELEMENT={ELEMENTS[name]}", f"FASTBERT_ELEMENT_NAME={name}"


@dataclass(frozen=True)
class Toolkit:
    """An nvcc that can build the kernels.

    Attributes:
        nvcc: its path.
        version: such as (13, 0).
        architectures: what it compiles for, such as 80.
        libraries: the folder of libcudart_static.a.
        include: the folder of cuda_runtime_api.h.
    """

    nvcc: str
    version: tuple[int, int]
    architectures: frozenset[int]
    libraries: Path
    include: Path

    @property
    def release(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


@dataclass(frozen=True)
class CudaBuild:
    """What is built: machine code for these architectures, and PTX that newer ones compile when it is loaded."""

    toolkit: Toolkit
    architectures: tuple[int, ...]
    ptx: tuple[int, ...]

    @property
    def report(self) -> str:
        """What the build says and ``build_info()["cuda"]`` repeats."""
        built = ", ".join([*(f"sm_{x}" for x in self.architectures), *(f"PTX of compute_{x}" for x in self.ptx)])
        return f"kernels for {built}, by nvcc {self.toolkit.release}"

    def targets(self, instance: Instance) -> tuple[str, ...]:
        """What nvcc compiles an instance for; nothing where no GPU would run it."""
        used = (x for x in self.architectures if x not in instance.unused_on)
        return *(f"arch=compute_{x},code=sm_{x}" for x in used), *(
            f"arch=compute_{x},code=compute_{x}" for x in self.ptx
        )

    def flags(self, instance: Instance) -> tuple[str, ...]:
        """nvcc's flags for one instance."""
        targets = (word for target in self.targets(instance) for word in ("-gencode", target))
        return *NVCC_FLAGS, *targets, *instance.flags

    def objects(self) -> list[tuple[Path, str, tuple[str, ...]]]:
        """(source, name, flags) of every object that nvcc makes."""
        made = [(FOLDER / x.source, x.name, self.flags(x)) for x in instances() if self.targets(x)]
        return [*made, (FOLDER / "launch.cu", "launch", NVCC_FLAGS)]

    def ninja_rule(self, compiler: Sequence[str]) -> list[str]:
        """How ninja compiles a CUDA source; ``compiler`` is the host compiler's command line.

        An assembler that says it made asynchronous matrix products wait for each other has made a slow kernel: that is
        an error.
        """
        command = shlex.join([self.toolkit.nvcc, *(["-ccbin", compiler[0]] if len(compiler) == 1 else [])])
        compilation = f"{command} $own_flags -MD -MF $out.d -c $in -o $out > $out.log 2>&1"
        serialized = "grep -qi 'wgmma.*serialized' $out.log && rm $out"
        return [
            "rule compile_cuda",
            f"  command = {compilation}; status=$$?; cat $out.log; {serialized} && exit 1; exit $$status",
            "  description = compile $out",
            "  depfile = $out.d",
            "  deps = gcc",
        ]


def choose(environment: Mapping[str, str]) -> CudaBuild | str:
    """What to build, or why there is nothing to build; CudaBuildError for what was asked for and cannot be.

    FASTBERT_CUDA "0" is never. Otherwise FASTBERT_CUDA_ARCHS says for which architectures; without it FASTBERT_CUDA "1"
    builds for every generation, and neither builds for the GPUs that are there, if nvcc is.
    """
    wanted, named = environment.get("FASTBERT_CUDA", ""), environment.get("FASTBERT_CUDA_ARCHS", "")
    if wanted not in ("", "0", "1"):
        raise CudaBuildError(f"FASTBERT_CUDA is {wanted!r}: allowed are 0 and 1")
    if named and not re.fullmatch(r"\d{2,3}(;\d{2,3})*", named):
        raise CudaBuildError(f"FASTBERT_CUDA_ARCHS is {named!r}: allowed are numbers such as '80;90'")
    if wanted == "0":
        return "no kernels, as FASTBERT_CUDA=0 asks"
    if wanted == "1" or named:
        toolkit = find_toolkit(environment)
        asked = tuple(sorted({int(x) for x in named.split(";")})) if named else EVERY_GENERATION
        _check(asked, toolkit)
        return CudaBuild(toolkit, asked, (PTX,))
    present = gpus(environment)
    if not present:
        return "no kernels, since there is no NVIDIA GPU here (FASTBERT_CUDA=1 builds them all the same)"
    try:
        toolkit = find_toolkit(environment)
        _check(present, toolkit)
    except CudaBuildError as error:
        return f"no kernels, although there is a GPU: {error}"
    return CudaBuild(toolkit, present, ())


def _check(architectures: tuple[int, ...], toolkit: Toolkit) -> None:
    if min(architectures) < OLDEST_ARCHITECTURE:
        raise CudaBuildError(
            f"the CUDA kernels need compute capability {OLDEST_ARCHITECTURE / 10} (A100) or newer, not "
            f"{min(architectures) / 10}"
        )
    if unknown := set(architectures) - toolkit.architectures:
        known = ", ".join(map(str, sorted(x for x in toolkit.architectures if x >= OLDEST_ARCHITECTURE)))
        raise CudaBuildError(f"nvcc {toolkit.release} does not compile for {min(unknown)}: it knows {known}")


def find_toolkit(environment: Mapping[str, str]) -> Toolkit:
    """nvcc of CUDA_HOME, else of PATH, else of /usr/local/cuda."""
    path = environment.get("PATH", os.defpath)
    home = environment.get("CUDA_HOME", "")
    nvcc = shutil.which("nvcc", path=str(Path(home, "bin")) if home else f"{path}:/usr/local/cuda/bin")
    oldest = f"{OLDEST_NVCC[0]}.{OLDEST_NVCC[1]}"
    if nvcc is None:
        where = f"in {home}/bin, where CUDA_HOME points" if home else "on PATH"
        raise CudaBuildError(f"no nvcc {where}: install CUDA {oldest} or newer, or set FASTBERT_CUDA=0")
    found = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    if found is None:
        raise CudaBuildError(f"{nvcc} --version names no release: set CUDA_HOME to a CUDA {oldest} or newer")
    version = int(found[1]), int(found[2])
    if version < OLDEST_NVCC:
        raise CudaBuildError(f"{nvcc} is of CUDA {found[1]}.{found[2]}, and the kernels need {oldest} or newer")
    architectures = frozenset(int(x) for x in re.findall(r"compute_(\d+)\b", _output(nvcc, "--list-gpu-arch")))
    return Toolkit(nvcc, version, architectures, *_folders(nvcc))


def _folders(nvcc: str) -> tuple[Path, Path]:
    """Where the runtime's library and headers are; nvcc on PATH may be a script that calls another."""
    top = re.search(r"^#\$ TOP=(.+)$", _output(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull), re.MULTILINE)
    root = Path(top[1] if top else Path(nvcc).resolve().parent.parent).resolve()
    for pattern in ("lib64", "lib", "targets/*/lib"):
        for library in sorted(root.glob(f"{pattern}/libcudart_static.a")):
            include = library.parent.parent / "include"
            if (include / "cuda_runtime_api.h").is_file():
                return library.parent, include
    raise CudaBuildError(f"the toolkit in {root} has no libcudart_static.a: install CUDA's runtime development files")


def gpus(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The architectures of the GPUs that the driver shows, each once."""
    program = shutil.which("nvidia-smi", path=environment.get("PATH", os.defpath))
    if program is None:
        return ()
    capabilities = re.findall(
        r"^(\d+)\.(\d)$", _output(program, "--query-gpu=compute_cap", "--format=csv,noheader"), re.M
    )
    return tuple(sorted({int(major + minor) for major, minor in capabilities}))


def _output(*command: str) -> str:
    """What a program says, on either of its outputs; nothing where it cannot run."""
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def jobs(processors: int) -> int:
    """How many compilations at a time: one a processor, but no more than the memory that is free has room for."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _meminfo(), re.MULTILINE)
    fit = int(found[1]) * 1024 // JOB_BYTES if found else processors
    return max(1, min(processors, fit))


def _meminfo() -> str:
    path = Path("/proc/meminfo")
    return path.read_text(encoding="ascii") if path.is_file() else ""
