"""Tests of tests/ops on the Triton kernels in Triton's interpreter, which a process has or has not."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from interpreter import run_python

OPS = Path(__file__).resolve().parents[1] / "ops"


def outcomes(folder: Path, *arguments: str, timeout: float) -> dict[str, str]:
    """Test -> "passed" or what was said, of the chosen tests in a process in which Triton interprets."""
    path = folder / "junit.xml"
    command = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junit-xml={path}",
        "--rootdir",
        str(OPS.parent.parent),
    )
    result = run_python(*command, *arguments, timeout=timeout, TRITON_INTERPRET="1")
    assert path.is_file(), result.stdout + result.stderr
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        complaint = next((x for x in case if x.tag in ("failure", "error", "skipped")), None)
        found[case.attrib["name"]] = (
            "passed" if complaint is None else complaint.attrib["message"] + (complaint.text or "")
        )
    return found
