"""The same weights and inputs give what transformers gives: outputs, losses and gradients, loading both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_peers as peers
import pytest
import torch
import transformers
from torch import Tensor

from fastbert.models import BertForSequenceClassification, BertModel, GPTModel, PretrainedModel


def over(pairs: list[tuple[str, type[PretrainedModel], str]]) -> pytest.MarkDecorator:
    ids = [f"{family}-{ours.purpose}" for family, ours, _ in pairs]
    return pytest.mark.parametrize(("family", "ours", "theirs"), pairs, ids=ids)


CLASSES = over(peers.PAIRS)
HEADS = over([pair for pair in peers.PAIRS if pair[1].purpose != "model"])


OUR_BODY: dict[str, type[PretrainedModel]] = {"bert": BertModel, "openai-gpt": GPTModel, "gpt2": GPTModel}
THEIR_BODY = {"bert": "BertModel", "openai-gpt": "OpenAIGPTModel", "gpt2": "GPT2Model"}


def choices(ours: type[PretrainedModel]) -> int | None:
    return 2 if ours.purpose == "multiple-choice" else None


def assert_close(actual: Tensor, expected: Tensor, mask: Tensor | None = None) -> None:
    if mask is not None and actual.shape[: mask.dim()] == mask.shape:
        actual, expected = actual[mask.bool()], expected[mask.bool()]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def their_arguments(family: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT's own default positions ignore the mask, so it is told the positions."""
    if family == "bert":
        return inputs
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return {**inputs, "position_ids": positions}


@CLASSES
def test_outputs_equal_theirs(family: str, ours: type[PretrainedModel], theirs: str, tmp_path: Path) -> None:
    mine, reference = peers.pair(family, ours, theirs, tmp_path)
    inputs = peers.padded_inputs(family, choices=choices(ours))
    with torch.no_grad():
        expected = reference(**their_arguments(family, inputs), output_hidden_states=True)
        actual = mine(**inputs, output_hidden_states=True)
    mask = inputs["attention_mask"]
    names = [name for name in expected if name not in ("past_key_values", "cache", "hidden_states")]
    assert names == [name for name in actual if name != "hidden_states"]
    for name in names:
        assert actual[name].shape == expected[name].shape
        assert_close(actual[name], expected[name], mask)
    assert len(actual.hidden_states) == len(expected.hidden_states) == peers.LAYERS + 1
    rows_mask = mask.view(-1, mask.shape[-1])
    for mine_state, their_state in zip(actual.hidden_states, expected.hidden_states, strict=True):
        assert_close(mine_state, their_state, rows_mask)


@HEADS
def test_losses_and_gradients_equal_theirs(family: str, ours: Any, theirs: str, tmp_path: Path) -> None:
    mine, reference = peers.pair(family, ours, theirs, tmp_path)
    inputs = peers.padded_inputs(family, choices=choices(ours))
    if ours.purpose == "question-answering":  # their softmax over positions includes the padding
        inputs = {name: value[:1] for name, value in inputs.items()}
    targets = {
        name: value[: inputs["input_ids"].shape[0]] for name, value in peers.targets_for(ours.purpose, inputs).items()
    }
    actual = mine(**inputs, **targets).loss
    expected = reference(**their_arguments(family, inputs), **targets).loss
    assert_close(actual, expected)

    actual.backward()
    expected.backward()
    # Written as checkpoints, gradients can be compared under one set of names.
    for model in (mine, reference):
        for parameter in model.parameters():
            parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    mine.save_pretrained(tmp_path / "mine")
    back = getattr(transformers, theirs).from_pretrained(tmp_path / "mine")
    gradients = dict(back.named_parameters())
    assert gradients.keys() == dict(reference.named_parameters()).keys()
    for name, parameter in reference.named_parameters():
        assert_close(gradients[name], parameter)


@CLASSES
def test_our_checkpoint_loads_there(family: str, ours: type[PretrainedModel], theirs: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    mine = ours(peers.our_config(family, pad_token_id=0)).eval()
    mine.save_pretrained(tmp_path)
    reference, report = getattr(transformers, theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    inputs = peers.padded_inputs(family, choices=choices(ours))
    with torch.no_grad():
        expected = reference.eval()(**their_arguments(family, inputs))
        actual = mine(**inputs)
    for name in (name for name in expected if name not in ("past_key_values", "cache")):
        assert_close(actual[name], expected[name], inputs["attention_mask"])


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_left_padding_counts_positions_from_the_mask(family: str, tmp_path: Path) -> None:
    mine, reference = peers.pair(family, OUR_BODY[family], THEIR_BODY[family], tmp_path)
    inputs = peers.padded_inputs(family, side="left")
    mask = inputs["attention_mask"]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = reference(**inputs, position_ids=positions).last_hidden_state
        actual = mine(**inputs).last_hidden_state
    assert_close(actual, expected, mask)
    assert torch.equal(actual[mask == 0], torch.zeros_like(actual[mask == 0]))


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_inputs_embeds_and_given_positions(family: str, tmp_path: Path) -> None:
    mine, reference = peers.pair(family, OUR_BODY[family], THEIR_BODY[family], tmp_path)
    torch.manual_seed(5)
    embeds = torch.randn(2, 6, peers.HIDDEN)
    positions = torch.tensor([[3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        expected = reference(inputs_embeds=embeds, position_ids=positions).last_hidden_state
        actual = mine(inputs_embeds=embeds, position_ids=positions).last_hidden_state
    assert_close(actual, expected)


@pytest.mark.parametrize("family", ["openai-gpt", "gpt2"])
def test_gpt_looks_segments_up_among_the_tokens(family: str, tmp_path: Path) -> None:
    mine, reference = peers.pair(family, OUR_BODY[family], THEIR_BODY[family], tmp_path)
    ids, segments = torch.tensor([[7, 8, 9]]), torch.tensor([[5, 5, 6]])
    with torch.no_grad():
        expected = reference(input_ids=ids, token_type_ids=segments).last_hidden_state
        actual = mine(input_ids=ids, token_type_ids=segments).last_hidden_state
    assert_close(actual, expected)


@pytest.mark.parametrize(
    "labels",
    [[0.5, -1.0, 2.0], [0, 2, 1], [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]],
    ids=["regression", "single_label", "multi_label"],
)
def test_problem_types_are_chosen_as_theirs_are(labels: list[Any], tmp_path: Path) -> None:
    num_labels = 1 if labels[0] == 0.5 else 3
    model = peers.their_model("bert", "BertForSequenceClassification", num_labels=num_labels)
    model.save_pretrained(tmp_path)
    mine = BertForSequenceClassification.from_pretrained(tmp_path)
    inputs, targets = peers.padded_inputs("bert"), torch.tensor(labels)
    assert_close(mine(**inputs, labels=targets).loss, model(**inputs, labels=targets).loss)
