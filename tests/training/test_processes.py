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


PROGRAM = "import json, sys; from fastbert import *; pretrain(PretrainConfig(**json.loads(sys.argv[1])))"
# The same in float64, in which the order of a sum does not show: attention, which has no such kernels, by definition.
IN_FLOAT64 = """
import dataclasses, json, sys
import torch
from fastbert import PretrainConfig, pretrain
from fastbert.models import transformer
from fastbert.training import loop

def attend(q, k, v, *, cu_seqlens_q, causal, **_):
    rows = cu_seqlens_q.diff().tolist()
    outs = []
    for query, key, value in zip(*(x.split(rows) for x in (q, k, v)), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query, key) / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
        outs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value))
    return torch.cat(outs)

def make(self, config, task, accelerator):
    made(self, config, dataclasses.replace(task, model=task.model.double()), accelerator)

transformer.attention_varlen = attend
made, loop.Trainer.__init__ = loop.Trainer.__init__, make
pretrain(PretrainConfig(**json.loads(sys.argv[1])))
"""


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # what `accelerate launch --use_fsdp --fsdp_version 2` sets


def run_processes(count: int, settings: dict, program: str = PROGRAM, **environment: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    launcher += ["--nproc_per_node", str(count)]
    done = subprocess.run(
        [*launcher, sys.executable, "-c", program, json.dumps(settings)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment},
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
    run_processes(2, config(corpus, two, next_sentence=next_sentence))

    for alone, together in zip(read_metrics(one), read_metrics(two), strict=True):
        assert together.pop("split") == alone.pop("split")
        assert together == pytest.approx(alone, rel=1e-5)
    purpose = "pretraining" if next_sentence else "masked-lm"
    alone, together = (load_pretrained(output, purpose).state_dict() for output in (one, two))
    for name, value in alone.items():
        assert torch.allclose(together[name], value, atol=2e-5), name


def test_a_run_is_not_resumed_with_another_number_of_processes(corpus, tmp_path):
    run_processes(2, config(corpus, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match="processes was 2, is 1"):
        pretrain(PretrainConfig(**config(corpus, tmp_path / "run", steps=2, resume=True)))


@pytest.mark.parametrize("model", ["bert-tiny", "gpt-tiny"])
def test_in_float64_two_processes_and_one_are_the_same(corpus, tmp_path, model):
    """Twenty steps of few tokens: the processes' shares differ, and the last of an epoch may leave one without any."""
    settings = {"model": model, "steps": 20, "tokens_per_batch": 128, "learning_rate": 1e-3, "eval_every": 10}
    one, two = tmp_path / "one", tmp_path / "two"
    run_processes(1, config(corpus, one, gradient_accumulation=2, **settings), IN_FLOAT64)
    run_processes(2, config(corpus, two, **settings), IN_FLOAT64)
    alone, together = read_metrics(one), read_metrics(two)
    assert sum(entry["split"] == "train" for entry in alone) == 20
    for a, b in zip(alone, together, strict=True):
        assert a.pop("split") == b.pop("split")
        assert b == pytest.approx(a, rel=1e-9)


FINETUNE = "import json, sys; from fastbert import *; finetune(FinetuneConfig(**json.loads(sys.argv[1])))"


def test_every_held_out_example_counts_once(corpus, reviews, tmp_path):
    """Batches of one or two examples, an odd number of them, dealt to two processes."""
    base = tmp_path / "base"
    pretrain(PretrainConfig(**config(corpus, base, steps=2)))
    train, validation = reviews
    lines = validation.read_text(encoding="utf-8").splitlines()[:30]  # 29 examples
    validation.write_text("\n".join(lines) + "\n", encoding="utf-8")
    shared = {"model": str(base), "train": str(train), "validation": str(validation), "steps": 2, "dropout": 0.0}
    shared |= {"precision": "fp32", "log_to": "none", "tokens_per_batch": 16, "max_length": 16}
    one, two = tmp_path / "one", tmp_path / "two"
    run_processes(1, {**shared, "output": str(one), "gradient_accumulation": 2}, FINETUNE)
    run_processes(2, {**shared, "output": str(two)}, FINETUNE)
    for alone, together in zip(read_metrics(one), read_metrics(two), strict=True):
        assert together.pop("split") == alone.pop("split")
        assert together == pytest.approx(alone, rel=1e-5)


# Fails where a process holds more than its half of the weights, gradients or moments.
IN_HALVES = """
from fastbert.training import loop
step = loop.Trainer._step

def checked(self, *args):
    result = step(self, *args)
    local = lambda tensors: sum(t.to_local().numel() for t in tensors)
    total = sum(p.numel() for p in self.model.parameters())
    held = local(self.model.parameters())
    assert abs(held - total / 2) < total / 100, (held, total)
    moments = [v for state in self.optimizer.state.values() for v in state.values() if v.dim()]
    assert local(moments) == 2 * held
    return result

loop.Trainer._step = checked
"""


@pytest.mark.parametrize("model", ["bert-tiny", pytest.param("gpt-tiny", marks=pytest.mark.slow)])
def test_fsdp_learns_what_ddp_learns(corpus, tmp_path, model):
    """Also accumulated gradients, gradients that are clipped, and shares and evaluations that leave a process out."""
    settings = {"model": model, "steps": 20, "tokens_per_batch": 128, "learning_rate": 1e-3, "eval_every": 10}
    settings |= {"gradient_accumulation": 2, "clip": 0.5}
    ddp, fsdp = tmp_path / "ddp", tmp_path / "fsdp"
    run_processes(2, config(corpus, ddp, **settings), IN_FLOAT64)
    run_processes(2, config(corpus, fsdp, **settings), IN_HALVES + IN_FLOAT64, **FSDP)
    alone, together = read_metrics(ddp), read_metrics(fsdp)
    assert sum(entry["split"] == "train" for entry in alone) == 20
    for a, b in zip(alone, together, strict=True):
        assert a.pop("split") == b.pop("split")
        assert b == pytest.approx(a, rel=1e-8)
    a, b = (load_pretrained(output, "pretraining").state_dict() for output in (ddp, fsdp))
    for name, value in a.items():
        assert torch.allclose(b[name], value, rtol=1e-6, atol=1e-7), name


def test_fsdp_resumes_what_it_saved(corpus, tmp_path):
    """Stopped after 3 steps of 6 and resumed: the weights of a run that was not, to the last bit."""
    settings = {"steps": 6, "dropout": 0.1, "gradient_checkpointing": True}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_processes(2, config(corpus, whole, **settings), **FSDP)
    stopping = """
from fastbert.training import loop
step = loop.Trainer._step

def interrupted(self, *args):
    if self.position.step == 3:
        raise SystemExit(0)
    return step(self, *args)

loop.Trainer._step = interrupted
"""
    run_processes(2, config(corpus, parts, save_every=3, **settings), stopping + PROGRAM, **FSDP)
    run_processes(2, config(corpus, parts, resume=True, **settings), **FSDP)
    one, two = (load_pretrained(output, "pretraining").state_dict() for output in (whole, parts))
    assert all(torch.equal(two[name], value) for name, value in one.items())


def test_fsdp_fine_tunes_with_uneven_evaluation(corpus, reviews, tmp_path):
    base = tmp_path / "base"
    pretrain(PretrainConfig(**config(corpus, base, steps=2)))
    train, validation = reviews
    shared = {"model": str(base), "train": str(train), "validation": str(validation), "steps": 2, "dropout": 0.0}
    shared |= {"precision": "fp32", "log_to": "none", "tokens_per_batch": 16, "max_length": 16}
    run_processes(2, {**shared, "output": str(tmp_path / "ddp")}, FINETUNE)
    run_processes(2, {**shared, "output": str(tmp_path / "fsdp")}, FINETUNE, **FSDP)
    for alone, together in zip(read_metrics(tmp_path / "ddp"), read_metrics(tmp_path / "fsdp"), strict=True):
        assert together.pop("split") == alone.pop("split")
        assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({"FSDP_VERSION": "1"}, {}, "fsdp_version 1; allowed: 2"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params; allowed: false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "allowed: gradient_checkpointing instead"),
        ({}, {"compile": True}, "compile is True and accelerate is set to FSDP"),
        ({}, {}, "there is one process; allowed: two or more"),
    ],
)
def test_what_fsdp_does_not_do_is_said(corpus, tmp_path, monkeypatch, environment, options, message):
    for name, value in (FSDP | environment).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        pretrain(PretrainConfig(**config(corpus, tmp_path, **options)))
