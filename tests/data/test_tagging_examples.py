"""Sentences as examples: first pieces labelled, long sentences in windows, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbert.data import DataError, TaggedSentence, TaggingExamples, Tokenizer, build_tag2id, collate
from fastbert.data.tagging import sentence_windows

TAGS = {"A": 0, "B": 1, "C": 2}


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    """Single letters, with and without ##: a word has as many pieces as letters."""
    return Tokenizer.train_wordpiece(["a b c d e f"] * 2 + ["abcdef fedcba"], 20)


def test_first_pieces_carry_the_tag(bert: Tokenizer) -> None:
    sentences = [TaggedSentence(("ab", "c", "fed"), ("A", "B", "C")), TaggedSentence(("a",), ("B",))]
    examples = TaggingExamples(sentences, bert, TAGS, 16)
    ids = [*bert.encode("ab"), *bert.encode("c"), *bert.encode("fed")]
    assert len(ids) == 6
    assert examples[0].input_ids.tolist() == [bert.cls_id, *ids, bert.sep_id]
    assert examples[0].labels is not None
    assert examples[0].labels.tolist() == [-100, 0, -100, 1, 2, -100, -100, -100]
    assert examples.places(0) == [1, 3, 4]
    assert examples.sentence_of == [0, 1]
    assert examples.lengths.tolist() == [8, 3]
    batch = collate([examples[0], examples[1]])
    assert batch.labels is not None
    assert batch.labels.tolist() == [-100, 0, -100, 1, 2, -100, -100, -100, -100, 1, -100]
    assert collate([TaggingExamples(sentences, bert, None, 16)[0]]).labels is None


def test_words_of_byte_level_bpe_follow_a_space(gpt: Tokenizer) -> None:
    example = TaggingExamples([TaggedSentence(("ab", "c"), ("A", "B"))], gpt, TAGS, 16)[0]
    assert example.input_ids.tolist() == [gpt.start_id, *gpt.encode("ab c"), gpt.extract_id]
    assert example.labels is not None
    assert example.labels.tolist() == [-100, 0, -100, 1, -100, -100]


def test_a_word_that_vanishes_keeps_its_tag(bert: Tokenizer) -> None:
    sentence = TaggedSentence(("a", "\u200b", "b"), ("A", "B", "C"))  # a zero-width space
    assert bert.encode("\u200b") == []
    example = TaggingExamples([sentence], bert, TAGS, 16)[0]
    assert example.input_ids.tolist() == [bert.cls_id, *bert.encode("a"), bert.unk_id, *bert.encode("b"), bert.sep_id]
    assert example.labels is not None
    assert example.labels.tolist() == [-100, 0, 1, 2, -100]


def test_a_long_sentence_becomes_windows(bert: Tokenizer) -> None:
    words = tuple("abcdef" * 3)
    tags = tuple("ABC" * 6)
    examples = TaggingExamples([TaggedSentence(words, tags)], bert, TAGS, 10)  # room for 8
    assert len(examples) > 2
    assert max(examples.lengths) <= 10
    tagged = []
    for i in range(len(examples)):
        example = examples[i]
        assert example.labels is not None
        assert [place for place, label in enumerate(example.labels.tolist()) if label >= 0] == examples.places(i)
        tagged += [(bert.token(int(example.input_ids[p])), "ABC"[example.labels[p]]) for p in examples.places(i)]
    assert tagged == list(zip(words, tags, strict=True))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(12, 30))
def test_windows_tag_every_word_once_and_fit(lengths: list[int], room: int) -> None:
    windows = sentence_windows(lengths, room)
    assert [word for w in windows for word in range(w.first, w.last)] == list(range(len(lengths)))
    for window in windows:
        assert 0 <= window.start <= window.first < window.last <= window.end <= len(lengths)
        assert sum(lengths[window.start : window.end]) <= room
    if sum(lengths) <= room:
        assert len(windows) == 1


def test_windows_have_context_on_both_sides() -> None:
    assert [tuple(window) for window in sentence_windows([1] * 20, 8)] == [
        (0, 8, 0, 6),
        (4, 12, 6, 10),
        (8, 16, 10, 14),
        (12, 20, 14, 20),
    ]


def test_errors_name_file_line_and_what_to_do(bert: Tokenizer) -> None:
    sentence = TaggedSentence(("a", "b"), ("A", "X"), lines=(3, 4), source="dev.conll")
    known = r"dev\.conll, line 4: unknown tag 'X', known from the training data are A, B, C; correct it, add it"
    with pytest.raises(DataError, match=known):
        TaggingExamples([sentence], bert, TAGS, 16)
    long = TaggedSentence(("a", "abcdef"), ("A", "B"), lines=(3, 4), source="dev.conll")
    message = r"dev\.conll, line 4: the word 'abcdef' has 6 tokens, max_length leaves 4; raise max_length"
    with pytest.raises(DataError, match=message):
        TaggingExamples([long], bert, TAGS, 6)
    with pytest.raises(DataError, match="max_length must be at least 3, got 2"):
        TaggingExamples([long], bert, TAGS, 2)
    with pytest.raises(DataError, match="a sentence: tags are needed"):
        TaggingExamples([TaggedSentence(("a",))], bert, TAGS, 16)


def test_tags_are_numbered_in_order() -> None:
    assert build_tag2id([TaggedSentence(("x", "y"), ("O", "B-PER")), TaggedSentence(("z",), ("I-PER",))]) == {
        "B-PER": 0,
        "I-PER": 1,
        "O": 2,
    }
    with pytest.raises(DataError, match="the only tag is 'O'; tag_column names their column"):
        build_tag2id([TaggedSentence(("x",), ("O",))])
    with pytest.raises(DataError, match="tags are needed"):
        build_tag2id([TaggedSentence(("x",))])
