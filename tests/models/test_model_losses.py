"""loss_terms: sums and counts of their definitions, in agreement with forward, for every class and every target."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import huggingface_peers as peers
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.models import LossTerm, PretrainedModel, architecture
from fastbert.models.losses import next_token_targets
from fastbert.packing import IGNORE_INDEX, PackedBatch

SEQUENCES = [[7, 8, 9, 10], [11], [12, 13, 14], [15, 16]]
TOKEN_LABELS = [[-100, 8, -100, 3], [-100], [4, -100, -100], [-100, 5]]
TAGS = [[-100, 1, 0, 0], [-100], [1, -100, -100], [0, 1]]
TARGETS: dict[str, dict[str, Any]] = {
    "pretraining": {"token_labels": TOKEN_LABELS, "next_sentence_label": torch.tensor([1, -100, 0, 1])},
    "masked-lm": {"token_labels": TOKEN_LABELS},
    "classification": {"labels": torch.tensor([1, 0, -100, 1])},
    "similarity": {"labels": torch.tensor([1, 0]), "num_choices": 2},
    "multiple-choice": {"labels": torch.tensor([1, 0]), "num_choices": 2},
    "token-classification": {"token_labels": TAGS},
    "question-answering": {
        "start_positions": torch.tensor([1, 0, 5, 1]),
        "end_positions": torch.tensor([3, 0, 2, 1]),
    },
}
COUNTS = {
    ("bert", "pretraining"): {"mlm": 4, "nsp": 3},
    ("gpt2", "pretraining"): {"lm": 3},  # a label counts where a token stands before it
    ("bert", "masked-lm"): {"mlm": 4},
    ("bert", "classification"): {"task": 3},
    ("gpt2", "classification"): {"task": 3},
    ("gpt2", "similarity"): {"task": 2},
    ("bert", "multiple-choice"): {"task": 2},
    ("gpt2", "multiple-choice"): {"task": 2},
    ("bert", "token-classification"): {"task": 6},
    ("gpt2", "token-classification"): {"task": 6},
    ("bert", "question-answering"): {"task": 3},
    ("gpt2", "question-answering"): {"task": 3},
}
CASES = pytest.mark.parametrize(("family", "purpose"), list(COUNTS), ids=["-".join(case) for case in COUNTS])


def model_and_batch(family: str, purpose: str) -> tuple[Any, PackedBatch]:
    torch.manual_seed(0)
    targets = dict(TARGETS[purpose])
    if family == "gpt2":
        targets.pop("next_sentence_label", None)
    model = architecture(family, purpose)(peers.our_config(family)).eval()
    return model, PackedBatch.from_sequences(SEQUENCES, **targets)


@CASES
def test_counts_and_agreement_with_forward(family: str, purpose: str) -> None:
    model, batch = model_and_batch(family, purpose)
    terms = model.loss_terms(batch)
    assert {name: int(term.count) for name, term in terms.items()} == COUNTS[family, purpose]
    assert {name: int(count) for name, count in model.target_counts(batch).items()} == COUNTS[family, purpose]
    for term in terms.values():
        assert term.sum.shape == term.count.shape == ()
        assert term.sum.dtype == torch.float32
    torch.testing.assert_close(sum(term.mean() for term in terms.values()), model(batch).loss)


@CASES
def test_no_target_at_all_is_zero_with_a_gradient_path(family: str, purpose: str) -> None:
    model, batch = model_and_batch(family, purpose)
    empty: dict[str, Any] = {
        name: torch.full_like(value, -100)
        for name in ("labels", "next_sentence_label", "start_positions", "end_positions")
        if (value := getattr(batch, name)) is not None
    }
    batch = dataclasses.replace(batch, **empty)
    terms = model.loss_terms(batch)
    loss = sum(term.mean() for term in terms.values())
    assert loss == 0
    assert model(batch).loss == 0
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and (gradient == 0).all() for gradient in gradients)


@CASES
def test_missing_targets_are_named(family: str, purpose: str) -> None:
    model, batch = model_and_batch(family, purpose)
    bare = dataclasses.replace(batch, labels=None, next_sentence_label=None, start_positions=None, end_positions=None)
    assert model(bare).loss is None
    if (family, purpose) == ("gpt2", "pretraining"):  # language modelling predicts its own input
        assert int(model.loss_terms(bare)["lm"].count) == 6
        return
    for function in (model.loss_terms, model.target_counts):
        with pytest.raises(ValueError, match=f"{type(model).__name__}: the batch has no"):
            function(bare)


def test_the_target_that_is_none_is_torchs() -> None:
    assert inspect.signature(F.cross_entropy).parameters["ignore_index"].default == IGNORE_INDEX


WRONG_TARGETS: list[tuple[str, str, dict[str, Any], str]] = [
    ("bert", "classification", {"labels": [1]}, r"labels must be \(4,\), one for each sequence, got shape \(1,\)"),
    ("bert", "classification", {"labels": [1, 7, 0, 1]}, r"labels must be -100 \(none\) or lie in \[0, 2\), got 7"),
    ("gpt2", "classification", {"labels": [1, -1, 0, 1]}, r"labels must be -100 \(none\) or lie in \[0, 2\), got -1"),
    (
        "bert",
        "classification",
        {"labels": [[0.5]]},
        r"labels must be \(4, 2\) .* multi-label-classification, got .*1, 1",
    ),
    ("gpt2", "similarity", {"labels": [1, 0, 1, 0]}, r"labels must be \(2,\), one for each sequence, got shape \(4,\)"),
    ("bert", "multiple-choice", {"labels": [1, 0, 1, 0]}, r"labels must be \(2,\), one for each question, got"),
    ("gpt2", "multiple-choice", {"labels": [1, 2]}, r"labels must be -100 \(none\) or lie in \[0, 2\), got 2"),
    (
        "bert",
        "token-classification",
        {"labels": [1, 0]},
        r"labels must be \(10,\), one for each token, got shape \(2,\)",
    ),
    ("bert", "token-classification", {"labels": [2] * 10}, r"labels must be -100 .* \[0, 2\), got 2"),
    ("bert", "masked-lm", {"labels": [5] * 9}, r"labels must be \(10,\), one for each token, got shape \(9,\)"),
    ("bert", "pretraining", {"labels": [61] * 10}, r"labels must be -100 \(none\) or lie in \[0, 61\), got 61"),
    ("bert", "pretraining", {"next_sentence_label": [0, 1, 2, 0]}, r"next_sentence_label must .* \[0, 2\), got 2"),
    ("bert", "pretraining", {"next_sentence_label": [0]}, r"next_sentence_label must be \(4,\), one for each sequence"),
    ("gpt2", "pretraining", {"labels": [5] * 9}, r"labels must be \(10,\), one for each token, got shape \(9,\)"),
    ("gpt2", "pretraining", {"labels": [-3] * 10}, r"labels must be -100 \(none\) or lie in \[0, 61\), got -3"),
    ("gpt2", "question-answering", {"end_positions": [1]}, r"end_positions must be \(4,\), one for each sequence, got"),
]


@pytest.mark.parametrize(("family", "purpose", "targets", "sentence"), WRONG_TARGETS)
def test_wrong_targets_are_named(family: str, purpose: str, targets: dict[str, Any], sentence: str) -> None:
    model, batch = model_and_batch(family, purpose)
    wrong: dict[str, Any] = {name: torch.tensor(value) for name, value in targets.items()}
    batch = dataclasses.replace(batch, **wrong)
    for function in (model, model.loss_terms):
        with pytest.raises(ValueError, match=sentence):
            function(batch)


def test_classes_are_whole_numbers() -> None:
    model = architecture("bert", "token-classification")(peers.our_config("bert"))
    with pytest.raises(TypeError, match=r"labels must be classes of type torch\.int64, got torch\.float32"):
        model(torch.ones(1, 2, dtype=torch.long), labels=torch.ones(1, 2))


def test_regression_needs_a_number_for_each_sequence() -> None:
    model = architecture("bert", "classification")(peers.our_config("bert", num_labels=1))
    with pytest.raises(ValueError, match=r"labels must be \(2, 1\) .* for regression, got shape \(3,\)"):
        model(torch.ones(2, 3, dtype=torch.long), labels=torch.ones(3))


def test_next_token_targets_literally() -> None:
    ids = torch.tensor([1, 2, 3, 4, 5, 6, 7])
    cu_seqlens = torch.tensor([0, 0, 3, 4, 4, 6], dtype=torch.int32)  # the seventh row is past the end
    assert next_token_targets(ids, cu_seqlens).tolist() == [2, 3, -100, -100, 6, -100, -100]
    assert next_token_targets(ids[:0], torch.zeros(1, dtype=torch.int32)).tolist() == []


@pytest.mark.parametrize("purpose", ["classification", "token-classification", "multiple-choice", "similarity"])
def test_auxiliary_lm_is_a_mean_per_sequence(purpose: str) -> None:
    model, batch = model_and_batch("gpt2", purpose)
    terms = model.loss_terms(batch, auxiliary_lm=True)
    counts = model.target_counts(batch, auxiliary_lm=True)
    assert list(terms) == ["task", "lm"]
    assert int(terms["lm"].count) == int(counts["lm"]) == 3  # the text of one token predicts nothing
    hidden = model.transformer(batch)[0]
    logits = hidden @ model.transformer.embeddings.tokens.weight.T
    expected = 0.0
    for start, stop in ((0, 4), (5, 8), (8, 10)):
        losses = -F.log_softmax(logits[start : stop - 1].double(), -1)
        expected += losses.gather(1, batch.input_ids[start + 1 : stop, None]).mean().item()
    assert terms["lm"].sum.item() == pytest.approx(expected, rel=1e-5)
    assert terms["task"].sum.item() == pytest.approx(model.loss_terms(batch)["task"].sum.item())


def test_auxiliary_lm_is_for_gpts_task_heads() -> None:
    for family, purpose in (("bert", "classification"), ("bert", "pretraining"), ("gpt2", "pretraining")):
        model, batch = model_and_batch(family, purpose)
        for function in (model.loss_terms, model.target_counts):
            with pytest.raises(ValueError, match="auxiliary_lm"):
                function(batch, auxiliary_lm=True)


def test_vocabulary_scores_only_where_something_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    for family in ("bert", "gpt2"):
        model, batch = model_and_batch(family, "pretraining")
        forward = model.lm_head.forward

        def counting(x: Tensor, table: Tensor, forward: Any = forward) -> Any:
            rows.append(x.shape[0])
            return forward(x, table)

        monkeypatch.setattr(model.lm_head, "forward", counting)
        model.loss_terms(batch)
    assert rows == [4, 3]


@pytest.mark.parametrize("nothing", [False, True])
def test_very_many_scores_are_not_kept_and_the_loss_is_the_same(nothing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_and_batch("gpt2", "pretraining")
    if nothing:
        batch = dataclasses.replace(batch, labels=torch.full_like(batch.input_ids, -100))
    found = []
    for limit in (10**9, 0):
        monkeypatch.setattr("fastbert.models.gpt.MANY_SCORES", limit)
        term = model.loss_terms(batch)["lm"]
        found.append((term.sum, term.count, *torch.autograd.grad(term.sum, list(model.parameters()))))
    for kept, computed_again in zip(*found, strict=True):
        torch.testing.assert_close(computed_again, kept)


def test_regression_sums_squares_and_several_labels_sum_cross_entropies() -> None:
    torch.manual_seed(0)
    numbers = torch.tensor([0.5, -1.0, 2.0, 0.0])
    model: PretrainedModel = architecture("bert", "classification")(peers.our_config("bert", num_labels=1)).eval()
    batch = PackedBatch.from_sequences(SEQUENCES, labels=numbers)
    term = model.loss_terms(batch)["task"]
    assert term.sum.item() == pytest.approx(((model(batch).logits[:, 0] - numbers) ** 2).sum().item(), rel=1e-5)
    assert int(term.count) == int(model.target_counts(batch)["task"]) == 4

    model = architecture("bert", "classification")(peers.our_config("bert", num_labels=3)).eval()
    batch = PackedBatch.from_sequences(SEQUENCES, labels=torch.eye(4, 3))
    term = model.loss_terms(batch)["task"]
    probability = torch.sigmoid(model(batch).logits.double())
    expected = -torch.where(torch.eye(4, 3) > 0, probability, 1 - probability).log().sum()
    assert term.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(term.count) == int(model.target_counts(batch)["task"]) == 12


def test_a_term_of_nothing_has_mean_zero() -> None:
    assert LossTerm(torch.tensor(0.0), torch.tensor(0)).mean() == 0
    assert LossTerm(torch.tensor(6.0), torch.tensor(4)).mean() == 1.5
