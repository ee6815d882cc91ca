"""Fresh interpreters, for what a process decides once or may not survive."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import fastbert

TESTS = Path(__file__).resolve().parent


def run_python(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments; it imports this fastbert, wherever it was imported from, and the tests' helpers."""
    paths = (Path(fastbert.__file__).resolve().parent.parent, TESTS, TESTS / "ops")
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))} | environment
    command = [sys.executable, *arguments]
    # Not from the root, where Python would find the source's fastbert first.
    return subprocess.run(
        command, env=variables, cwd=TESTS, capture_output=True, text=True, timeout=timeout, check=False
    )


def run_code(code: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program, indented as the code around it is."""
    return run_python("-c", textwrap.dedent(code), timeout=timeout, **environment)
