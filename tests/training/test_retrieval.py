"""Sentence embeddings are learned from pairs: which words answer which is only in the data."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import task_data as data

from fastbert import FinetuneConfig, embed_texts, finetune
from fastbert.data import Tokenizer
from fastbert.inference import PredictConfig, predict
from fastbert.models import load_pretrained
from fastbert.training.tasks import task_named
from fastbert.training.tasks.retrieval import RetrievalPrediction

# Each word has another one that stands for it; no text shares a word with its partner.
WORDS = {f"{a}{b}": f"{b}{a}x" for a in ("ka", "lo", "mi", "nu", "pe") for b in ("ra", "so", "ti", "vu")}
PAIR_COLUMNS = {"text_column": "question", "text_pair_column": "answer"}


def write_pairs(path: Path, count: int, seed: int) -> Path:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = draw.sample(sorted(WORDS), 4)
        rows.append({"question": " ".join(words), "answer": " ".join(draw.sample([WORDS[w] for w in words], 4))})
    return data.write_csv(path, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_partners_are_found(family: str, tmp_path: Path) -> None:
    train = write_pairs(tmp_path / "train.csv", 256, 0)
    held_out = write_pairs(tmp_path / "held-out.csv", 64, 1)
    model = data.small_model(family, [*WORDS, *WORDS.values()], tmp_path / "model")
    result = finetune(
        FinetuneConfig(
            model=str(model),
            output=str(tmp_path / "run"),
            task="retrieval",
            train=str(train),
            validation=str(held_out),
            epochs=12,
            learning_rate=2e-3,
            tokens_per_batch=1024,
            max_length=32,
            precision="fp32",
            log_to="none",
            lm_weight=0.0,
            **PAIR_COLUMNS,
        )
    )
    assert result.initial["accuracy"] < 0.2
    assert result.final["accuracy"] > 0.5  # among 64; chance is 0.016
    assert result.final["mrr"] >= result.final["accuracy"]

    output = tmp_path / "found.csv"
    predictions = predict(PredictConfig(str(tmp_path / "run"), str(held_out), str(output), **PAIR_COLUMNS))
    with held_out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    model_, tokenizer = load_pretrained(tmp_path / "run", "embedding"), Tokenizer.load(tmp_path / "run")
    texts, partners = (embed_texts(model_, tokenizer, [row[name] for row in rows]) for name in ("question", "answer"))
    similarities = texts @ partners.T
    np.testing.assert_allclose([p.similarity for p in predictions], similarities.diagonal(), atol=1e-5)
    found = float((similarities.argmax(1) == np.arange(len(rows))).mean())
    assert result.final["accuracy"] == pytest.approx(found, abs=1 / len(rows))
    assert output.read_text(encoding="utf-8").startswith("similarity,rank\n")


def test_ranks_and_their_means() -> None:
    task = task_named("retrieval")
    vectors = [np.array(pair, np.float32) for pair in ([[1, 0], [1, 0]], [[0, 1], [0.6, 0.8]], [[0, 1], [0, 1]])]
    predictions = task.predict([None] * 3, None, vectors, None)
    assert [p.rank for p in predictions] == [1, 2, 1]
    metrics = task.measure([None] * 3, predictions, None)
    assert metrics == {"accuracy": pytest.approx(2 / 3), "mrr": pytest.approx((1 + 0.5 + 1) / 3)}


def test_a_model_that_finds_all_alike_finds_nothing() -> None:
    vectors = [np.array([[1, 0], [1, 0]], np.float32)] * 5
    assert task_named("retrieval").predict([None] * 5, None, vectors, None) == [RetrievalPrediction(5, 1.0)] * 5


def test_pairs_are_needed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text_pair_column is None; allowed: the column of the text that"):
        finetune(FinetuneConfig("model", str(tmp_path / "run"), task="retrieval", train="pairs.csv", log_to="none"))
