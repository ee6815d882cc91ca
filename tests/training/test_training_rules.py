"""The training rules: how a window becomes a gradient."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from accelerate import Accelerator

from fastbert.models import BertConfig, GPTConfig, architecture
from fastbert.packing import PackedBatch
from fastbert.training.config import TrainingConfig
from fastbert.training.loop import Task, Trainer
from fastbert.training.optimizer import build_optimizer
from fastbert.training.stream import Share

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 50,
}
NO_DROPOUT = {"embedding_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def trainer(model, **task) -> Trainer:
    config = TrainingConfig("bert-tiny", "unused", precision="fp32", learning_rate=1e-2, clip=0.0, log_to="none")
    options = {"title": "", "segments": [], "save_model": None, "validate": None, "metric": "loss", "eval_every": 1}
    return Trainer(config, Task(model=model, **{**options, **task}), Accelerator(cpu=True))


def sequences(generator, lengths):
    return [torch.randint(5, 50, (n,), generator=generator).tolist() for n in lengths]


def pretraining_batch(generator, lengths) -> PackedBatch:
    """Masked LM targets in uneven numbers, one next-sentence label a sequence."""
    ids = sequences(generator, lengths)
    labels = [[t if torch.rand((), generator=generator) < 0.3 else -100 for t in sequence] for sequence in ids]
    pairs = torch.randint(0, 2, (len(ids),), generator=generator)
    return PackedBatch.from_sequences(ids, token_labels=labels, next_sentence_label=pairs)


def classification_batch(generator, lengths) -> PackedBatch:
    ids = sequences(generator, lengths)
    return PackedBatch.from_sequences(ids, labels=torch.randint(0, 2, (len(ids),), generator=generator))


def joined(batches: list[PackedBatch]) -> PackedBatch:
    """The same sequences in one batch."""
    lengths = [b - a for batch in batches for a, b in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)]
    fields = {}
    for name in ("input_ids", "position_ids", "labels", "next_sentence_label"):
        values = [getattr(batch, name) for batch in batches]
        fields[name] = None if values[0] is None else torch.cat(values)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int32), torch.stack(lengths).cumsum(0).int()])
    return PackedBatch(cu_seqlens=cu_seqlens, max_seqlen=max(b.max_seqlen for b in batches), **fields)


CASES = {
    "bert pretraining": ("bert", "pretraining", pretraining_batch, {}),
    "bert classification": ("bert", "classification", classification_batch, {}),
    "gpt classification with auxiliary LM": (
        "openai-gpt",
        "classification",
        classification_batch,
        {"loss_options": {"auxiliary_lm": True}, "term_weights": {"lm": 0.5}},
    ),
}


def build(family, purpose):
    torch.manual_seed(0)
    config = (BertConfig if family == "bert" else GPTConfig)(**SIZES, **NO_DROPOUT)
    return architecture(family, purpose)(config)


def gradients_of_one_step(case, batches, weights=None) -> dict[str, torch.Tensor]:
    family, purpose, _, task = CASES[case]
    model = build(family, purpose)
    run = trainer(model, **task)
    shares = [Share(batch, w) for batch, w in zip(batches, weights or [1.0] * len(batches), strict=True)]
    window = run._agree(shares, interrupted=False)
    found = {}
    run.optimizer.step = lambda: found.update({n: p.grad.clone() for n, p in model.named_parameters()})
    run._step(shares, window.targets)
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_does_not_depend_on_how_a_window_is_cut(case):
    generator = torch.Generator().manual_seed(3)
    make = CASES[case][2]
    batches = [make(generator, lengths) for lengths in ((9, 4), (3,), (12, 7, 5))]
    whole = gradients_of_one_step(case, [joined(batches)])
    cut = gradients_of_one_step(case, batches)
    for name, gradient in whole.items():
        assert torch.allclose(cut[name], gradient, atol=2e-6), name


def test_each_term_is_a_mean_over_its_own_targets():
    """Against the definition: plain sums of cross entropies, divided by their numbers of targets, added."""
    generator = torch.Generator().manual_seed(4)
    batches = [pretraining_batch(generator, lengths) for lengths in ((9, 4), (12, 7, 5))]
    found = gradients_of_one_step("bert pretraining", batches)

    model = build("bert", "pretraining").train()
    outputs = [model(dataclasses.replace(batch, labels=None, next_sentence_label=None)) for batch in batches]
    cross_entropy = torch.nn.functional.cross_entropy
    targets = torch.cat([batch.labels for batch in batches])
    masked = cross_entropy(torch.cat([output.prediction_logits for output in outputs]), targets)
    relations = torch.cat([batch.next_sentence_label for batch in batches])
    pairs = cross_entropy(torch.cat([output.seq_relationship_logits for output in outputs]), relations)
    (masked + pairs).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=2e-6), name


def test_a_share_of_weight_zero_changes_nothing():
    generator = torch.Generator().manual_seed(5)
    real, idle = (pretraining_batch(generator, (6, 8)) for _ in range(2))
    alone = gradients_of_one_step("bert pretraining", [real])
    both = gradients_of_one_step("bert pretraining", [real, idle], weights=[1.0, 0.0])
    for name, gradient in alone.items():
        assert torch.allclose(both[name], gradient, atol=1e-6), name


def test_biases_and_norms_do_not_decay():
    model = build("bert", "pretraining")
    optimizer = build_optimizer(model, learning_rate=1.0, weight_decay=0.1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == ("norm" not in name and not name.endswith("bias")), name
