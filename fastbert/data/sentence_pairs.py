"""The pair algorithm of BERT's pretraining: which stretches of which documents become segments A and B.

After ``create_pretraining_data`` of the code released with Devlin et al. 2018. Segments are stretches of the flat
token ids, so drawing an epoch moves no token; each document has a generator of its own.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastbert.data.randomness import Purpose, generator
from fastbert.data.token_cache import TokenizedCorpus
from fastbert.data.truncation import truncated_lengths

RANDOM_PROBABILITY = 0.5

Bounds = tuple[int, int, int, int]
"""A's first token and the one after its last, then B's, in the corpus's flat ids."""


@dataclass(frozen=True, eq=False)
class SentenceBounds:
    """Sentences of the chosen documents, the overlong ones cut.

    Attributes:
        starts: (sentences,) int64 first token of every sentence in the corpus's flat ids.
        ends: (sentences,) int64 token after its last.
        document_offsets: (num_documents + 1,) int64, in sentences.
    """

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    document_offsets: npt.NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        return self.document_offsets.size - 1

    def of_document(self, document: int) -> tuple[list[int], list[int]]:
        """The starts and the ends of one document's sentences."""
        owned = slice(int(self.document_offsets[document]), int(self.document_offsets[document + 1]))
        return self.starts[owned].tolist(), self.ends[owned].tolist()

    @classmethod
    def from_corpus(cls, corpus: TokenizedCorpus, documents: npt.NDArray[np.int64], room: int) -> SentenceBounds:
        """Take documents by number; sentences above ``room`` tokens become equal pieces of at most half of it."""
        counts = corpus.document_offsets[documents + 1] - corpus.document_offsets[documents]
        first = np.repeat(corpus.document_offsets[documents] - (np.cumsum(counts) - counts), counts)
        sentences = first + np.arange(counts.sum())
        starts, ends = corpus.sentence_offsets[sentences], corpus.sentence_offsets[sentences + 1]
        lengths = ends - starts
        pieces = np.where(lengths > room, -(-lengths // max(1, room // 2)), 1)
        sentence = np.repeat(np.arange(sentences.size), pieces)
        piece = np.arange(sentence.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        owner = np.repeat(np.arange(documents.size), counts)
        offsets = np.zeros(documents.size + 1, dtype=np.int64)
        np.cumsum(np.bincount(owner, weights=pieces, minlength=documents.size).astype(np.int64), out=offsets[1:])
        return cls(
            starts[sentence] + lengths[sentence] * piece // pieces[sentence],
            starts[sentence] + lengths[sentence] * (piece + 1) // pieces[sentence],
            offsets,
        )


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of every example.

    Attributes:
        bounds: (examples, 4) int64: A's first token and the one after its last, then B's; an empty B without pairs.
        is_random: (examples,) bool: B comes from another document.
    """

    bounds: npt.NDArray[np.int64]
    is_random: npt.NDArray[np.bool_]


def draw_segments(
    sentences: SentenceBounds, room: int, *, next_sentence: bool, short_probability: float, seed: int, epoch: int
) -> Segments:
    """Draw one epoch's segments of at most ``room`` tokens together; a pure function of its arguments."""
    bounds: list[Bounds] = []
    is_random: list[bool] = []
    for document in range(sentences.num_documents):
        rng = generator(seed, epoch, document, Purpose.SENTENCE_PAIRS)
        draw = _draw_pairs if next_sentence else _draw_singles
        for bound, random in draw(sentences, document, room, short_probability, rng):
            bounds.append(bound)
            is_random.append(random)
    return Segments(np.array(bounds, dtype=np.int64).reshape(-1, 4), np.array(is_random, dtype=np.bool_))


def _draw_pairs(
    sentences: SentenceBounds, document: int, room: int, short_probability: float, rng: np.random.Generator
) -> Iterator[tuple[Bounds, bool]]:
    starts, ends = sentences.of_document(document)
    chunk = 0
    while chunk < len(starts):
        target = _target_length(room, short_probability, rng)
        stop = _fill(starts, ends, chunk, target)
        size = stop - chunk
        split = chunk + (1 if size == 1 else int(rng.integers(1, size)))
        a = starts[chunk], ends[split - 1]
        is_random = size == 1 or rng.random() < RANDOM_PROBABILITY
        if is_random:
            b = _random_segment(sentences, document, target - (a[1] - a[0]), rng)
            chunk = split
        else:
            b = starts[split], ends[stop - 1]
            chunk = stop
        yield _truncated(a, b, room, rng), is_random


def _draw_singles(
    sentences: SentenceBounds, document: int, room: int, short_probability: float, rng: np.random.Generator
) -> Iterator[tuple[Bounds, bool]]:
    starts, ends = sentences.of_document(document)
    chunk = 0
    while chunk < len(starts):
        target = _target_length(room, short_probability, rng)
        stop = _fill(starts, ends, chunk, target)
        if stop > chunk + 1 and ends[stop - 1] - starts[chunk] > target:
            stop -= 1
        yield (starts[chunk], ends[stop - 1], ends[stop - 1], ends[stop - 1]), False
        chunk = stop


def _target_length(room: int, short_probability: float, rng: np.random.Generator) -> int:
    return int(rng.integers(2, room + 1)) if rng.random() < short_probability else room


def _fill(starts: list[int], ends: list[int], first: int, target: int) -> int:
    """The sentence after the one that reaches ``target`` tokens counted from ``first``, or the number of sentences."""
    goal = starts[first] + target
    return min(bisect.bisect_left(ends, goal, lo=first) + 1, len(ends))


def _random_segment(sentences: SentenceBounds, document: int, target: int, rng: np.random.Generator) -> tuple[int, int]:
    """A stretch of about ``target`` tokens from a random sentence of another document on, at least that sentence."""
    # Drawn among the others directly: the original's repeated tries could end in the document itself.
    other = int(rng.integers(sentences.num_documents - 1))
    other += other >= document
    first, last = int(sentences.document_offsets[other]), int(sentences.document_offsets[other + 1])
    begin = int(rng.integers(first, last))
    goal = int(sentences.starts[begin]) + max(target, 1)
    stop = min(begin + int(np.searchsorted(sentences.ends[begin:last], goal)) + 1, last)
    return int(sentences.starts[begin]), int(sentences.ends[stop - 1])


def _truncated(a: tuple[int, int], b: tuple[int, int], room: int, rng: np.random.Generator) -> Bounds:
    """Cut the longer side until both fit, every token lost at the front or the back with equal probability."""
    length_a, length_b = a[1] - a[0], b[1] - b[0]
    keep_a, keep_b = truncated_lengths(length_a, length_b, room)
    front_a = int(rng.binomial(length_a - keep_a, 0.5))
    front_b = int(rng.binomial(length_b - keep_b, 0.5))
    return a[0] + front_a, a[0] + front_a + keep_a, b[0] + front_b, b[0] + front_b + keep_b
