"""Fine-tuning end to end: both families learn a task the words decide, and the run keeps its promises."""

from __future__ import annotations

import csv
import logging
import re

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from fastbert import FinetuneConfig, PretrainConfig, finetune, pretrain
from fastbert.data import Tokenizer
from fastbert.inference import EvaluateConfig, PredictConfig, evaluate, predict
from fastbert.models import load_pretrained
from fastbert.training import loop
from fastbert.training.recorder import read_metrics


@pytest.fixture(params=["bert-tiny", "gpt-tiny"])
def pretrained(request, corpus, reviews, tmp_path):
    """A barely pretrained model whose vocabulary knows the reviews."""
    text = corpus.read_text() + "\n" + reviews[0].read_text().replace(",good", "").replace(",bad", "")
    corpus.write_text(text * 2)
    options = {"vocab_size": 500, "max_length": 32, "tokens_per_batch": 256, "steps": 2, "log_to": "none"}
    return pretrain(
        PretrainConfig(request.param, str(tmp_path / "pretrained"), corpus=[str(corpus)], precision="fp32", **options)
    ).output


def config(model, reviews, output, **options) -> FinetuneConfig:
    defaults = {
        "epochs": 12.0,
        "max_length": 32,
        "tokens_per_batch": 128,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "log_to": "none",
        "validation": str(reviews[1]),
    }
    return FinetuneConfig(model=str(model), output=str(output), train=str(reviews[0]), **{**defaults, **options})


def test_both_families_learn_and_their_models_are_usable_everywhere(pretrained, reviews, tmp_path):
    output = tmp_path / "tuned"
    result = finetune(config(pretrained, reviews, output, test=str(reviews[0])))
    assert result.initial["accuracy"] < 0.8
    assert result.final["accuracy"] >= 0.95
    assert result.test["accuracy"] >= 0.95

    measured = evaluate(EvaluateConfig(str(output), str(reviews[1]), max_length=32))
    assert measured["accuracy"] == result.final["accuracy"]
    assert measured["loss"] == pytest.approx(result.final["loss"], rel=1e-4)

    predictions = predict(PredictConfig(str(output), str(reviews[1]), str(tmp_path / "labels.csv"), max_length=32))
    with reviews[1].open(newline="") as file:
        truth = [row["label"] for row in csv.DictReader(file)]
    agreement = sum(p.label == t for p, t in zip(predictions, truth, strict=True)) / len(truth)
    assert agreement == pytest.approx(measured["accuracy"])
    with (tmp_path / "labels.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [p.label for p in predictions]

    theirs = AutoModelForSequenceClassification.from_pretrained(output).eval()
    ours = load_pretrained(output, "classification")
    assert theirs.config.id2label == ours.config.id2label == {0: "bad", 1: "good"}
    tokenizer = Tokenizer.load(output)
    ids = torch.tensor([tokenizer.build_single(tokenizer.encode("the cat was superb today"))[0]])
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)


def test_gpt_keeps_its_language_model_loss_and_bert_has_none(pretrained, reviews, tmp_path):
    finetune(config(pretrained, reviews, tmp_path / "tuned", epochs=None, steps=2))
    line = next(line for line in read_metrics(tmp_path / "tuned") if line["split"] == "train")
    causal = load_pretrained(tmp_path / "tuned", "classification").config.causal
    assert ("lm" in line) == causal
    if causal:
        assert line["loss"] == pytest.approx(line["task"] + 0.5 * line["lm"])
        assert Tokenizer.load(tmp_path / "tuned").extract_id is not None
    else:
        with pytest.raises(ValueError, match=r"lm_weight is 0.5; allowed: 0 for bert"):
            finetune(config(pretrained, reviews, tmp_path / "other", lm_weight=0.5))


def test_training_stops_early_and_the_best_model_is_kept(pretrained, reviews, tmp_path, monkeypatch):
    accuracies = iter([0.5, 0.7, 0.9, 0.8, 0.9, 0.99])

    def measure(model, *arguments, **options):
        return {"loss": 1.0, "accuracy": next(accuracies), "f1": 0.0}

    monkeypatch.setattr("fastbert.training.finetuning.evaluate_task", measure)
    saved = []
    save = loop.Trainer._on_main
    monkeypatch.setattr(loop.Trainer, "_on_main", lambda self, act: (saved.append(self.position.step), save(self, act)))
    result = finetune(
        config(pretrained, reviews, tmp_path / "tuned", epochs=None, steps=50, eval_every=3, early_stopping=2)
    )
    assert result.final["accuracy"] == 0.9
    assert result.steps == 12
    assert saved == [3, 3, 6, 6, 9, 12]  # a checkpoint at each evaluation, and the model at 3 and 6


def test_a_killed_run_resumes_bit_for_bit(pretrained, reviews, tmp_path, monkeypatch):
    finetune(config(pretrained, reviews, tmp_path / "whole", epochs=None, steps=8, eval_every=4))
    step = loop.Trainer._step

    def killed(self, *arguments):
        if self.position.step == 6:
            raise RuntimeError("killed")
        return step(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        finetune(config(pretrained, reviews, tmp_path / "killed", epochs=None, steps=8, eval_every=4))
    monkeypatch.setattr(loop.Trainer, "_step", step)
    finetune(config(pretrained, reviews, tmp_path / "killed", epochs=None, steps=8, eval_every=4, resume=True))
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "whole")
    whole, resumed = (load_pretrained(tmp_path / name, "classification").state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_unknown_label_in_the_validation_file(pretrained, reviews, tmp_path):
    reviews[1].write_text("text,label\nthe cat was superb,splendid\n")
    with pytest.raises(ValueError, match=r"validation.csv, line 2: unknown label 'splendid', known are bad, good"):
        finetune(config(pretrained, reviews, tmp_path / "tuned"))
    assert not (tmp_path / "tuned").exists()


def test_measuring_a_model_without_a_classifier_is_refused(pretrained, reviews):
    with pytest.raises(ValueError, match=r"weights missing: .*(classifier|score)"):
        evaluate(EvaluateConfig(str(pretrained), str(reviews[1])))


def test_texts_that_are_cut_are_counted(pretrained, reviews, tmp_path, caplog):
    for path in reviews:
        path.write_text(path.read_text() + "the cat was superb today and today and today,good\n")
    with caplog.at_level(logging.WARNING):
        finetune(config(pretrained, reviews, tmp_path / "run", epochs=None, steps=1, max_length=8))
    for path in reviews:
        assert re.search(rf"{path.name}: \d+ texts are longer than max_length 8 and are cut", caplog.text)
