"""What a run says and keeps when a step goes wrong."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fastbert import PretrainConfig, pretrain
from fastbert.cli import main
from fastbert.models import BertForPreTraining, LossTerm, load_pretrained
from fastbert.training import loop
from fastbert.training.recorder import read_metrics
from fastbert.training.replay import load_failed_batches


def options(corpus, output, **more) -> dict:
    defaults = {
        "model": "bert-tiny",
        "output": str(output),
        "corpus": [str(corpus)],
        "steps": 6,
        "vocab_size": 400,
        "max_length": 32,
        "tokens_per_batch": 256,
        "gradient_accumulation": 2,
        "dropout": 0.0,
        "precision": "fp32",
        "log_to": "none",
        "save_every": 1,
    }
    return {**defaults, **more}


def test_the_batches_of_a_step_that_is_not_finite_are_kept(corpus, tmp_path, monkeypatch):
    terms, seen = BertForPreTraining.loss_terms, []

    def poisoned(self, batch, **more):
        found = terms(self, batch, **more)
        if self.training:
            seen.append((batch, float(found["mlm"].sum.detach())))
            if len(seen) == 8:
                found["nsp"] = LossTerm(found["nsp"].sum * math.nan, found["nsp"].count)
        return found

    monkeypatch.setattr(BertForPreTraining, "loss_terms", poisoned)
    run = tmp_path / "run"
    with pytest.raises(FloatingPointError, match=r"nsp not finite in step 4, .* batches are in .*failed-step-00000004"):
        pretrain(PretrainConfig(**options(corpus, run)))
    monkeypatch.setattr(BertForPreTraining, "loss_terms", terms)

    said = json.loads((run / "failed-step-00000004" / "step-0.json").read_text())
    assert (said["step"], said["not finite"], said["sums"]["nsp"]) == (4, ["nsp"], "nan")
    assert [len(examples) for examples in said["examples"]] == [batch.num_sequences for batch, _ in seen[6:8]]
    model = load_pretrained(run / "checkpoints" / "step-00000003", "pretraining").train()
    for batch, (given, loss) in zip(load_failed_batches(run / "failed-step-00000004"), seen[6:8], strict=True):
        assert torch.equal(batch.input_ids, given.input_ids)
        assert batch.max_seqlen == given.max_seqlen
        assert float(model.loss_terms(batch)["mlm"].sum.detach()) == pytest.approx(loss, rel=1e-6)


def test_the_gradient_norm_is_recorded(corpus, tmp_path):
    pretrain(PretrainConfig(**options(corpus, tmp_path / "run", steps=2)))
    trained = [entry for entry in read_metrics(tmp_path / "run") if entry["split"] == "train"]
    assert trained
    assert all(entry["gradient_norm"] > 0 for entry in trained)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_answered_with_advice(corpus, tmp_path, monkeypatch, capsys, error):
    def full(self, *arguments):
        raise error

    monkeypatch.setattr(loop.Trainer, "_step", full)
    advice = r"out of memory: lower tokens_per_batch \(now 256; .*, set gradient_checkpointing or shorten max_length"
    with pytest.raises(torch.OutOfMemoryError, match=advice):
        pretrain(PretrainConfig(**options(corpus, tmp_path / "run")))
    settings = {**options(corpus, tmp_path / "other"), "corpus": corpus}
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    assert main(["pretrain", *arguments]) == 2
    assert "fastbert: error: out of memory: lower tokens_per_batch" in capsys.readouterr().err


def test_another_error_is_not_taken_for_it(corpus, tmp_path, monkeypatch):
    def broken(self, *arguments):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(loop.Trainer, "_step", broken)
    with pytest.raises(RuntimeError, match=r"^size mismatch$"):
        pretrain(PretrainConfig(**options(corpus, tmp_path / "run")))
