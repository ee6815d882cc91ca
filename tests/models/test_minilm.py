"""Real weights: the MiniLM sentence encoder, a BertModel of 6 layers, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fastbert.data.samples import minilm_directory
from fastbert.models import BertForSequenceClassification, BertModel

TEXTS = [
    "A man is eating food.",
    "Someone eats a meal, slowly and with evident pleasure, in the garden of the old house by the river.",
    "Stocks fell.",
]


@pytest.fixture(scope="module")
def directory() -> Path:
    return Path(minilm_directory())


def test_hidden_states_and_similarity(directory: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    reference: Any = transformers.BertModel.from_pretrained(directory)
    reference.eval()
    model = BertModel.from_pretrained(directory)
    assert model.num_parameters() == sum(parameter.numel() for parameter in reference.parameters()) == 22_713_216
    with torch.no_grad():
        expected = reference(**inputs, output_hidden_states=True)
        actual = model(**inputs, output_hidden_states=True)
    keep = inputs["attention_mask"].bool()
    for mine, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[keep], theirs[keep], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-5)
    # What these weights are for: the mean of the token vectors says which sentences are alike.
    vectors = (actual.last_hidden_state * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    assert vectors[0] @ vectors[1] > 0.4 > vectors[0] @ vectors[2]


def test_a_classifier_on_top(directory: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(directory, label2id={"bad": 0, "good": 1})
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "bad", 1: "good"}
    ids = torch.tensor([[101, 2023, 2003, 2204, 102]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
