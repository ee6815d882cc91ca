"""The demo in small: everything it promises to leave behind is there, also the second time."""

from __future__ import annotations

import json

import pytest

from fastbert.data import DataError, samples
from fastbert.demo import DemoConfig, run_demo


@pytest.mark.slow
def test_the_demo_leaves_what_it_promises_and_runs_again(tmp_path):
    try:
        samples.minilm_directory()
    except DataError as error:
        pytest.skip(f"the sample data cannot be had: {error}")
    output = tmp_path / "demo"
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="holds something else than a demo"):
        run_demo(DemoConfig(str(tmp_path)))
    config = DemoConfig(str(output), epochs=0.01, pretrain_steps=4, compared_steps=1, bert="bert-tiny", gpt="gpt-tiny")
    first, second = run_demo(config), run_demo(config)

    assert json.loads((output / "summary.json").read_text()) == second
    assert set(second["minilm"]) == {"accuracy", "majority", "train_seconds", "tokens_per_second"}
    assert set(second["tagging"]) == {"accuracy", "majority", "train_seconds"}
    assert set(second["question_answering"]) == {"exact", "f1", "train_seconds"}
    assert set(second["against_sdpa"]) == {"tokens_per_second", "sdpa_tokens_per_second", "speedup"}
    assert not (output / "compared").exists()
    for family in ("bert", "gpt"):
        keys = {"loss_before", "loss_after", "accuracy", "majority", "tokens_per_second"}
        assert set(second[family]) == keys
        assert second[family]["loss_after"] < second[family]["loss_before"]
        assert second[family]["loss_after"] == first[family]["loss_after"], "one seed, one result"
    assert second["environment"]
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    for run in ("minilm", "bert", "bert-reviews", "gpt", "gpt-reviews", "tagging", "question_answering"):
        for name in ("config.json", "model.safetensors", "tokenizer.json", "training.json", "metrics.jsonl"):
            assert (output / run / name).is_file(), f"{run}/{name}"
