"""Pretraining end to end on a small corpus: BERT and GPT through the same call."""

from __future__ import annotations

import json
import math
import signal

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, OpenAIGPTLMHeadModel

from fastbert import PretrainConfig, pretrain
from fastbert.data import Tokenizer
from fastbert.models import BertForPreTraining, LossTerm, load_pretrained
from fastbert.training import Phase, loop
from fastbert.training.interrupt import Interrupted
from fastbert.training.recorder import read_metrics

FAMILIES = ("bert-tiny", "gpt-tiny")


def config(model, corpus, output, **options) -> PretrainConfig:
    defaults = {
        "steps": 12,
        "vocab_size": 400,
        "max_length": 32,
        "tokens_per_batch": 256,
        "learning_rate": 1e-3,
        "precision": "fp32",
        "log_to": "none",
        "held_out": 0.1,
    }
    return PretrainConfig(model=model, output=str(output), corpus=[str(corpus)], **{**defaults, **options})


def weights(output) -> dict[str, torch.Tensor]:
    return load_pretrained(output, "pretraining").state_dict()


@pytest.mark.parametrize("model", FAMILIES)
def test_the_loss_falls_and_the_run_is_complete(model, corpus, tmp_path):
    output = tmp_path / "run"
    result = pretrain(config(model, corpus, output, steps=60, learning_rate=3e-3, log_to="tensorboard"))
    vocabulary = Tokenizer.load(output).vocab_size
    untrained = math.log(vocabulary) + (math.log(2) if model.startswith("bert") else 0.0)
    assert result.initial["loss"] == pytest.approx(untrained, rel=0.05)
    assert result.final["loss"] < 0.75 * result.initial["loss"]
    assert result.steps == 60
    assert result.tokens > 60 * 100
    assert result.tokens_per_second > 0
    assert json.loads((output / "training.json").read_text())["model"] == model
    assert [line["step"] for line in read_metrics(output) if line["split"] == "validation"] == list(range(0, 61, 6))
    assert len(list((output / "checkpoints").glob("step-*"))) == 2
    assert list((output / "tensorboard").rglob("events*"))


@pytest.mark.parametrize(("model", "peer"), [("bert-tiny", AutoModelForMaskedLM), ("gpt-tiny", OpenAIGPTLMHeadModel)])
def test_what_was_trained_loads_in_transformers(model, peer, corpus, tmp_path):
    pretrain(config(model, corpus, tmp_path / "run", steps=2))
    theirs = peer.from_pretrained(tmp_path / "run").eval()
    ours = load_pretrained(tmp_path / "run", "masked-lm" if model.startswith("bert") else "pretraining")
    text = "the cat sees a red house."
    ids = AutoTokenizer.from_pretrained(tmp_path / "run")(text, return_tensors="pt").input_ids
    assert ids[0].tolist()[-3:] == (
        Tokenizer.load(tmp_path / "run").build_single(Tokenizer.load(tmp_path / "run").encode(text))[0][-3:]
        if model.startswith("bert")
        else Tokenizer.load(tmp_path / "run").encode(text)[-3:]
    )
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("model", FAMILIES)
def test_a_killed_run_resumes_bit_for_bit(model, corpus, tmp_path, monkeypatch):
    """Dropout on, a kill between two checkpoints: same metrics, same weights as the run that nothing disturbed."""
    pretrain(config(model, corpus, tmp_path / "whole", save_every=4, eval_every=6))

    step = loop.Trainer._step

    def killed(self, *arguments):
        if self.position.step == 10:
            raise RuntimeError("killed")
        return step(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "_step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(config(model, corpus, tmp_path / "killed", save_every=4, eval_every=6))
    monkeypatch.setattr(loop.Trainer, "_step", step)
    torch.rand(7)  # the generator is not where the killed run left it
    result = pretrain(config(model, corpus, tmp_path / "killed", save_every=4, eval_every=6, resume=True))

    assert result.steps == 12
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "whole")
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_saves_the_step_in_flight_and_says_how_to_go_on(corpus, tmp_path, monkeypatch):
    pretrain(config("gpt-tiny", corpus, tmp_path / "whole"))
    step = loop.Trainer._step

    def interrupted(self, *arguments):
        if self.position.step == 5:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "_step", interrupted)
    with pytest.raises(Interrupted, match=r"interrupted after step 7 of 12; continue with resume"):
        pretrain(config("gpt-tiny", corpus, tmp_path / "stopped"))
    monkeypatch.setattr(loop.Trainer, "_step", step)
    pretrain(config("gpt-tiny", corpus, tmp_path / "stopped", resume=True))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_resuming_with_other_settings_is_refused(corpus, tmp_path):
    pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match=r"cannot resume .*: weight_decay was 0.01, is 0.1"):
        pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2, weight_decay=0.1, resume=True))


def test_resuming_on_other_text_is_refused(corpus, tmp_path):
    pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2))
    corpus.write_text(corpus.read_text().replace("\n\n", "\nand more of it.\n\n", 5))
    with pytest.raises(ValueError, match=r"cannot resume .*: training data"):
        pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2, resume=True))


def test_resuming_a_finished_run_changes_nothing(corpus, tmp_path):
    first = pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2))
    lines = read_metrics(tmp_path / "run")
    again = pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2, resume=True))
    assert (again.steps, again.final, again.tokens) == (first.steps, first.final, 0)
    assert read_metrics(tmp_path / "run") == lines


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoilt(corpus, tmp_path, monkeypatch):
    terms = BertForPreTraining.loss_terms

    def poisoned(self, batch, **options):
        found = terms(self, batch, **options)
        if self.training and next(steps) == 8:
            found["nsp"] = LossTerm(found["nsp"].sum * math.nan, found["nsp"].count)
        return found

    steps = iter(range(100))
    monkeypatch.setattr(BertForPreTraining, "loss_terms", poisoned)
    with pytest.raises(FloatingPointError, match=r"nsp not finite in step 9.*resume .*step-00000008 with a lower"):
        pretrain(config("bert-tiny", corpus, tmp_path / "run", save_every=4))
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
    result = pretrain(config("bert-tiny", corpus, tmp_path / "run", save_every=4, learning_rate=1e-4, resume=True))
    assert result.steps == 12


def test_bert_without_sentence_pairs_is_a_masked_language_model(corpus, tmp_path):
    pretrain(config("bert-tiny", corpus, tmp_path / "run", steps=2, next_sentence=False))
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["architectures"] == ["BertForMaskedLM"]


def test_a_finished_run_is_not_overwritten(corpus, tmp_path):
    pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match="already holds a run"):
        pretrain(config("gpt-tiny", corpus, tmp_path / "run", steps=2))


def test_phases_change_the_sequence_length(corpus, tmp_path):
    lengths = []
    step = loop.Trainer._step

    def watch(self, shares, targets):
        lengths.append(max(share.batch.max_seqlen for share in shares))
        return step(self, shares, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", watch)
        phases = [Phase(3, 16), Phase(2, 48)]
        pretrain(config("bert-tiny", corpus, tmp_path / "run", steps=None, phases=phases))
    assert len(lengths) == 5
    assert max(lengths[:3]) <= 16 < min(lengths[3:]) <= 48


def test_pretraining_continues_from_a_directory(corpus, tmp_path):
    first = pretrain(config("bert-tiny", corpus, tmp_path / "first", steps=30, learning_rate=3e-3))
    second = pretrain(config(str(first.output), corpus, tmp_path / "second", steps=2))
    assert second.initial["loss"] == pytest.approx(first.final["loss"], abs=1e-4)


def test_gradient_checkpointing_changes_nothing(corpus, tmp_path):
    pretrain(config("bert-tiny", corpus, tmp_path / "plain", steps=3))
    pretrain(config("bert-tiny", corpus, tmp_path / "checkpointed", steps=3, gradient_checkpointing=True))
    plain, checkpointed = weights(tmp_path / "plain"), weights(tmp_path / "checkpointed")
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_compiling_changes_rounding_alone(model, corpus, tmp_path):
    """Without dropout, whose random numbers a compiled graph draws in an order of its own."""
    pretrain(config(model, corpus, tmp_path / "plain", steps=3, dropout=0.0))
    pretrain(config(model, corpus, tmp_path / "compiled", steps=3, dropout=0.0, compile=True))
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-4) for name in plain)


def test_bf16_trains_float32_master_weights(corpus, tmp_path):
    result = pretrain(config("bert-tiny", corpus, tmp_path / "run", steps=4, precision="bf16", dropout=0.0))
    exact = pretrain(config("bert-tiny", corpus, tmp_path / "exact", steps=4, dropout=0.0))
    assert {value.dtype for value in weights(tmp_path / "run").values()} == {torch.float32}
    assert result.final["loss"] == pytest.approx(exact.final["loss"], rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "bert-huge"}, "bert-huge"),
        ({"max_length": 513}, "max_length is 513; allowed: at most 512"),
        ({"corpus": ["nowhere.txt"]}, "nowhere.txt"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"backend": "warp"}, "warp"),
        ({"backend": "sdpa"}, "sdpa"),  # which cannot drop attention weights as the model asks
    ],
)
def test_unusable_settings(options, message, corpus, tmp_path):
    changed = config("bert-tiny", corpus, tmp_path / "run", steps=1)
    for name, value in options.items():
        setattr(changed, name, value)
    with pytest.raises((ValueError, OSError), match=message):
        pretrain(changed)


def test_a_tokenizer_that_does_not_fit_the_model(corpus, tmp_path):
    small = pretrain(config("bert-tiny", corpus, tmp_path / "small", steps=1, vocab_size=300))
    Tokenizer.train_wordpiece([chr(0x4E00 + i) for i in range(600)] * 3, 900).save(tmp_path / "large")
    with pytest.raises(ValueError, match="do not belong together"):
        pretrain(config(str(small.output), corpus, tmp_path / "x", steps=1, tokenizer=str(tmp_path / "large")))
