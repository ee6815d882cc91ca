"""Two processes learn what one learns: same global batch, same losses, same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from fastbert import PretrainConfig, pretrain
from fastbert.models import load_pretrained
from fastbert.training.recorder import read_metrics


def config(corpus, output, **options) -> dict:
    return {
        "model": "bert-tiny",
        "output": str(output),
        "corpus": [str(corpus)],
        "steps": 5,
        "vocab_size": 400,
        "max_length": 32,
        "tokens_per_batch": 256,
        "dropout": 0.0,
        "precision": "fp32",
        "log_to": "none",
        **options,
    }


def pretrain_on_two_processes(settings: dict) -> None:
    program = "import json, sys; from fastbert import *; pretrain(PretrainConfig(**json.loads(sys.argv[1])))"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    done = subprocess.run(
        [*launcher, sys.executable, "-c", program, json.dumps(settings)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("next_sentence", [True, False])
def test_two_processes_equal_one_with_twice_the_accumulation(corpus, tmp_path, next_sentence):
    """The held-out set fits one batch, so one of the processes has nothing to evaluate."""
    one, two = tmp_path / "one", tmp_path / "two"
    pretrain(PretrainConfig(**config(corpus, one, gradient_accumulation=2, next_sentence=next_sentence)))
    pretrain_on_two_processes(config(corpus, two, next_sentence=next_sentence))

    for alone, together in zip(read_metrics(one), read_metrics(two), strict=True):
        assert together.pop("split") == alone.pop("split")
        assert together == pytest.approx(alone, rel=1e-5)
    purpose = "pretraining" if next_sentence else "masked-lm"
    alone, together = (load_pretrained(output, purpose).state_dict() for output in (one, two))
    for name, value in alone.items():
        assert torch.allclose(together[name], value, atol=2e-5), name


def test_a_run_is_not_resumed_with_another_number_of_processes(corpus, tmp_path):
    pretrain_on_two_processes(config(corpus, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match="processes was 2, is 1"):
        pretrain(PretrainConfig(**config(corpus, tmp_path / "run", steps=2, resume=True)))
