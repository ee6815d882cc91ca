"""Checkpoints: whole or absent, verified, rotated."""

from __future__ import annotations

import logging

import pytest
import torch

from fastbert.training import checkpoint
from fastbert.training.checkpoint import list_checkpoints, load_latest, save_checkpoint


def save(root, step, *, keep=3, value=None):
    def save_model(directory):
        (directory / "weights").write_text(f"weights of step {step}")

    tensors = {"moment": torch.full((3,), float(step if value is None else value))}
    return save_checkpoint(root, step, save_model=save_model, tensors=tensors, state={"step": step}, keep=keep)


def test_the_newest_is_loaded(tmp_path):
    for step in (2, 10, 9):
        save(tmp_path, step)
    loaded = load_latest(tmp_path)
    assert loaded.state == {"step": 10}
    assert loaded.tensors["moment"].tolist() == [10.0, 10.0, 10.0]
    assert (loaded.directory / "weights").read_text() == "weights of step 10"


def test_old_ones_are_removed(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005", "step-00000004"]


@pytest.mark.parametrize("name", ["weights", "state.safetensors", "state.json"])
def test_a_damaged_one_is_skipped_loudly(tmp_path, caplog, name):
    save(tmp_path, 1)
    damaged = save(tmp_path, 2) / name
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        assert load_latest(tmp_path).state == {"step": 1}
    assert "step-00000002 is damaged" in caplog.text


def test_a_damaged_one_does_not_push_out_what_is_saved_after_it(tmp_path):
    save(tmp_path, 1, keep=1)
    (save(tmp_path, 9, keep=2) / "weights").write_text("damaged")
    load_latest(tmp_path)
    save(tmp_path, 2, keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002"]


def test_nothing_but_damage_is_an_error(tmp_path):
    (save(tmp_path, 1) / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
        load_latest(tmp_path)


def test_nothing_to_load(tmp_path):
    assert load_latest(tmp_path / "nowhere") is None


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_latest(tmp_path).state == {"step": 1}
