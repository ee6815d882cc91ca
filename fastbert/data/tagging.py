"""Sentences with a tag for each word, as examples: the first piece of a word carries its tag."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fastbert.data.column_files import TaggedSentence
from fastbert.data.errors import DataError
from fastbert.data.examples import Example, FixedExamples
from fastbert.data.tokenisation import Tokenizer
from fastbert.packing import IGNORE_INDEX


class Window(NamedTuple):
    """A stretch of a sentence that fits into the model.

    Attributes:
        start, end: its words.
        first, last: those of them that are tagged here; the others are context, tagged in a neighbouring window.
    """

    start: int
    end: int
    first: int
    last: int


def build_tag2id(sentences: Iterable[TaggedSentence]) -> dict[str, int]:
    """Number the tags in sorted order.

    Raises:
        DataError: a sentence without tags, or fewer than two different tags.
    """
    tags: set[str] = set()
    for sentence in sentences:
        if sentence.tags is None:
            raise DataError(f"{sentence.source}: tags are needed")
        tags.update(sentence.tags)
    if len(tags) < 2:
        found = f"the only tag is {tags.pop()!r}" if tags else "there are no sentences"
        raise DataError(f"tagging needs at least two different tags, {found}; tag_column names their column")
    return {tag: i for i, tag in enumerate(sorted(tags))}


class TaggingExamples(FixedExamples):
    """Examples of sentences, the same in every epoch, tokenised once.

    A sentence becomes [CLS] words [SEP] or <start> words <extract>; labels are the tag's number at the first piece of
    each word and -100 everywhere else (Devlin et al. 2018, section 5.3). A sentence longer than ``max_length`` becomes
    several examples that overlap; each word is tagged in one of them, with context on both sides. A word whose
    characters the tokenizer all drops is read as the unknown token, so that it keeps its tag.

    Attributes:
        lengths: (len(self),) int64 tokens of every example.
        sentence_of: (len(self),) the sentence each example is made of.
    """

    def __init__(
        self,
        sentences: Sequence[TaggedSentence],
        tokenizer: Tokenizer,
        tag2id: Mapping[str, int] | None,
        max_length: int,
    ) -> None:
        """Tokenise sentences.

        Args:
            sentences: what :func:`fastbert.data.column_files.read_column_file` returned.
            tokenizer: with [CLS] and [SEP], or with the task tokens.
            tag2id: tag to class, or None for examples without targets.
            max_length: most tokens of an example, special tokens included.

        Raises:
            DataError: a tag that is unknown (the known ones are named) or missing, a word with more pieces than a
                window has room for, or one that vanishes where the tokenizer has no unknown token: with file and line.
        """
        room = max_length - Tokenizer.num_added(pair=False)
        if room < 1:
            raise DataError(f"max_length must be at least {Tokenizer.num_added(pair=False) + 1}, got {max_length}")
        self.sentence_of: list[int] = []
        self._places: list[list[int]] = []
        examples = []
        encoded = tokenizer.encode_documents([sentence.words for sentence in sentences])
        for index, (sentence, words) in enumerate(zip(sentences, encoded, strict=True)):
            pieces = [_visible(word, sentence, i, tokenizer, room) for i, word in enumerate(words)]
            tags = None if tag2id is None else _tag_classes(sentence, tag2id)
            for window in sentence_windows([len(word) for word in pieces], room):
                places = _first_pieces(window, pieces)
                self.sentence_of.append(index)
                self._places.append(places)
                examples.append(_example(window, pieces, places, tags, tokenizer))
        super().__init__(examples)

    def places(self, index: int) -> list[int]:
        """The tokens of an example that are the first pieces of the words it tags, in the words' order."""
        return self._places[index]


def _first_pieces(window: Window, pieces: list[list[int]]) -> list[int]:
    """The tokens that begin the words which a window tags."""
    firsts = np.cumsum([1, *map(len, pieces[window.start : window.end])])[:-1]  # after [CLS] or <start>
    places: list[int] = firsts[window.first - window.start : window.last - window.start].tolist()
    return places


def _example(
    window: Window, pieces: list[list[int]], places: list[int], tags: list[int] | None, tokenizer: Tokenizer
) -> Example:
    ids, segments = tokenizer.build_single([piece for word in pieces[window.start : window.end] for piece in word])
    labels = None
    if tags is not None:
        labels = np.full(len(ids), IGNORE_INDEX, dtype=np.int64)
        labels[places] = tags[window.first : window.last]
    token_types = None if segments is None else np.array(segments, dtype=np.int64)
    return Example(np.array(ids, dtype=np.int64), token_types, labels)


def sentence_windows(lengths: Sequence[int], room: int) -> list[Window]:
    """Cut a sentence into windows of at most ``room`` pieces that overlap by up to half of it.

    Every word is tagged in exactly one window. Where two windows meet, each has up to a quarter of its room as context
    beyond the words it tags.

    Args:
        lengths: pieces of every word, each at most ``room``.
        room: most pieces of a window.
    """
    windows: list[Window] = []
    context = room // 4
    n, first, start = len(lengths), 0, 0
    while first < n:
        end = start + _fitting(lengths[start:], room)
        last = end if end == n else max(first + 1, end - _fitting(lengths[first:end][::-1], context))
        windows.append(Window(start, end, first, last))
        first = last
        if first < n:
            start = first - _fitting(lengths[:first][::-1], min(context, room - lengths[first]))
    return windows


def _fitting(lengths: Sequence[int], room: int) -> int:
    """How many of the first words fit into ``room`` pieces together."""
    total = 0
    for count, length in enumerate(lengths):
        total += length
        if total > room:
            return count
    return len(lengths)


def _visible(word: list[int], sentence: TaggedSentence, i: int, tokenizer: Tokenizer, room: int) -> list[int]:
    """The pieces of a word: at least one, at most a window's room."""
    if not word:
        if tokenizer.unk_id is None:
            raise DataError(
                f"{sentence.place(i)}: nothing of the word {sentence.words[i]!r} is left after the tokenizer's "
                "normalisation; replace it by a visible one"
            )
        return [tokenizer.unk_id]
    if len(word) > room:
        raise DataError(
            f"{sentence.place(i)}: the word {sentence.words[i]!r} has {len(word)} tokens, max_length leaves {room}; "
            "raise max_length or shorten the word"
        )
    return word


def _tag_classes(sentence: TaggedSentence, tag2id: Mapping[str, int]) -> list[int]:
    if sentence.tags is None:
        raise DataError(f"{sentence.source}: tags are needed")
    for i, tag in enumerate(sentence.tags):
        if tag not in tag2id:
            raise DataError(
                f"{sentence.place(i)}: unknown tag {tag!r}, known from the training data are {', '.join(tag2id)}; "
                "correct it, add it to the training data, or name another tag_column"
            )
    return [tag2id[tag] for tag in sentence.tags]
