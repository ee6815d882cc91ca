"""Every task is learned by BERT and by GPT, from files in its own format.

The training files, of 64 records where nothing else is said, are fitted, and held-out files measured; only of pairs,
where untrained models learn no relation from so little, is the fit all that is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import task_data as data

from fastbert import FinetuneConfig, finetune
from fastbert.data import read_choice_questions

SEEDS = [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
FAMILIES = ["bert", "gpt"]


class Case(NamedTuple):
    """A task on small data."""

    task: str
    texts: Callable[[], list[str]]
    write: Callable[[Path, int, int], Path]  # (path, records, seed)
    suffix: str
    epochs: tuple[float, float]  # of BERT and of GPT, which needs fewer: its summary goes through no new layer
    learning_rate: float
    tokens_per_batch: int
    options: dict[str, Any]
    records: int = 64


def scored(path: Path, count: int, seed: int) -> Path:
    return data.write_csv(path, data.scored_texts(count, seed))


def compared(path: Path, count: int, seed: int) -> Path:
    return data.write_csv(path, data.compared_texts(count, seed))


PAIRS = {"text_column": "first", "text_pair_column": "second", "label_column": "same"}
CASES = {
    "entities": Case("tagging", data.conll_texts, data.write_conll, ".conll", (8, 12), 3e-3, 256, {}),
    "parts of speech": Case(
        "tagging", data.conll_texts, data.write_conll, ".conll", (8, 12), 3e-3, 256, {"tag_column": 1}
    ),
    "regression": Case(
        "regression", lambda: scored_words(), scored, ".csv", (40, 20), 1e-3, 256, {"label_column": "score"}
    ),
    "swag": Case("multiple_choice", data.topic_texts, data.write_swag, ".csv", (40, 30), 1e-3, 512, {}),
    "story cloze": Case(
        "multiple_choice", data.topic_texts, data.write_story_cloze, ".csv", (30, 40), 1e-3, 512, {}, 128
    ),
    "race": Case("multiple_choice", data.topic_texts, data.write_race, "", (40, 30), 1e-3, 512, {}),
    "jsonl": Case("multiple_choice", data.topic_texts, data.write_choice_jsonl, ".jsonl", (40, 30), 1e-3, 512, {}),
    "paraphrase": Case("paraphrase", data.topic_texts, compared, ".csv", (100, 50), 1e-3, 256, PAIRS),
    "similarity": Case("similarity", data.topic_texts, compared, ".csv", (100, 50), 1e-3, 256, PAIRS),
}


def scored_words() -> list[str]:
    return [str(row["text"]) for row in data.scored_texts(64, 0)]


def learn(case: Case, family: str, seed: int, tmp_path: Path, **options: Any) -> Any:
    train = case.write(tmp_path / f"train{case.suffix}", case.records, seed)
    held_out = case.write(tmp_path / f"held-out{case.suffix}", 60, seed + 100)
    model = data.small_model(family, case.texts(), tmp_path / "model", seed=seed)
    settings = {
        "model": str(model),
        "output": str(tmp_path / "run"),
        "task": case.task,
        "train": str(train),
        "validation": str(train),
        "test": str(held_out),
        "epochs": case.epochs[FAMILIES.index(family)],
        "eval_every": 10**6,  # once, at the end
        "max_length": 40,
        "tokens_per_batch": case.tokens_per_batch,
        "learning_rate": case.learning_rate,
        "dropout": 0.0,
        "precision": "fp32",
        "log_to": "none",
        "seed": seed,
    }
    return finetune(FinetuneConfig(**settings | case.options | options))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_entities(family: str, seed: int, tmp_path: Path) -> None:
    """Of all words more than half are O: an F1 of 0 for who always says so."""
    result = learn(CASES["entities"], family, seed, tmp_path)
    assert result.initial["f1"] < 0.5
    assert result.final["f1"] == 1.0
    assert result.test["f1"] > 0.95
    assert result.test["precision"] > 0.95
    assert result.test["recall"] > 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_speech(family: str, seed: int, tmp_path: Path) -> None:
    result = learn(CASES["parts of speech"], family, seed, tmp_path)
    assert set(result.final) == {"loss", "accuracy"}
    assert result.final["accuracy"] == 1.0
    assert result.test["accuracy"] > 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_regression(family: str, seed: int, tmp_path: Path) -> None:
    result = learn(CASES["regression"], family, seed, tmp_path)
    assert result.final["pearson"] > 0.95
    assert result.test["pearson"] > 0.8
    assert result.test["spearman"] > 0.8


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "name",
    ["swag", *(pytest.param(name, marks=pytest.mark.slow) for name in ("story cloze", "race", "jsonl"))],
)
def test_multiple_choice(name: str, family: str, seed: int, tmp_path: Path) -> None:
    result = learn(CASES[name], family, seed, tmp_path)
    labels = [question.label for question in read_choice_questions(tmp_path / f"held-out{CASES[name].suffix}")]
    majority = max(labels.count(label) for label in labels) / len(labels)
    assert result.final["accuracy"] > 0.95
    assert result.test["accuracy"] >= majority + 0.1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "metric"), [("paraphrase", "accuracy"), ("similarity", "pearson")])
def test_pairs_are_fitted(name: str, metric: str, family: str, seed: int, tmp_path: Path) -> None:
    result = learn(CASES[name], family, seed, tmp_path)
    assert result.final[metric] > 0.99
