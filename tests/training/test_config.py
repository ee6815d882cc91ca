"""Configuration errors are one sentence that names the field, what came and what is allowed."""

from __future__ import annotations

import json

import pytest

from fastbert.training.config import FinetuneConfig, Phase, PretrainConfig


def pretraining(**options) -> PretrainConfig:
    return PretrainConfig(**{"model": "bert-base", "output": "runs/x", "corpus": ["a.txt"], **options})


def finetuning(**options) -> FinetuneConfig:
    return FinetuneConfig(**{"model": "runs/x", "output": "runs/y", "train": "a.csv", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpus": []}, "corpus is empty"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"steps": 0}, "steps is 0; allowed: at least 1"),
        ({"steps": 5, "epochs": 1}, "exclude each other"),
        ({"steps": 5, "phases": [Phase(5, 128)]}, "phases carry their own steps"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"mask_probability": 0.0}, "mask_probability is 0.0"),
        ({"max_predictions": 0}, "max_predictions is 0; allowed: at least 1"),
        ({"held_out": 0.6}, "held_out is 0.6"),
        ({"vocab_size": 10}, "vocab_size is 10"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"tokens_per_batch": 0}, "tokens_per_batch is 0"),
    ],
)
def test_pretraining_errors(options, message):
    with pytest.raises(ValueError, match=message):
        pretraining(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ""}, "train is ''"),
        ({"task": "dancing"}, "task is 'dancing'"),
        ({"metric": "bleu"}, "metric is 'bleu'"),
        ({"lm_weight": -0.5}, "lm_weight is -0.5"),
        ({"early_stopping": 2}, "early_stopping needs a validation file"),
    ],
)
def test_finetuning_errors(options, message):
    with pytest.raises(ValueError, match=message):
        finetuning(**options)


def test_defaults():
    assert pretraining().epochs == 1.0
    assert pretraining(corpus="one.txt").corpus == ["one.txt"]
    assert pretraining(phases=[Phase(9, 128)]).epochs is None
    assert finetuning().epochs == 3.0
    assert finetuning(steps=7).epochs is None


def test_saved_as_json(tmp_path):
    pretraining(phases=[Phase(9, 128)]).save(tmp_path / "training.json")
    read = json.loads((tmp_path / "training.json").read_text())
    assert read["model"] == "bert-base"
    assert read["phases"] == [{"steps": 9, "max_length": 128}]
