"""Pretraining examples: sentence pairs with masked tokens for BERT, chunks of documents for GPT."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastbert.data.errors import DataError
from fastbert.data.examples import Example
from fastbert.data.masking import Masking
from fastbert.data.randomness import Purpose, generator
from fastbert.data.sentence_pairs import Segments, SentenceBounds, draw_segments
from fastbert.data.token_cache import TokenizedCorpus
from fastbert.data.tokenisation import Tokenizer


class NextSentence(enum.IntEnum):
    """What next-sentence prediction predicts."""

    IS_NEXT = 0
    RANDOM = 1


def split_documents(num_documents: int, *, every: int = 20) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(training, held-out) document numbers: every ``every``-th document is held out.

    Small corpora hold out more often, so that there are at least two held-out documents, which next-sentence pairs
    need, among four or more, and at least one among two or three.

    Raises:
        DataError: fewer than two documents, or ``every`` below 2.
    """
    if num_documents < 2:
        raise DataError(f"holding out documents needs at least 2 in the corpus, there are {num_documents}")
    if every < 2:
        raise DataError(f"every must be at least 2, got {every}")
    period = min(every, num_documents // (2 if num_documents >= 4 else 1))
    documents = np.arange(num_documents)
    held_out = documents % period == period - 1
    return documents[~held_out], documents[held_out]


class SentencePairExamples:
    """BERT's pretraining examples (Devlin et al. 2018, section 3.1 and appendix A.2), drawn anew for every epoch.

    With ``next_sentence``: [CLS] A [SEP] B [SEP] with a :class:`NextSentence` label. A document's sentences fill a
    chunk, usually of the full length and with ``short_probability`` of a random shorter one; the chunk is split at a
    random sentence; with probability 1/2, or when it has one sentence only, B comes from a random place in another
    document and the unused sentences go to the next chunk. The longer side is cut, at random ends. Without:
    [CLS] sentences [SEP], filled to the length from one document, without a label.

    Sentences too long for a sequence are first cut into equal pieces of at most half its length, so that text without
    line breaks is used whole. Targets are chosen as in :class:`fastbert.data.masking.Masking`.
    """

    def __init__(
        self,
        corpus: TokenizedCorpus,
        tokenizer: Tokenizer,
        *,
        seed: int,
        max_length: int,
        mask_probability: float = 0.15,
        max_predictions: int | None = None,
        whole_word: bool = False,
        next_sentence: bool = True,
        short_probability: float = 0.1,
        documents: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Describe the examples; nothing is built yet.

        Args:
            corpus: tokenised with ``tokenizer``.
            tokenizer: with [CLS], [SEP] and [MASK].
            seed: of the run.
            max_length: most tokens of an example, special tokens included.
            mask_probability: share of the tokens that become targets.
            max_predictions: most targets of an example; None for no such bound.
            whole_word: choose words instead of pieces.
            next_sentence: pairs with a label, or single stretches of text.
            short_probability: how often a chunk is given a random shorter length.
            documents: numbers of the documents to use, all when None.

        Raises:
            DataError: a missing special token, a value out of range, or one document only with ``next_sentence``.
        """
        added = Tokenizer.num_added(pair=next_sentence)
        if max_length < added + 2:
            raise DataError(f"max_length must be at least {added + 2}, got {max_length}")
        if not 0 <= short_probability <= 1:
            raise DataError(f"short_probability must be in [0, 1], got {short_probability}")
        if tokenizer.cls_id is None or tokenizer.sep_id is None:
            raise DataError(f"BERT pretraining needs [CLS] and [SEP], the {tokenizer.kind} tokenizer has none")
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._seed = seed
        self._next_sentence = next_sentence
        self._drawn: SentencePairEpoch | None = None
        self._short_probability = short_probability
        self._room = max_length - added
        self._masking = Masking.from_tokenizer(tokenizer, mask_probability, whole_word, max_predictions)
        self._bounds = SentenceBounds.from_corpus(corpus, _chosen(corpus, documents), self._room)
        if next_sentence and self._bounds.num_documents < 2:
            raise DataError("next-sentence prediction needs at least 2 documents, there is 1; use next_sentence=False")

    def epoch(self, epoch: int) -> SentencePairEpoch:
        """The examples of one epoch. Takes a few seconds per million sentences, so the last one drawn is kept."""
        if self._drawn is None or self._drawn.number != epoch:
            self._drawn = self._draw(epoch)
        return self._drawn

    def _draw(self, epoch: int) -> SentencePairEpoch:
        segments = draw_segments(
            self._bounds,
            self._room,
            next_sentence=self._next_sentence,
            short_probability=self._short_probability,
            seed=self._seed,
            epoch=epoch,
        )
        labelled = self._next_sentence
        return SentencePairEpoch(self._corpus, self._tokenizer, self._masking, segments, labelled, self._seed, epoch)


@dataclass(frozen=True, eq=False)
class SentencePairEpoch:
    """One epoch of :class:`SentencePairExamples`."""

    corpus: TokenizedCorpus
    tokenizer: Tokenizer
    masking: Masking
    segments: Segments
    labelled: bool
    seed: int
    number: int

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(len(self),) int64 tokens of every example."""
        bounds = self.segments.bounds
        return bounds[:, 1] - bounds[:, 0] + bounds[:, 3] - bounds[:, 2] + Tokenizer.num_added(pair=self.labelled)

    def __len__(self) -> int:
        return len(self.segments.bounds)

    def __getitem__(self, index: int) -> Example:
        i = range(len(self))[index]
        a_start, a_end, b_start, b_end = self.segments.bounds[i].tolist()
        a, b = self.corpus.slice(a_start, a_end).tolist(), self.corpus.slice(b_start, b_end).tolist()
        built, segments = self.tokenizer.build_pair(a, b) if self.labelled else self.tokenizer.build_single(a)
        ids = np.array(built, dtype=np.int64)
        rng = generator(self.seed, self.number, i, Purpose.MASKING)
        input_ids, labels = self.masking.apply(ids, rng)
        label = NextSentence(int(self.segments.is_random[i])) if self.labelled else None
        token_type_ids = None if segments is None else np.array(segments, dtype=np.int64)
        return Example(input_ids, token_type_ids, labels, next_sentence_label=label)


class CausalExamples:
    """GPT's pretraining examples: every document on its own, in chunks of at most ``max_length`` tokens.

    A document ends with the tokenizer's end-of-text token, where it has one. A chunk begins with the last token of the
    chunk before, so every token of a document but the first is a target exactly once. Labels are the input ids; the
    model shifts them. The same in every epoch, so it is its own epoch view.

    Attributes:
        lengths: (len(self),) int64 tokens of every example, at least 2.
    """

    def __init__(
        self,
        corpus: TokenizedCorpus,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        documents: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Lay out the chunks.

        Args:
            corpus: tokenised with ``tokenizer``.
            tokenizer: for its end-of-text token.
            max_length: most tokens of an example.
            documents: numbers of the documents to use, all when None.

        Raises:
            DataError: ``max_length`` below 2, or no document with two tokens.
        """
        if max_length < 2:
            raise DataError(f"max_length must be at least 2, got {max_length}")
        self._corpus = corpus
        self._end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        chosen = _chosen(corpus, documents)
        starts = corpus.sentence_offsets[corpus.document_offsets[chosen]]
        ends = corpus.sentence_offsets[corpus.document_offsets[chosen + 1]]
        lengths = ends - starts + len(self._end)
        chunks = -(-(lengths - 1) // (max_length - 1))
        document = np.repeat(np.arange(chosen.size), chunks)
        within = np.arange(document.size) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        offset = within * (max_length - 1)
        self.lengths: npt.NDArray[np.int64] = np.minimum(lengths[document] - offset, max_length)
        self._starts = starts[document] + offset
        self._document_ends = ends[document]
        if not self.lengths.size:
            raise DataError("there is no document of two tokens in the corpus")

    def epoch(self, epoch: int) -> CausalExamples:
        """These examples, whatever the epoch."""
        return self

    def __len__(self) -> int:
        return int(self.lengths.size)

    def __getitem__(self, index: int) -> Example:
        start, document_end = int(self._starts[index]), int(self._document_ends[index])
        end = start + int(self.lengths[index])
        ids = self._corpus.slice(start, min(end, document_end))
        if end > document_end:
            ids = np.append(ids, self._end)
        return Example(ids, labels=ids)


def _chosen(corpus: TokenizedCorpus, documents: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    if documents is None:
        return np.arange(corpus.num_documents)
    chosen = np.asarray(documents, dtype=np.int64)
    if not chosen.size:
        raise DataError("at least one document is needed, none was chosen")
    if chosen.min() < 0 or chosen.max() >= corpus.num_documents:
        raise DataError(
            f"document numbers must be in [0, {corpus.num_documents}), got {chosen.min()} to {chosen.max()}"
        )
    return chosen
