"""Padded and packed calls agree, padding reaches nothing, and wrong input is refused with a sentence."""

from __future__ import annotations

from typing import Any

import huggingface_peers as peers
import pytest
import torch
from torch import Tensor

from fastbert.models import (
    BertForMultipleChoice,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    GPTForPreTraining,
    GPTForSequenceClassification,
    GPTForSimilarity,
    GPTModel,
    architecture,
)
from fastbert.models.inputs import pack_inputs
from fastbert.packing import PackedBatch

SEQUENCES = [[7, 8, 9, 10], [11], [12, 13, 14]]


def packed(**targets: Any) -> PackedBatch:
    return PackedBatch.from_sequences(SEQUENCES, **targets)


def padded(side: str = "right") -> dict[str, Tensor]:
    ids, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.long)
    for row, tokens in enumerate(SEQUENCES):
        columns = slice(0, len(tokens)) if side == "right" else slice(6 - len(tokens), 6)
        ids[row, columns] = torch.tensor(tokens)
        mask[row, columns] = 1
    return {"input_ids": ids, "attention_mask": mask}


def body(family: str) -> Any:
    torch.manual_seed(0)
    return architecture(family, "model")(peers.our_config(family)).eval()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", peers.FAMILIES)
def test_packed_equals_padded(family: str, side: str) -> None:
    model = body(family)
    inputs = padded(side)
    expected = model(packed(), output_hidden_states=True)
    actual = model(**inputs, output_hidden_states=True)
    keep = inputs["attention_mask"].bool()
    torch.testing.assert_close(actual.last_hidden_state[keep], expected.last_hidden_state, atol=1e-6, rtol=1e-6)
    assert (actual.last_hidden_state[~keep] == 0).all()
    assert actual.hidden_states[1].shape == (3, 6, peers.HIDDEN)
    assert expected.hidden_states[1].shape == (8, peers.HIDDEN)


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_sequences_of_a_batch_do_not_see_each_other(family: str) -> None:
    model = body(family)
    together = model(packed()).last_hidden_state
    apart = [model(PackedBatch.from_sequences([tokens])).last_hidden_state for tokens in SEQUENCES]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_what_a_token_sees(family: str) -> None:
    """BERT's first token depends on the last one, GPT's does not; both ways round the last depends on the first."""
    model = body(family)
    base = model(torch.tensor([[7, 8, 9]])).last_hidden_state[0]
    late = model(torch.tensor([[7, 8, 30]])).last_hidden_state[0]
    early = model(torch.tensor([[30, 8, 9]])).last_hidden_state[0]
    assert torch.equal(base[0], late[0]) == model.config.causal
    assert not torch.equal(base[2], early[2])


@pytest.mark.parametrize("purpose", ["model", "classification", "question-answering", "pretraining"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_rows_of_nothing_but_padding_return_zeros(family: str, purpose: str) -> None:
    torch.manual_seed(0)
    model = architecture(family, purpose)(peers.our_config(family))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = padded()
    inputs["attention_mask"][1] = 0
    for name, value in model(**inputs).items():
        assert (value[1] == 0).all(), name
        assert torch.isfinite(value).all(), name
        assert (value[0] != 0).any(), name


def test_a_batch_of_padding_only() -> None:
    model = BertForPreTraining(peers.our_config("bert"))
    output = model(torch.zeros(2, 3, dtype=torch.long), attention_mask=torch.zeros(2, 3, dtype=torch.long))
    assert output.prediction_logits.shape == (2, 3, peers.VOCAB)
    assert (output.prediction_logits == 0).all()


def test_question_answering_counts_columns_from_the_first_token() -> None:
    torch.manual_seed(0)
    model = BertForQuestionAnswering(peers.our_config("bert")).eval()
    losses = []
    for side, shift in (("right", torch.zeros(3, dtype=torch.long)), ("left", torch.tensor([2, 5, 3]))):
        start, end = torch.tensor([1, 0, 2]) + shift, torch.tensor([3, 0, 2]) + shift
        losses.append(model(**padded(side), start_positions=start, end_positions=end).loss)
    batch = packed(start_positions=torch.tensor([1, 0, 2]), end_positions=torch.tensor([3, 0, 2]))
    losses.append(model.loss_terms(batch)["task"].mean())
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


def test_question_answering_never_points_into_the_padding() -> None:
    torch.manual_seed(0)
    model = BertForQuestionAnswering(peers.our_config("bert")).eval()
    with torch.no_grad():
        model.qa_outputs.linear.bias.fill_(-50.0)  # every real score is far below zero
    output = model(**padded())
    assert (output.start_logits.argmax(-1) < torch.tensor([4, 1, 3])).all()
    outside = model(**padded(), start_positions=torch.tensor([5, 1, -1]), end_positions=torch.tensor([5, 1, 0]))
    assert outside.loss == 0


def test_multiple_choice_and_similarity_group_consecutive_sequences() -> None:
    torch.manual_seed(0)
    ids = torch.randint(5, peers.VOCAB, (2, 2, 4))
    sequences = ids.view(4, 4).tolist()
    choice = BertForMultipleChoice(peers.our_config("bert")).eval()
    torch.testing.assert_close(choice(ids).logits, choice(PackedBatch.from_sequences(sequences, num_choices=2)).logits)
    assert choice(ids).logits.shape == (2, 2)
    alike = GPTForSimilarity(peers.our_config("openai-gpt", num_labels=1)).eval()
    logits = alike(ids).logits
    assert logits.shape == (2, 1)
    torch.testing.assert_close(logits, alike(ids.flip(1)).logits)  # the order of the pair does not matter
    # From the definition: the two last vectors are added before the linear layer.
    hidden = alike.transformer(PackedBatch.from_sequences(sequences))[0]
    both = hidden[3::4].view(2, 2, -1).sum(1)
    torch.testing.assert_close(logits, alike.classifier.linear(both))
    with pytest.raises(ValueError, match="num_choices must be 2, got 1"):
        alike(PackedBatch.from_sequences(sequences))
    with pytest.raises(ValueError, match="4 sequences of the batch do not divide into groups of num_choices 3"):
        choice(PackedBatch.from_sequences(sequences, num_choices=3))


def test_gpt_classifies_by_the_last_token_and_bert_by_the_first() -> None:
    torch.manual_seed(0)
    gpt: Any = GPTForSequenceClassification(peers.our_config("openai-gpt")).eval()
    hidden = gpt.transformer(packed())[0]
    torch.testing.assert_close(gpt(packed()).logits, gpt.classifier.linear(hidden[[3, 4, 7]]))
    bert: Any = BertForSequenceClassification(peers.our_config("bert")).eval()
    hidden = bert.transformer(packed())[0]
    pooled = torch.tanh(bert.summary.dense(hidden[[0, 4, 5]]))
    torch.testing.assert_close(bert(packed()).logits, bert.classifier.linear(pooled))


def test_too_long_says_the_length_and_the_limit() -> None:
    model = body("bert")
    with pytest.raises(ValueError, match=r"a sequence has 25 tokens, the model has 24 positions"):
        model(torch.ones(1, 25, dtype=torch.long))
    # A padded width or a bucket beyond the limit is no error while the sequences themselves fit.
    mask = torch.zeros(1, 40, dtype=torch.long)
    mask[:, :24] = 1
    assert model(torch.ones(1, 40, dtype=torch.long), attention_mask=mask).last_hidden_state.shape == (
        1,
        40,
        peers.HIDDEN,
    )


def test_ids_outside_their_tables() -> None:
    bert, gpt = body("bert"), body("gpt2")
    with pytest.raises(ValueError, match=r"input_ids must lie in \[0, 61\), got 61"):
        bert(torch.tensor([[1, 61]]))
    with pytest.raises(ValueError, match=r"input_ids must lie in \[0, 61\), got -1"):
        gpt(torch.tensor([[1, -1]]))
    with pytest.raises(ValueError, match=r"token_type_ids must lie in \[0, 2\), got 2"):
        bert(torch.tensor([[1, 2]]), token_type_ids=torch.tensor([[0, 2]]))
    with pytest.raises(ValueError, match=r"position_ids must lie in \[0, 24\), got 24"):
        bert(torch.tensor([[1, 2]]), position_ids=torch.tensor([[0, 24]]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "give either input_ids or inputs_embeds"),
        ({"input_ids": torch.ones(1, 2), "inputs_embeds": torch.ones(1, 2, 4)}, "give either"),
        ({"input_ids": torch.ones(3)}, r"input_ids must be \(batch, seq\), got shape \(3,\)"),
        ({"inputs_embeds": torch.ones(3, 4)}, r"inputs_embeds must be \(batch, seq, hidden\), got shape \(3, 4\)"),
        ({"input_ids": torch.ones(1, 2), "grouped": True}, r"input_ids must be \(batch, choices, seq\), got"),
        ({"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 3)}, r"attention_mask must have .*\(1, 2\)"),
        ({"input_ids": torch.ones(1, 2), "token_labels": torch.ones(1, 3)}, r"labels must have .*got \(1, 3\)"),
        (
            {"input_ids": torch.ones(1, 6), "position_ids": torch.arange(5)[None]},
            r"position_ids must have the shape of the tokens, \(1, 6\), or be \(6,\) for all rows alike, got \(1, 5\)",
        ),
        ({"input_ids": torch.ones(2, 6), "position_ids": torch.ones(2, 1)}, r"position_ids must .* got \(2, 1\)"),
        ({"input_ids": torch.ones(2, 6), "position_ids": torch.ones(3, 6)}, r"position_ids must .* got \(3, 6\)"),
        ({"input_ids": torch.ones(2, 6), "position_ids": torch.tensor(0)}, r"position_ids must .* got \(\)"),
        (
            {"input_ids": torch.ones(2, 6), "start_positions": torch.tensor([1])},
            r"start_positions must be \(2,\), one for each sequence, got shape \(1,\)",
        ),
        (
            {
                "input_ids": torch.ones(2, 6),
                "attention_mask": torch.ones(2, 6),
                "end_positions": torch.tensor([1, 2, 3]),
            },
            r"end_positions must be \(2,\), one for each sequence, got shape \(3,\)",
        ),
        ({"input_ids": torch.ones(1, 2), "output_attentions": True}, "attention weights are never held"),
        ({"input_ids": packed(), "attention_mask": torch.ones(1, 3)}, "attention_mask must be left out"),
    ],
)
def test_calls_that_make_no_sense(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pack_inputs(arguments.pop("input_ids", None), **arguments)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 6)])
def test_positions_may_be_the_same_for_all_rows(shape: tuple[int, ...]) -> None:
    positions = torch.arange(6).flip(0)
    given = positions.expand(*shape) if len(shape) > 1 else positions
    inputs = pack_inputs(torch.ones(3, 6, dtype=torch.long), position_ids=given)
    assert torch.equal(inputs.batch.position_ids.view(3, 6), positions.expand(3, 6))


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "position_ids", "labels", "start_positions"])
def test_what_is_no_tensor_is_named(name: str) -> None:
    arguments: dict[str, Any] = {"input_ids": torch.ones(1, 2), name: [[1, 1]]}
    with pytest.raises(TypeError, match=f"{name} must be a tensor, got list"):
        pack_inputs(**arguments)


def test_embeddings_of_another_width() -> None:
    with pytest.raises(ValueError, match=f"inputs_embeds must have hidden_size {peers.HIDDEN}, got 31"):
        body("bert")(inputs_embeds=torch.ones(1, 4, 31))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", peers.FAMILIES)
def test_a_forward_without_data(family: str, training: bool) -> None:
    """On the meta device there are shapes and no values."""
    config = peers.our_config(family, hidden_dropout_prob=0.1)
    with torch.device("meta"):
        model = architecture(family, "model")(config).train(training)
        output = model(torch.zeros(2, 6, dtype=torch.long))
    assert output.last_hidden_state.shape == (2, 6, peers.HIDDEN)
    assert output.last_hidden_state.is_meta


def test_a_model_without_a_head_has_no_loss() -> None:
    with pytest.raises(TypeError, match="GPTModel has no head, and so no loss"):
        GPTModel(peers.our_config("gpt2")).loss_terms(packed())
    with pytest.raises(TypeError, match="BertModel has no head, and so no targets"):
        BertModel(peers.our_config("bert")).target_counts(packed())


def test_return_dict_false_gives_a_tuple() -> None:
    model = GPTForPreTraining(peers.our_config("gpt2")).eval()
    ids = torch.tensor([[5, 6, 7]])
    loss, logits = model(ids, labels=ids, return_dict=False)
    assert torch.equal(loss, model(ids, labels=ids).loss)
    assert logits.shape == (1, 3, peers.VOCAB)
