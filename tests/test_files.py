"""Files and directories are whole or absent."""

from __future__ import annotations

import pytest

from fastbert.files import replaced, written_aside


def test_written_aside_replaces_only_when_it_is_complete(tmp_path):
    target = tmp_path / "model"
    with written_aside(target) as aside:
        (aside / "a").write_text("old")
    with pytest.raises(FileNotFoundError), written_aside(target) as aside:
        (aside / "nowhere" / "a").write_text("lost")
    assert (target / "a").read_text() == "old"
    with written_aside(target) as aside:
        (aside / "b").write_text("new")
    assert [path.name for path in target.iterdir()] == ["b"]


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced(path) as aside:
        aside.write_text(f"half{1 / 0}")
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    assert path.read_text() == "old"
    with replaced(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"
