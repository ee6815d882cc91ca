"""AVX-512, AVX512-BF16 and AMX kernels on machines without: the emulated instructions, and the kernels run on them.

tests/emulated_intrinsics says what is emulated. It is held to its definitions, and to the processor where there is one;
then the operators' tests run on an extension that is built with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from interpreter import run_python

from fastbert.data.samples import cache_directory

ROOT = Path(__file__).resolve().parent.parent
EMULATION = ROOT / "tests" / "emulated_intrinsics"
KERNELS = ROOT / "csrc" / "cpu" / "isa"
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mavx512bf16")
EMULATED = ("avx512", "avx512_bf16", "amx")
REAL = (*AVX2, *AVX512, "-mamx-tile", "-mamx-bf16", "-Wno-uninitialized", "-Wno-maybe-uninitialized")


def processor_flags() -> set[str]:
    """What Linux says the processor has; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    match = re.search(r"^flags\s*:(.*)$", file.read_text(), re.MULTILINE) if file.is_file() else None
    return set(match[1].split()) if match else set()


pytestmark = [
    pytest.mark.skipif(not KERNELS.is_dir(), reason="needs the source tree"),
    pytest.mark.skipif(not {"avx2", "fma", "f16c"} <= processor_flags(), reason="this machine has no AVX2"),
]


def compiler() -> list[str]:
    """The one that built the extension, as far as the environment tells."""
    named = shlex.split(os.environ.get("CXX", ""))
    found = named or [path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))][:1]
    if not found:
        pytest.skip("there is no C++ compiler")
    return found


def compile_program(folder: Path, name: str, flags: Sequence[str], *sources: Path) -> Path:
    program = folder / name
    # Each operation as it is written: no sum and product may be fused.
    common = ("-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes")
    command = [*compiler(), *common, *flags, *map(str, (EMULATION / f"{name}.cpp", *sources)), "-o", str(program)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr
    return program


@pytest.fixture(scope="session")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("definitions"), "definitions", (f"-I{EMULATION}", *AVX2))


def emulated_names() -> set[str]:
    """Without the leading underscore."""
    return set(re.findall(r"^#define _((?:mm\d*|tile)_\w+)", (EMULATION / "names.h").read_text(), re.MULTILINE))


def test_every_instruction_of_the_kernels_beyond_avx2_is_emulated() -> None:
    """Else the compiler's own would be taken, and refused in words that name no cause."""
    sources = [path for suffix in ("avx512", "bf16", "amx") for path in KERNELS.glob(f"*{suffix}*")]
    assert sources
    text = "\n".join(path.read_text() for path in sources)
    beyond = r"\b_(mm512_\w+|tile_\w+|mm(?:256)?_(?:\w*mask\w*|permutex\w*var\w*|ternary\w+|cvt\w*pbh\w*))\b"
    used = set(re.findall(beyond, text))
    assert len(used) > 40
    assert used <= emulated_names()


def test_every_emulated_instruction_is_defined_and_compared() -> None:
    headers = "\n".join(path.read_text() for path in EMULATION.glob("*.h") if path.name != "names.h")
    comparison = (EMULATION / "compare.cpp").read_text()
    undefined_upper_half = {"mm512_castsi256_si512"}
    for name in emulated_names():
        assert re.search(rf"\b{name}\(", headers), name
        if name not in undefined_upper_half:
            assert re.search(rf"\b{name}\b|##{name.removeprefix('tile')}\b", comparison), name


FAMILIES = (
    "memory",
    "arithmetic",
    "rounding",
    "scaling",
    "comparisons",
    "integers",
    "halves",
    "shuffles",
    "permutations",
    "tiles",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_definitions_hold_on_cases_worked_out_by_hand(definitions: Path, family: str) -> None:
    result = subprocess.run([definitions, family], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


MISUSES = {
    "not configured": "_tile_zero: no tile configuration is loaded",
    "released": "_tile_dpbf16ps: no tile configuration is loaded",
    "rows": "_tile_loadconfig: more than 16 rows (tile 1)",
    "colsb": "_tile_loadconfig: rows of more than 64 bytes (tile 1)",
    "half a size": "_tile_loadconfig: rows and colsb must both be zero or both not",
    "ninth tile": "_tile_loadconfig: there are eight tiles",
    "palette": "_tile_loadconfig: the palette is neither 0 nor 1",
    "reserved": "_tile_loadconfig: reserved bytes 2 to 15 are not zero",
    "no rows": "_tile_loadd: the loaded configuration gives this tile no rows (tile 5)",
    "no such tile": "_tile_stored: no such tile: allowed are 0 to 7 (tile 8)",
    "same tile": "_tile_dpbf16ps: the three tiles must be different",
    "odd colsb": "_tile_dpbf16ps: colsb not divisible by 4",
    "rows of the product": "_tile_dpbf16ps: the destination must have the rows of the first operand",
    "depth of the product": "_tile_dpbf16ps: the second operand must have colsb / 4 of the first as rows",
    "alignment": "an aligned access to an address not divisible by 64",
}


@pytest.mark.parametrize("case", MISUSES)
def test_what_a_processor_would_refuse_ends_the_program_with_a_reason(definitions: Path, case: str) -> None:
    result = subprocess.run([definitions, "misuse", case], capture_output=True, text=True, check=False)
    assert result.returncode < 0
    assert f"emulated intrinsics: {MISUSES[case]}" in result.stderr


@pytest.mark.parametrize(("rows", "pairs", "columns"), [(16, 16, 16), (1, 1, 1), (3, 16, 16), (16, 5, 7), (9, 13, 16)])
@pytest.mark.parametrize("whole_numbers", [False, True])
def test_tile_products_against_float64(
    definitions: Path, rows: int, pairs: int, columns: int, whole_numbers: bool
) -> None:
    generator = np.random.default_rng(rows * 1000 + pairs * 100 + columns)

    def draw(*shape: int) -> np.ndarray:
        if whole_numbers:
            return generator.integers(-9, 10, shape).astype(np.float32)
        return generator.standard_normal(shape).astype(np.float32)

    def bfloat16(x: np.ndarray) -> np.ndarray:
        return (x.view(np.uint32) >> 16).astype(np.uint16)

    a, b, c = draw(rows, 2 * pairs), draw(pairs, columns, 2), draw(rows, columns)
    half_a, half_b = bfloat16(a), bfloat16(b)
    result = subprocess.run(
        [definitions, "product", str(rows), str(pairs), str(columns)],
        input=half_a.tobytes() + half_b.tobytes() + c.tobytes(),
        capture_output=True,
        check=True,
    )
    found = np.frombuffer(result.stdout, np.float32).reshape(rows, columns).astype(np.float64)
    exact_a, exact_b = ((half.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for half in (half_a, half_b))
    flat_b = exact_b.transpose(0, 2, 1).reshape(2 * pairs, columns)  # row 2 k + parity
    exact = c.astype(np.float64) + exact_a @ flat_b
    if whole_numbers:
        np.testing.assert_array_equal(found, exact)
    else:  # every one of the roundings on the way is at most half a unit of a partial sum
        sizes = np.abs(c) + np.abs(exact_a) @ np.abs(flat_b)
        assert (np.abs(found - exact) <= (pairs + 2) * 2.0**-24 * sizes).all()


def test_the_processor_agrees(tmp_path: Path) -> None:
    probe = tmp_path / "probe.cpp"
    probe.write_text("#include <immintrin.h>\nint main() { _tile_dpbf16ps(0, 1, 2); }\n")
    known = subprocess.run(
        [*compiler(), *REAL, str(probe), "-o", str(tmp_path / "probe")], capture_output=True, check=False
    )
    if known.returncode != 0:
        pytest.skip(f"{compiler()[0]} does not know AMX")
    program = compile_program(tmp_path, "compare", REAL, KERNELS / "x86.cpp")
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout


def test_the_switch_has_two_values(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"]
    environment = os.environ | {"FASTBERT_EMULATE_ISA": "yes"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "fastbert: FASTBERT_EMULATE_ISA is 'yes': allowed are 0 and 1" in result.stderr


def content_key() -> str:
    """Of everything that the extension is made from."""
    files = [
        ROOT / "setup.py",
        *EMULATION.glob("*.h"),
        *(path for path in (ROOT / "csrc").rglob("*") if path.is_file()),
    ]
    version = subprocess.run([*compiler(), "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + str(sysconfig.get_config_var("EXT_SUFFIX")).encode())
    for path in sorted(files):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:20]


def build(folder: Path) -> None:
    """The extension alone, in folder/fastbert."""
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={folder}", f"--build-temp={folder}/objects"]
    # Little optimisation for what is not under test here: it halves the time.
    switches = {"FASTBERT_EMULATE_ISA": "1", "FASTBERT_CUDA": "0", "FASTBERT_CUDA_ARCHS": "", "CXXFLAGS": "-O1"}
    result = subprocess.run(command, cwd=ROOT, env=os.environ | switches, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="session")
def emulated_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this fastbert and an extension on emulated instructions; `make test-emulated` brings its own."""
    if brought := os.environ.get("FASTBERT_EMULATED"):
        return Path(brought).resolve()
    cached = cache_directory() / "emulated" / content_key()
    if not cached.is_dir():
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:
            build(Path(folder))
            try:
                (Path(folder) / "fastbert").rename(cached)
            except OSError:  # another run was faster
                assert cached.is_dir()
    package = tmp_path_factory.mktemp("emulated")
    shutil.copytree(ROOT / "fastbert", package / "fastbert", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(cached, package / "fastbert", dirs_exist_ok=True)
    return package


def run_tests(package: Path, instruction_set: str, files: Sequence[str], *options: str) -> None:
    """Their tests of the CPU backend pass on the emulated instruction set."""
    environment = {"FASTBERT_CPU_ISA": instruction_set}
    paths = os.pathsep.join(map(str, (package, ROOT / "tests", ROOT / "tests" / "ops")))
    code = "from fastbert import _C; print(_C.instruction_set(), '-DFASTBERT_EMULATED_ISA' in _C.build_info()['flags'])"
    probe = run_python("-c", code, PYTHONPATH=paths, **environment)
    assert probe.stdout.split() == [instruction_set, "True"], probe.stderr
    names = [str(ROOT / "tests" / name) for name in files]
    settings = ("-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"))
    # Not `python -m pytest`, and from elsewhere: either would put the tree's own extension first.
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    result = run_python("-c", program, *settings, *options, *names, timeout=3600, PYTHONPATH=paths, **environment)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


SAMPLE = (
    "test_lengths[97-113-",
    "test_head_dims[59-",
    "test_dropout_and_lse_against_loops[causal-",
    "test_packed_sequences_against_loops[0-lengths_q2-lengths_k2-window-True",
    "test_masked_keys_reach_nothing[0.2-True-nan",
)


@pytest.mark.parametrize("instruction_set", EMULATED)
def test_a_sample_of_the_kernels(emulated_package: Path, instruction_set: str) -> None:
    cases = f"(cpu-cpu and ({' or '.join(SAMPLE)})) or bytes_follow_the_formula"
    files = ("ops/test_attention_contract.py", "test_extension.py")
    run_tests(emulated_package, instruction_set, files, "-k", cases)


FILES = (
    "ops/test_attention_contract.py",
    "ops/test_attention_blocks.py",
    "ops/test_cpu_bindings.py",
    "ops/test_cpu_masks.py",
    "ops/test_cpu_memory.py",
    "ops/test_philox.py",
    "ops/test_layer_norm.py",
    "ops/test_elementwise_dropout.py",
    "ops/test_bias_gelu.py",
    "ops/test_cross_entropy.py",
    "test_extension.py",
)


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", EMULATED)
@pytest.mark.parametrize("file", FILES)
def test_the_kernels(emulated_package: Path, file: str, instruction_set: str) -> None:
    run_tests(emulated_package, instruction_set, [file], "-k", "not sdpa and not reference")
