"""Sentence embeddings: pooling and the contrastive loss by their definitions, real weights, and learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_peers as peers
import numpy as np
import pytest
import torch
import transformers

from fastbert.data import Tokenizer
from fastbert.data.samples import minilm_directory
from fastbert.embedding import embed_texts
from fastbert.models import BertForSentenceEmbedding, BertModel, PretrainedModel, architecture, load_pretrained
from fastbert.models.embedding import pool
from fastbert.packing import PackedBatch, cumulative_lengths

TEXTS = [
    "A man is eating food.",
    "Someone eats a meal, slowly and with evident pleasure, in the garden of the old house by the river.",
    "Stocks fell.",
    "한국어 문장, Größe, café",
    "",
]


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_pooling_against_loops(seed: int, how: str) -> None:
    lengths = [3, 1, 0, 5]
    x = torch.randn(9, 4, requires_grad=True)
    found = pool(x, cumulative_lengths(torch.tensor(lengths)), how)
    rows = x.split(lengths)
    wanted = [
        torch.zeros(4) if not len(r) else {"mean": r.sum(0) / len(r), "cls": r[0], "last": r[-1]}[how] for r in rows
    ]
    torch.testing.assert_close(found, torch.stack(wanted))
    weights = torch.randn(4, 4)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), x, retain_graph=True),
        torch.autograd.grad((torch.stack(wanted) * weights).sum(), x),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_real_weights_against_transformers(pooling: str) -> None:
    directory = Path(minilm_directory())
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    reference: Any = transformers.BertModel.from_pretrained(directory).eval()
    with torch.no_grad():
        wanted = []
        for text in TEXTS:
            hidden = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            vector = hidden.mean(0) if pooling == "mean" else hidden[0]
            wanted.append((vector / vector.norm()).numpy())
    model = load_pretrained(directory, "embedding", pooling=pooling)
    found = embed_texts(model, Tokenizer.load(directory), TEXTS, tokens_per_batch=30)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-5)


def test_long_texts_are_cut() -> None:
    directory = minilm_directory()
    model, tokenizer = load_pretrained(directory, "embedding"), Tokenizer.load(directory)
    long, short = "word " * 500, "word " * 8
    found = embed_texts(model, tokenizer, [long, short], max_length=10)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    with pytest.raises(ValueError, match="max_length is 2; allowed: at least 3 tokens"):
        embed_texts(model, tokenizer, ["a"], max_length=2)
    with pytest.raises(TypeError, match="BertModel makes no embeddings"):
        embed_texts(BertModel.from_pretrained(directory), tokenizer, ["a"])


def test_padded_and_packed_are_one(seed: int) -> None:
    model = BertForSentenceEmbedding(peers.our_config("bert", pooling="last")).eval()
    sequences = [[7, 8, 9, 10], [11, 12]]
    packed = model(PackedBatch.from_sequences(sequences)).sentence_embedding
    ids, mask = torch.tensor([[7, 8, 9, 10], [11, 12, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    torch.testing.assert_close(model(ids, mask).sentence_embedding, packed)
    torch.testing.assert_close(packed.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("family", peers.FAMILIES)
@pytest.mark.parametrize("choices", [2, 3])
def test_the_loss_picks_among_all_others(seed: int, family: str, choices: int) -> None:
    model = _build(family)
    sequences = [[5 + (i + j) % 30 for j in range(2 + i % 3)] for i in range(4 * choices)]
    batch = PackedBatch.from_sequences(sequences, num_choices=choices)
    vectors = model(batch).sentence_embedding.view(4, choices, -1)
    wanted = torch.zeros(())
    for i in range(4):
        cosines = [vectors[i, 0] @ vectors[j, c] / 0.05 for j in range(4) for c in range(1, choices)]
        wanted = wanted - torch.stack(cosines).log_softmax(0)[i * (choices - 1)]
    term = model.loss_terms(batch)["task"]
    torch.testing.assert_close(term.sum, wanted)
    assert term.count == model.target_counts(batch)["task"] == 4


def test_sequences_alone_have_no_loss() -> None:
    with pytest.raises(ValueError, match="BertForSentenceEmbedding: the batch has no targets"):
        _build("bert").loss_terms(PackedBatch.from_sequences([[5, 6], [7]]))


@pytest.mark.parametrize("family", peers.FAMILIES)
def test_the_pooling_is_kept(family: str, tmp_path: Path) -> None:
    model = _build(family, pooling="last")
    model.save_pretrained(tmp_path)
    assert load_pretrained(tmp_path, "embedding").config.pooling == "last"
    with pytest.raises(ValueError, match="pooling must be one of mean, cls, last, got 'max'"):
        load_pretrained(tmp_path, "embedding", pooling="max")


@pytest.mark.parametrize("family", ["bert", "openai-gpt"])
def test_contrast_brings_pairs_together(seed: int, family: str) -> None:
    """Each text and its partner share no token: which belong together can only be learnt."""
    model = _build(family).train()
    pairs = [sequence for i in range(16) for sequence in ([5 + i, 6 + i], [25 + i, 24 + i, 25 + i])]
    batch = PackedBatch.from_sequences(pairs, num_choices=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def found() -> float:
        with torch.no_grad():
            vectors = model(batch).sentence_embedding
        return float((vectors[::2] @ vectors[1::2].T).argmax(1).eq(torch.arange(16)).float().mean())

    assert found() < 0.5
    for _ in range(60):
        optimizer.zero_grad()
        model.loss_terms(batch)["task"].mean().backward()
        optimizer.step()
    assert found() == 1.0


def _build(family: str, **overrides: Any) -> PretrainedModel:
    torch.manual_seed(0)
    model: PretrainedModel = architecture(family, "embedding")(peers.our_config(family, **overrides)).eval()
    return model
