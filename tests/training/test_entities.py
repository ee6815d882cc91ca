"""Entity counts against conlleval's own rules, written out as its tables of transitions."""

from __future__ import annotations

import random

import pytest

from fastbert.training.tasks.entities import Entity, entities, entity_scores, marks_entities


def conlleval_counts(gold: list[list[str]], guessed: list[list[str]]) -> tuple[int, int, int]:
    """(right, guessed, gold) chunks as conlleval.pl counts them: token by token, by what ends and what starts.

    A chunk ends where the previous tag was inside one and the tag is B or O or of another type; one starts at B, and at
    I after O or after another type. Sentences are closed by O.
    """

    def split(tag: str) -> tuple[str, str]:
        return (tag[0], tag[2:]) if tag != "O" else ("O", "")

    def ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
        pairs = {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")}
        return (before[0], now[0]) in pairs or (before[0] != "O" and before[1] != now[1])

    def starts(before: tuple[str, str], now: tuple[str, str]) -> bool:
        pairs = {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")}
        return (before[0], now[0]) in pairs or (now[0] != "O" and before[1] != now[1])

    right = found = wanted = 0
    inside = False  # a chunk that is right so far
    for gold_tags, guessed_tags in zip(gold, guessed, strict=True):
        last_gold = last_guess = ("O", "")
        for gold_tag, guess_tag in zip([*gold_tags, "O"], [*guessed_tags, "O"], strict=True):
            now_gold, now_guess = split(gold_tag), split(guess_tag)
            gold_ends, guess_ends = ends(last_gold, now_gold), ends(last_guess, now_guess)
            if inside:
                if gold_ends and guess_ends and last_gold[1] == last_guess[1]:
                    inside, right = False, right + 1
                elif gold_ends != guess_ends or now_gold[1] != now_guess[1]:
                    inside = False
            gold_starts, guess_starts = starts(last_gold, now_gold), starts(last_guess, now_guess)
            if gold_starts and guess_starts and now_gold[1] == now_guess[1]:
                inside = True
            wanted += gold_starts
            found += guess_starts
            last_gold, last_guess = now_gold, now_guess
    return right, found, wanted


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O", [("PER", 0, 2)]),
        ("I-PER I-PER O", [("PER", 0, 2)]),  # IOB1
        ("I-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),  # IOB1: B parts neighbours of one type
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("O I-LOC O B-LOC", [("LOC", 1, 2), ("LOC", 3, 4)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == {Entity(*entity) for entity in expected}


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_conllevals(seed: int) -> None:
    draw = random.Random(seed)
    choices = ("O", "O", "B-X", "I-X", "B-Y", "I-Y")
    gold = [[draw.choice(choices) for _ in range(draw.randrange(1, 12))] for _ in range(30)]
    guessed = [[draw.choice((tag, tag, draw.choice(choices))) for tag in sentence] for sentence in gold]
    right, found, wanted = conlleval_counts(gold, guessed)
    assert 0 < right < min(found, wanted)
    scores = entity_scores(guessed, gold)
    assert scores["precision"] == pytest.approx(right / found)
    assert scores["recall"] == pytest.approx(right / wanted)
    assert scores["f1"] == pytest.approx(2 * right / (found + wanted))


def test_nothing_found_is_zero() -> None:
    assert entity_scores([["O"]], [["B-X"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}
    assert entity_scores([["O"]], [["O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_which_tags_mark_entities() -> None:
    assert marks_entities(["O", "B-PER", "I-PER"])
    assert marks_entities(["I-PER", "O"])
    assert not marks_entities(["O"])
    assert not marks_entities(["NNP", "VBZ", "O"])
    assert not marks_entities(["B-PER", "S-PER", "O"])
