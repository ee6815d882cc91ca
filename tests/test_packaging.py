"""What is installed: public names, lazy imports, the namespace package, source and binary distributions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import fastbert

ROOT = Path(__file__).resolve().parent.parent
SOURCES = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree")


def run(
    *command: str | Path, cwd: Path | None = None, timeout: int = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def declared_version() -> str:
    match = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def test_importing_fastbert_imports_no_torch() -> None:
    code = "import sys, fastbert; print('torch' in sys.modules, 'numpy' in sys.modules, 'attention' in dir(fastbert))"
    assert run(sys.executable, "-c", code, PYTHONPATH=str(ROOT)).stdout.split() == ["False", "False", "True"]


@pytest.mark.parametrize("name", fastbert.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(fastbert, name) is not None
    assert name in dir(fastbert)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fastbert' has no attribute 'flash'"):
        _ = fastbert.flash


@SOURCES
def test_the_version_is_the_installed_one() -> None:
    try:
        installed = importlib.metadata.version("fastbert-kernels")
    except importlib.metadata.PackageNotFoundError:
        assert fastbert.__version__ == "0+source"
    else:
        assert fastbert.__version__ == installed == declared_version()


def test_kernels_is_a_namespace_package() -> None:
    spec = importlib.util.find_spec("fastbert.kernels")
    assert spec is not None
    assert spec.origin is None
    assert spec.submodule_search_locations


@SOURCES
def test_the_kernels_folder_hides_no_other_package_of_that_name(tmp_path: Path) -> None:
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").write_text("WHOSE = 'theirs'\n")
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import kernels; print(kernels.WHOSE)"
    assert run(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "theirs"


@SOURCES
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_sees_the_same_kernels_package_from_the_repository_root(tmp_path: Path) -> None:
    code = "import transformers.utils as u; print(u.is_kernels_available())"
    here, elsewhere = (run(sys.executable, "-c", code, cwd=folder) for folder in (ROOT, tmp_path))
    assert here.returncode == 0, here.stderr
    assert here.stdout == elsewhere.stdout


@SOURCES
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PATH": "", "CXX": ""}, "fastbert: no C++ compiler found"),
        ({"CXX": "/nowhere/c++"}, "fastbert: CXX names the C++ compiler '/nowhere/c++', which cannot be found"),
        ({"CXX": "false"}, "fastbert: false cannot build a C++17 program"),
        ({"FASTBERT_CUDA": "yes"}, "fastbert: FASTBERT_CUDA is 'yes': allowed are 0 and 1"),
        ({"FASTBERT_CUDA": "1", "CUDA_HOME": "/nowhere"}, "fastbert: no nvcc in /nowhere/bin, where CUDA_HOME points"),
        ({"FASTBERT_CUDA_ARCHS": "80;90", "CUDA_HOME": "/nowhere"}, "fastbert: no nvcc in /nowhere/bin"),
        ({"FASTBERT_CUDA_ARCHS": "hopper"}, "fastbert: FASTBERT_CUDA_ARCHS is 'hopper'"),
    ],
)
def test_a_build_that_cannot_work_says_why_in_one_sentence(
    environment: dict[str, str], message: str, tmp_path: Path
) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"]
    result = run(*command, cwd=ROOT, **environment)
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1].startswith(message)


@SOURCES
@pytest.mark.slow
def test_source_distribution_to_wheel_to_import(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "*.egg-info", "*.so", ".*_cache")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=ignored, symlinks=True)
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", source)
    assert built.returncode == 0, built.stdout + built.stderr
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    (wheel,) = (tmp_path / "dist").glob("*.whl")

    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        "csrc/bindings.cpp",
        "csrc/common/philox.h",
        "csrc/cuda/cuda_build.py",
        "csrc/cuda/sm80/attention_forward.cu",
        "csrc/cuda/tile.cuh",
        "kernels/README.md",
        "constraints/dev.txt",
        "Makefile",
        "LICENSE",
    }
    assert wanted <= inside
    assert not [name for name in inside if name.endswith(".so")]

    with zipfile.ZipFile(wheel) as zipped:
        names = set(zipped.namelist())
    extension = f"fastbert/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert {"fastbert/py.typed", "fastbert/_C.pyi", "fastbert/kernels/README.md", extension} <= names
    assert not [name for name in names if name.startswith(("tests/", "csrc/", "kernels/"))]

    # A new environment with nothing but the wheel: the extension needs no torch, neither to be built nor to be loaded.
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    installed = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    code = """
import sys
import fastbert, fastbert.kernels
from fastbert import _C
print(fastbert.__version__, _C.build_info()["version"], fastbert.kernels.__file__, "torch" in sys.modules)
print(all(word > 0 for word in _C.philox4x32((0, 0, 0, 0), (0, 0))))
"""
    result = run(python, "-c", code, cwd=tmp_path, PYTHONPATH="")
    assert result.stdout.split() == [declared_version(), declared_version(), "None", "False", "True"], result.stderr
    assert (tmp_path / "venv" / "bin" / "fastbert").is_file()

    # The same wheel with the torch that is already here.
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    code = (
        f"import sys; sys.path += {packages!r}; import fastbert; print(fastbert.attention.__name__, fastbert.__file__)"
    )
    result = run(python, "-c", code, cwd=tmp_path, PYTHONPATH="")
    assert result.returncode == 0, result.stderr
    name, file = result.stdout.split()
    assert name == "attention"
    assert Path(file).is_relative_to(tmp_path / "venv")
