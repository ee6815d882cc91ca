"""Text as its tokens come: whole characters, spaces where the tokenizer puts them, nothing of a stop text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastbert.data import TextStream, Tokenizer

PROMPT = "Once "
TEXT = "가 café, 🙂 then\n\nmore"


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    """A vocabulary without merges: every byte is a token."""
    tokenizer = Tokenizer.train_byte_bpe(["a"], vocab_size=258)
    assert len(tokenizer.encode(TEXT)) == len(TEXT.encode())
    return tokenizer


@pytest.fixture
def word_tokenizer(tmp_path: Path) -> Tokenizer:
    """GPT-1's kind, which marks the end of a word and not its beginning."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    entries = ["<unk>", *letters, *(letter + "</w>" for letter in letters), "th", "the</w>"]
    vocabulary = json.dumps({entry: i for i, entry in enumerate(entries)})
    (tmp_path / "encoder_bpe.json").write_text(vocabulary, encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nt h\nth e</w>\n", encoding="utf-8")
    (tmp_path / "encoder_bpe.json").rename(tmp_path / "vocab.json")
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    (tmp_path / "config.json").write_text('{"model_type": "openai-gpt"}', encoding="utf-8")
    return Tokenizer.load(tmp_path)


def pieces(stream: TextStream, tokens: Sequence[int]) -> list[str]:
    """What each token adds, and the end."""
    found = [stream.piece(tokens[: i + 1]) for i in range(len(tokens))]
    return [*found, stream.piece(tokens, complete=True)]


def test_a_character_comes_with_its_last_byte(byte_tokenizer: Tokenizer) -> None:
    expected = [piece for character in TEXT for piece in [""] * (len(character.encode()) - 1) + [character]]
    stream = TextStream(byte_tokenizer, byte_tokenizer.encode(PROMPT))
    assert pieces(stream, byte_tokenizer.encode(TEXT)) == [*expected, ""]
    assert not stream.is_stopped(byte_tokenizer.encode(TEXT))


def test_bytes_that_make_no_character_are_replaced_once_that_is_certain(byte_tokenizer: Tokenizer) -> None:
    first_of_two, letter = byte_tokenizer.encode("é")[0], byte_tokenizer.encode("a")[0]
    stream = TextStream(byte_tokenizer, byte_tokenizer.encode(PROMPT))
    assert pieces(stream, [first_of_two, letter, first_of_two]) == ["", "\ufffda", "", "\ufffd"]


def test_words_are_spaced_as_the_tokenizer_says(word_tokenizer: Tokenizer) -> None:
    prompt, tokens = word_tokenizer.encode("the"), word_tokenizer.encode("the cab the")
    stream = TextStream(word_tokenizer, prompt)
    found = pieces(stream, tokens)
    assert "".join(found) == " the cab the"
    assert found == [" the", " c", "a", "b", " the", ""]


def test_a_stop_text_ends_the_text_and_is_not_shown(byte_tokenizer: Tokenizer) -> None:
    tokens = byte_tokenizer.encode(TEXT)
    before = TEXT[: TEXT.index("\n\n")]
    stream = TextStream(byte_tokenizer, byte_tokenizer.encode(PROMPT), ["\n\n", "more"])
    stopped = [stream.is_stopped(tokens[: i + 1]) for i in range(len(tokens))]
    assert stopped.index(True) + 1 == len((before + "\n\n").encode())
    shown = pieces(stream, tokens[: stopped.index(True) + 1])
    assert "".join(shown) == before == stream.text(tokens)


def test_what_may_begin_a_stop_text_is_held_back_until_it_does_not(byte_tokenizer: Tokenizer) -> None:
    stream = TextStream(byte_tokenizer, byte_tokenizer.encode(PROMPT), ["abc", "bd"])
    assert pieces(stream, byte_tokenizer.encode("xabxab")) == ["x", "", "", "abx", "", "", "ab"]
    stream = TextStream(byte_tokenizer, byte_tokenizer.encode(PROMPT), ["abc", "bd"])
    assert pieces(stream, byte_tokenizer.encode("xabd")) == ["x", "", "", "a", ""]
