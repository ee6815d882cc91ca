"""Exact match and F1 of answers, as SQuAD's two evaluation scripts define them (Rajpurkar et al. 2016 and 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, without English articles, white space as single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(found: str, right: str) -> float:
    """1 where both are the same once they are normalised."""
    return float(normalised(found) == normalised(right))


def f1(found: str, right: str) -> float:
    """Harmonic mean of precision and recall in words; of no words at all, whether both have none."""
    a, b = normalised(found).split(), normalised(right).split()
    if not a or not b:
        return float(a == b)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b))


def best_of(score: Callable[[str, str], float], found: str, right: Sequence[str]) -> float:
    """The best score against any of the right answers; no answer is right where there are none, "" itself."""
    return max(score(found, answer) for answer in [text for text in right if normalised(text)] or [""])


def best_threshold(
    scores: Sequence[float], answerable: Sequence[bool], differences: Sequence[float]
) -> tuple[float, float]:
    """The best mean score over all thresholds, and the threshold: questions beyond it are left without an answer.

    Args:
        scores: of every question's best answer.
        answerable: whether it has an answer; one without scores 1 where none is given and 0 where one is.
        differences: score of no answer minus that of the best answer.
    """
    score = float(len(answerable) - sum(answerable))
    best, threshold = score, min(differences) - 1.0
    for i in sorted(range(len(scores)), key=lambda i: differences[i]):
        score += scores[i] if answerable[i] else -1.0
        if score > best:
            best, threshold = score, differences[i]
    return best / len(scores), threshold
