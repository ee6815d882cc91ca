"""Small text to train on: sentences with a grammar, and labels that the words decide."""

from __future__ import annotations

import csv
import random

import pytest

_SUBJECTS = ("the cat", "a dog", "my neighbour", "the old king", "her teacher", "a small bird")
_VERBS = ("sees", "likes", "follows", "paints", "forgets", "carries")
_OBJECTS = ("the river", "a red house", "some bread", "an open door", "the long road", "a letter")
_GOOD = ("wonderful", "brilliant", "charming", "superb")
_BAD = ("dreadful", "boring", "clumsy", "awful")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Token caches go to the test's own directory."""
    monkeypatch.setenv("FASTBERT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path):
    """A .txt corpus: 40 documents of 6 sentences."""
    draw = random.Random(0)
    documents = [
        "\n".join(f"{draw.choice(_SUBJECTS)} {draw.choice(_VERBS)} {draw.choice(_OBJECTS)}." for _ in range(6))
        for _ in range(40)
    ]
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def reviews(tmp_path):
    """Two CSV files, train (64) and validation (32): the adjective decides the label."""
    draw = random.Random(1)
    paths = []
    for name, count in (("train", 64), ("validation", 32)):
        rows = []
        for i in range(count):
            words = (_GOOD, _BAD)[i % 2]
            rows.append((f"{draw.choice(_SUBJECTS)} was {draw.choice(words)} today", ("good", "bad")[i % 2]))
        path = tmp_path / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
        paths.append(path)
    return paths
