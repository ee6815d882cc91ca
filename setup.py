"""Builds the extension ``fastbert._C`` from csrc/ with ninja. Everything declarative is in pyproject.toml.

No torch is needed: the extension includes no torch header. Switches, all environment variables:

    CXX                   the C++ compiler (default: the first of g++, clang++, c++)
    CXXFLAGS, LDFLAGS     appended to the flags below
    MAX_JOBS              compilations at a time (default: ninja's own choice, fewer where CUDA would fill the memory)
    FASTBERT_CUDA         0: no CUDA kernels; 1: kernels for every GPU generation, GPU or not. By default they are built
                          for the GPU that is there, if nvcc of CUDA 12.8 or newer is
    FASTBERT_CUDA_ARCHS   kernels for these compute capabilities, such as "80;90", GPU or not
    CUDA_HOME             where bin/nvcc is (default: the one on PATH, then /usr/local/cuda)
    FASTBERT_EMULATE_ISA  1: AVX-512 and AMX are played by tests/emulated_intrinsics, so that their kernels run, slowly,
                          on any machine with AVX2: to test them, never to use them (see CONTRIBUTING.md)
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
sys.path.insert(0, str(CSRC / "cuda"))

import cuda_build  # noqa: E402, not installed, hence not importable without the line above

BINDINGS = tuple(sorted(CSRC.glob("bindings*.cpp")))

CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
LINK_FLAGS = ("-shared", "-Wl,-O1", "-Wl,--as-needed")
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c")
AVX512_BF16_FLAGS = (*AVX512_FLAGS, "-mavx512bf16")
AMX_FLAGS = (*AVX512_BF16_FLAGS, "-mamx-tile", "-mamx-bf16")
# Only files whose names end so may contain these instructions; which of them runs is decided when the program runs.
ISA_FLAGS = {"_avx2": AVX2_FLAGS, "_avx512": AVX512_FLAGS, "_avx512_bf16": AVX512_BF16_FLAGS, "_amx": AMX_FLAGS}

# A function for every instruction, and all of them inlined where a kernel insists on it, took the compiler minutes a
# file: here nobody may insist. Products and sums are not fused, so each operation is the one that is written.
EMULATION = ROOT / "tests" / "emulated_intrinsics"
EMULATION_FLAGS = (f"-I{EMULATION}", *AVX2_FLAGS, "-O2", "-ffp-contract=off", "-Dalways_inline=unused", "-Wno-psabi")


def fail(message: str) -> SystemExit:
    """The build's errors are one sentence each: what is missing, and what to do."""
    return SystemExit(f"fastbert: {message}")


def find_compiler(environment: Mapping[str, str]) -> list[str]:
    """The compiler's command line."""
    if environment.get("CXX"):
        command = shlex.split(environment["CXX"])
        if shutil.which(command[0]) is None:
            raise fail(f"CXX names the C++ compiler {command[0]!r}, which cannot be found")
        return command
    for name in ("g++", "clang++", "c++"):
        if path := shutil.which(name):
            return [path]
    raise fail("no C++ compiler found (looked for g++, clang++ and c++): install g++ 9 or newer, or set CXX")


def compiles(compiler: Sequence[str], source: str, flags: Sequence[str]) -> bool:
    """Whether a program compiles and links."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.cpp")
        path.write_text(source)
        command = [*compiler, str(path), "-o", str(path.with_suffix("")), *flags]
        return subprocess.run(command, capture_output=True).returncode == 0


def check_compiler(compiler: Sequence[str]) -> None:
    """Complain early about what would otherwise end in a page of compiler messages."""
    if not compiles(compiler, "#include <algorithm>\nint main() { return std::clamp(0, 0, 1); }\n", ["-std=c++17"]):
        raise fail(f"{shlex.join(compiler)} cannot build a C++17 program: install g++ 9 or newer, or set CXX")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise fail(
            f"the headers of Python {sysconfig.get_python_version()} are missing: install its development package"
        )


def openmp_flags(compiler: Sequence[str]) -> tuple[str, ...]:
    """OpenMP where the compiler has it; build_info() says so where it has not."""
    if compiles(compiler, "#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n", ["-fopenmp"]):
        return ("-fopenmp",)
    print(f"fastbert: {shlex.join(compiler)} has no OpenMP: the CPU kernels will run on one thread")
    return ()


def targets_x86_64(compiler: Sequence[str]) -> bool:
    """Asked of the compiler and not of this machine, which may be compiling for another."""
    return compiles(compiler, "#if !defined(__x86_64__)\n#error\n#endif\nint main() {}\n", [])


def knows_amx(compiler: Sequence[str]) -> bool:
    """Whether compiler and assembler know the tile instructions (GCC 11, clang 12)."""
    return compiles(compiler, "#include <immintrin.h>\nint main() { _tile_dpbf16ps(0, 1, 2); }\n", AMX_FLAGS)


def knows_avx512_bf16(compiler: Sequence[str]) -> bool:
    """Whether compiler and assembler know the dot products of bfloat16 (GCC 10, clang 9)."""
    program = "#include <immintrin.h>\nint main() { __m512 x{}; x = _mm512_dpbf16_ps(x, __m512bh{}, __m512bh{}); }\n"
    return compiles(compiler, program, AVX512_BF16_FLAGS)


def emulates(environment: Mapping[str, str], x86_64: bool) -> bool:
    """Whether AVX-512 and AMX are to be emulated, having checked that they can be."""
    wanted = environment.get("FASTBERT_EMULATE_ISA", "")
    if wanted not in ("", "0", "1"):
        raise fail(f"FASTBERT_EMULATE_ISA is {wanted!r}: allowed are 0 and 1")
    if wanted == "1" and not x86_64:
        raise fail("FASTBERT_EMULATE_ISA needs a compiler for x86-64: unset it")
    if wanted == "1" and not EMULATION.is_dir():
        raise fail("FASTBERT_EMULATE_ISA needs tests/emulated_intrinsics: build from the source tree")
    return wanted == "1"


def isa_flags(
    compiler: Sequence[str], environment: Mapping[str, str]
) -> tuple[Mapping[str, Sequence[str]], tuple[str, ...]]:
    """The flags of one instruction set's files, by the end of their names; and the flags that all files need."""
    x86_64 = targets_x86_64(compiler)
    if emulates(environment, x86_64):
        print("fastbert: AVX-512 and AMX are emulated in this build, which is for tests")
        emulated = dict.fromkeys(("_avx512", "_avx512_bf16", "_amx"), EMULATION_FLAGS)
        return {**ISA_FLAGS, **emulated}, ("-DFASTBERT_EMULATED_ISA",)
    if not x86_64:
        return {}, ()
    by_suffix, flags = dict(ISA_FLAGS), []
    if not knows_amx(compiler):
        print(f"fastbert: {shlex.join(compiler)} does not know AMX, as GCC 11 and clang 12 do: no kernels for it")
        by_suffix["_amx"] = ()
        flags += ["-DFASTBERT_NO_AMX"]
    if not knows_avx512_bf16(compiler):
        print(f"fastbert: {shlex.join(compiler)} does not know AVX512-BF16 (GCC 10 and clang 9 do): no kernels for it")
        by_suffix["_avx512_bf16"] = ()
        flags += ["-DFASTBERT_NO_AVX512_BF16"]
    return by_suffix, tuple(flags)


def cuda_choice(environment: Mapping[str, str]) -> cuda_build.CudaBuild | str:
    """The CUDA kernels to build, or why there are none."""
    try:
        return cuda_build.choose(environment)
    except cuda_build.CudaBuildError as error:
        raise fail(str(error)) from None


def ninja_command() -> list[str]:
    """ninja as its package ships it, else as the system has it."""
    try:
        import ninja
    except ImportError:
        if path := shutil.which("ninja"):
            return [path]
        raise fail("ninja is missing: pip install ninja") from None
    return [str(Path(ninja.BIN_DIR, "ninja"))]


def flags_of(source: Path, by_suffix: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The instruction-set flags of one file."""
    return next((flags for suffix, flags in by_suffix.items() if source.stem.endswith(suffix)), ())


def escape(text: str) -> str:
    """A path as a build.ninja statement takes it."""
    return re.sub(r"([$ :])", r"$\1", text)


def ninja_file(
    compiler: Sequence[str],
    flags: Sequence[str],
    by_suffix: Mapping[str, Sequence[str]],
    link_flags: Sequence[str],
    cuda: cuda_build.CudaBuild | str,
    output: Path,
) -> str:
    """The text of build.ninja: one object for each file in csrc/, linked to ``output``; run in the build folder.

    CUDA sources give an object for each instance.
    """
    import pybind11

    # For the bindings alone: pip builds with another copy of pybind11 each time, which must not make every file stale.
    includes = ("-I.", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}")
    lines = [
        "ninja_required_version = 1.8",
        f"compiler = {shlex.join(compiler).replace('$', '$$')}",
        f"flags = {shlex.join(flags).replace('$', '$$')}",
        f"link_flags = {shlex.join(link_flags).replace('$', '$$')}",
        "rule compile",
        "  command = $compiler $flags $own_flags -MD -MF $out.d -c $in -o $out",
        "  description = compile $in",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $compiler $in $link_flags -o $out",
        "  description = link $out",
    ]
    objects = []
    for source in sorted(CSRC.rglob("*.cpp")):
        objects.append(escape(str(source.relative_to(CSRC).with_suffix(".o"))))
        lines += [f"build {objects[-1]}: compile {escape(str(source))}"]
        own_flags = includes if source in BINDINGS else flags_of(source, by_suffix)
        lines += [f"  own_flags = {shlex.join(own_flags).replace('$', '$$')}"]
    if isinstance(cuda, cuda_build.CudaBuild):
        lines += cuda.ninja_rule(compiler)
        for source, name, own_flags in cuda.objects():
            objects.append(escape(f"cuda/{name}.o"))
            lines += [f"build {objects[-1]}: compile_cuda {escape(str(source))}"]
            lines += [f"  own_flags = {shlex.join(own_flags).replace('$', '$$')}"]
    lines += [f"build {escape(str(output))}: link {' '.join(objects)}", f"default {escape(str(output))}"]
    return "\n".join(lines) + "\n"


def config_header(version: str, flags: Sequence[str], cuda: cuda_build.CudaBuild | str) -> str:
    """build_config.h: what ``fastbert._C.build_info()`` reports."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    values = {"VERSION": version, "FLAGS": shlex.join(flags)}
    if isinstance(cuda, cuda_build.CudaBuild):
        values |= {"CUDA": cuda.report, "CUDA_RUNTIME": cuda.toolkit.release}
        values |= {"CUDA_BINARIES": ";".join(map(str, cuda.architectures)), "CUDA_PTX": ";".join(map(str, cuda.ptx))}
    else:
        values |= {"CUDA": cuda, "CUDA_RUNTIME": "", "CUDA_BINARIES": "", "CUDA_PTX": ""}
    lines = [f"#define FASTBERT_{name} {quoted(value)}" for name, value in values.items()]
    lines += [f"#define FASTBERT_CUDA_KERNELS {int(isinstance(cuda, cuda_build.CudaBuild))}"]
    return "\n".join(lines) + "\n"


def write_if_changed(path: Path, text: str) -> None:
    """An untouched file keeps its time, so that ninja does not compile again what has not changed."""
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


class NinjaBuild(build_ext):
    """Builds ``fastbert._C`` in parallel and again only where something changed."""

    def build_folder(self) -> Path:
        """Where objects go. An editable install would have a new folder each time and so compile everything again."""
        python = f"temp.{self.plat_name}-{sys.implementation.cache_tag}"
        return Path(ROOT / "build" / python if self.editable_mode else self.build_temp, "csrc").resolve()

    def build_extension(self, ext: Extension) -> None:
        """Write build.ninja and run it."""
        compiler = find_compiler(os.environ)
        check_compiler(compiler)
        cuda = cuda_choice(os.environ)
        openmp = openmp_flags(compiler)
        by_suffix, isa = isa_flags(compiler, os.environ)
        flags = [*CXX_FLAGS, *openmp, *isa, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        link_flags = [*LINK_FLAGS, *openmp, *shlex.split(os.environ.get("LDFLAGS", ""))]
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if isinstance(cuda, cuda_build.CudaBuild):
            link_flags += [f"-L{cuda.toolkit.libraries}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"]
            jobs = jobs or ["-j", str(cuda_build.jobs(os.cpu_count() or 1))]
        report = cuda if isinstance(cuda, str) else cuda.report
        print(f"fastbert: CUDA: {report}")

        folder = self.build_folder()
        folder.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        write_if_changed(folder / "build_config.h", config_header(self.distribution.get_version(), flags, cuda))
        write_if_changed(folder / "build.ninja", ninja_file(compiler, flags, by_suffix, link_flags, cuda, output))

        if subprocess.run([*ninja_command(), "-C", str(folder), *jobs]).returncode != 0:
            raise fail("the extension did not compile: the compiler's messages are above")
        print(f"fastbert: built {output.name} with {shlex.join(compiler)}; CUDA: {report}")


setup(
    packages=[*find_packages(include=["fastbert", "fastbert.*"]), "fastbert.kernels"],
    package_dir={"fastbert.kernels": "kernels"},
    ext_modules=[Extension("fastbert._C", sources=[])],
    cmdclass={"build_ext": NinjaBuild},
)
