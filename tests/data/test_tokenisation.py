"""Training, special tokens, building of inputs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from fastbert.data import DataError, Tokenizer

ENGLISH = [
    "The quick brown fox jumps over the lazy dog, and the dog was not amused.",
    "Tokenizers tokenize tokenizable text; untokenizable text they tokenize too.",
    "A café in Paris serves crème brûlée to naïve tourists.",
] * 4
KOREAN = [
    "안녕하세요 세계, 오늘은 날씨가 좋습니다.",
    "한국어 문장을 토큰으로 나눕니다. 한국어는 음절로 씁니다.",
    "우리는 한국어 모형을 훈련합니다.",
] * 4
KINDS = ("wordpiece", "byte-bpe")


def train(kind: str, texts: list[str] | None = None, vocab_size: int = 400) -> Tokenizer:
    texts = ENGLISH + KOREAN if texts is None else texts
    trained = Tokenizer.train_wordpiece if kind == "wordpiece" else Tokenizer.train_byte_bpe
    return trained(texts, vocab_size)


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_has_the_size_asked_for_at_most(kind: str) -> None:
    tokenizer = train(kind)
    assert tokenizer.kind == kind
    assert 150 < tokenizer.vocab_size <= 400
    ids = {tokenizer.token_to_id(tokenizer.token(i)) for i in range(tokenizer.vocab_size)}
    assert ids == set(range(tokenizer.vocab_size))
    assert train(kind, vocab_size=320).vocab_size <= 320


def test_small_wordpiece_vocabulary_keeps_the_frequent_characters() -> None:
    tokenizer = Tokenizer.train_wordpiece(["aaab aab abc d"] * 2 + ["z"], 13)
    assert tokenizer.vocab_size <= 13
    assert tokenizer.unk_id not in tokenizer.encode("ab abc d")
    assert tokenizer.encode("z") == [tokenizer.unk_id]


@pytest.mark.parametrize("kind", KINDS)
def test_hangul_trains_whole_syllables(kind: str) -> None:
    tokenizer = train(kind, KOREAN)
    decomposed = [unicodedata.normalize("NFD", text) for text in KOREAN]
    from_jamo = train(kind, decomposed)
    for text in KOREAN:
        ids = tokenizer.encode(text)
        assert tokenizer.encode(unicodedata.normalize("NFD", text)) == ids
        assert from_jamo.encode(text) == ids
        assert tokenizer.unk_id not in ids
    if kind == "wordpiece":
        tokens = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
        assert not any("\u1100" <= character <= "\u11ff" for token in tokens for character in token)
        assert "한국어" in tokens


def test_stripping_accents_on_request_keeps_hangul_whole() -> None:
    stripping = Tokenizer.train_wordpiece(ENGLISH + KOREAN, 400, strip_accents=True)
    assert stripping.decode(stripping.encode("Café crème")) == "cafe creme"
    assert stripping.encode("한국어") == [stripping.token_to_id("한국어")]
    keeping = Tokenizer.train_wordpiece(ENGLISH + KOREAN, 400)
    assert keeping.decode(keeping.encode("Café crème")) == "café crème"
    cased = Tokenizer.train_wordpiece(ENGLISH, 400, lowercase=False)
    assert cased.decode(cased.encode("The Paris")) == "The Paris"


def test_byte_bpe_gives_any_text_back() -> None:
    tokenizer = train("byte-bpe", ENGLISH)
    for text in ("Hello  world\n\tand 日本語, ﷽ and 🙂!", " leading", "trailing ", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_id == tokenizer.bos_id == tokenizer.encode("<|endoftext|>")[0]


def test_batch_equals_single() -> None:
    for kind in KINDS:
        tokenizer = train(kind)
        assert tokenizer.encode_batch([*ENGLISH, ""]) == [tokenizer.encode(text) for text in [*ENGLISH, ""]]


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_of_a_document_laid_end_to_end_are_the_text(kind: str) -> None:
    tokenizer = train(kind)
    documents = [ENGLISH[:3], KOREAN[:2], ["One."]]
    encoded = tokenizer.encode_documents(documents)
    assert [len(document) for document in encoded] == [3, 2, 1]
    for document, sentences in zip(documents, encoded, strict=True):
        assert [token for sentence in sentences for token in sentence] == tokenizer.encode(" ".join(document))


def test_bert_inputs() -> None:
    tokenizer = train("wordpiece")
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert (tokenizer.pad_id, tokenizer.unk_id, cls, sep, tokenizer.mask_id) == (0, 1, 2, 3, 4)
    assert tokenizer.build_single([7, 8]) == ([cls, 7, 8, sep], [0, 0, 0, 0])
    assert tokenizer.build_pair([7, 8], [9]) == ([cls, 7, 8, sep, 9, sep], [0, 0, 0, 0, 1, 1])
    assert tokenizer.add_task_tokens() == 0
    assert tokenizer.start_id is tokenizer.delimiter_id is tokenizer.extract_id is None
    assert tokenizer.encode("the [MASK] fox")[1] == tokenizer.mask_id


def test_gpt_inputs() -> None:
    tokenizer = train("byte-bpe")
    before, fingerprint = tokenizer.vocab_size, tokenizer.fingerprint
    with pytest.raises(DataError, match=r"no <start>, <delimiter>, <extract>; add_task_tokens\(\) adds them"):
        tokenizer.build_single([1])
    assert tokenizer.add_task_tokens() == 3
    assert tokenizer.add_task_tokens() == 0
    start, delimiter, extract = tokenizer.start_id, tokenizer.delimiter_id, tokenizer.extract_id
    assert (start, delimiter, extract) == (before, before + 1, before + 2)
    assert tokenizer.vocab_size == before + 3
    assert tokenizer.fingerprint != fingerprint
    assert tokenizer.build_single([7, 8]) == ([start, 7, 8, extract], None)
    assert tokenizer.build_pair([7, 8], [9]) == ([start, 7, 8, delimiter, 9, extract], None)
    assert tokenizer.cls_id is tokenizer.sep_id is tokenizer.mask_id is None
    assert {start, delimiter, extract, tokenizer.eos_id, tokenizer.pad_id} == set(tokenizer.special_ids)
    assert np.array_equal(np.union1d(tokenizer.ordinary_ids, sorted(tokenizer.special_ids)), np.arange(before + 3))


def test_words_of_wordpiece() -> None:
    tokenizer = train("wordpiece")
    tokens = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    assert [tokenizer.is_continuation(i) for i in range(len(tokens))] == [token.startswith("##") for token in tokens]


def test_words_of_byte_bpe() -> None:
    tokenizer = train("byte-bpe", ENGLISH, 259)  # next to no merges: one token a byte
    text = "ab, c's é\n9"
    starts = [token for token in tokenizer.encode(text) if not tokenizer.is_continuation(token)]
    assert tokenizer.decode(starts) == ", ' \n"
    assert tokenizer.eos_id is not None
    assert not tokenizer.is_continuation(tokenizer.eos_id)


def test_token_out_of_range() -> None:
    tokenizer = train("wordpiece")
    with pytest.raises(ValueError, match=r"token id must be in \[0, "):
        tokenizer.token(tokenizer.vocab_size)


def test_training_errors() -> None:
    with pytest.raises(DataError, match="vocab_size must be at least 10 for WordPiece, got 9"):
        Tokenizer.train_wordpiece(ENGLISH, 9)
    with pytest.raises(DataError, match="vocab_size must be at least 258 for byte-level BPE, got 257"):
        Tokenizer.train_byte_bpe(ENGLISH, 257)
    for trained in (Tokenizer.train_wordpiece, Tokenizer.train_byte_bpe):
        with pytest.raises(DataError, match="needs text to train on"):
            trained(["", " \n"], 300)


def test_training_is_the_same_in_every_process() -> None:
    rng = random.Random(0)
    texts = [" ".join("".join(rng.choices("abcdefghij", k=rng.randint(1, 7))) for _ in range(20)) for _ in range(90)]
    program = (
        "import json, sys; from fastbert.data import Tokenizer; texts = json.load(sys.stdin)\n"
        "print(Tokenizer.train_wordpiece(texts, 300).fingerprint, Tokenizer.train_byte_bpe(texts, 400).fingerprint)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    here = [Tokenizer.train_wordpiece(texts, 300).fingerprint, Tokenizer.train_byte_bpe(texts, 400).fingerprint]
    assert run.stdout.split() == here
