"""Entities in tagged sentences, and how many of them were found: what the CoNLL shared tasks' conlleval counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_ENTITY_TAG = re.compile(r"[BI]-.+")


class Entity(NamedTuple):
    """An entity: its type and its words, ``start`` to ``end`` (exclusive)."""

    type: str
    start: int
    end: int


def marks_entities(tags: Iterable[str]) -> bool:
    """Whether tags are O, B-type and I-type, with at least one of the latter two."""
    named = set(tags) - {"O"}
    return bool(named) and all(_ENTITY_TAG.fullmatch(tag) for tag in named)


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities that a sentence's tags mark.

    One begins at B-type, and at I-type after O or another type; it goes on over I-type. That reads IOB2, where every
    entity begins with B, and IOB1, where B only parts neighbours of one type, and it is conlleval's rule for sequences
    that neither allows (Tjong Kim Sang and Buchholz 2000).
    """
    found: set[Entity] = set()
    current: tuple[str, int] | None = None
    for i, tag in enumerate((*tags, "O")):
        prefix, _, kind = tag.partition("-")
        if current is not None and (prefix != "I" or kind != current[0]):
            found.add(Entity(current[0], current[1], i))
            current = None
        if prefix != "O" and current is None:
            current = kind, i
    return found


def entity_scores(predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of entities over all sentences; one is found where type, start and end agree.

    A ratio with nothing below its line is 0, as in conlleval.
    """
    right = found = wanted = 0
    for predicted_tags, true_tags in zip(predicted, true, strict=True):
        guesses, truths = entities(predicted_tags), entities(true_tags)
        right += len(guesses & truths)
        found += len(guesses)
        wanted += len(truths)
    return {
        "f1": 2 * right / (found + wanted) if right else 0.0,
        "precision": right / found if found else 0.0,
        "recall": right / wanted if wanted else 0.0,
    }
