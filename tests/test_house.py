"""The floors of the house: imports go down, never up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fastbert"
# What each floor may stand on. Data and models are neighbours that do not know each other.
BELOW = {
    "files": set(),
    "hub": set(),
    "packing": set(),
    "kernels": set(),
    "ops": {"packing", "_C", "kernels"},
    "environment": {"ops", "_C"},
    "models": {"files", "hub", "packing", "ops"},
    "integrations": {"packing", "ops"},
    "data": {"files", "hub", "packing"},
    "training": {"files", "packing", "ops", "models", "data", "_C"},
    "embedding": {"files", "packing", "models", "data", "training"},
    "inference": {"files", "packing", "models", "data", "training"},
    "demo": {"files", "data", "environment", "inference", "training"},
    "cli": {"demo", "embedding", "environment", "inference", "training"},
}


def imported_floors(source: Path) -> set[str]:
    """The parts of the package that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "fastbert":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastbert."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fastbert.")}
    return found


@pytest.mark.parametrize("floor", BELOW)
def test_imports_go_down(floor):
    path = PACKAGE / floor
    sources = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    assert sources
    for source in sources:
        assert imported_floors(source) <= BELOW[floor] | {floor}, source.name
