"""The tokenised corpus, in memory and in the cache."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastbert.data import DataError, TokenizedCorpus, Tokenizer, cached_corpus, tokenize_documents, write_documents
from fastbert.data import token_cache as module

DOCUMENTS = [[f"Sentence number {i} of document {d}, with wörds." for i in range(1 + (d * 7) % 5)] for d in range(40)]


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return Tokenizer.train_wordpiece([s for document in DOCUMENTS for s in document], 120)


@pytest.fixture(scope="module")
def byte_bpe() -> Tokenizer:
    return Tokenizer.train_byte_bpe([s for document in DOCUMENTS for s in document], 300)


def sentences(corpus: TokenizedCorpus) -> list[list[list[int]]]:
    offsets, bounds = corpus.sentence_offsets.tolist(), corpus.document_offsets.tolist()
    return [
        [corpus.slice(offsets[s], offsets[s + 1]).tolist() for s in range(first, last)]
        for first, last in itertools.pairwise(bounds)
    ]


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    write_documents(path, DOCUMENTS)
    return path


@pytest.mark.parametrize("batch", [1, 200, 10**6])
def test_every_sentence_in_its_place(
    wordpiece: Tokenizer,
    byte_bpe: Tokenizer,
    batch: int,
    corpus_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CHARACTERS_PER_BATCH", batch)
    for tokenizer in (wordpiece, byte_bpe):
        expected = tokenizer.encode_documents(DOCUMENTS)
        in_memory = tokenize_documents(DOCUMENTS, tokenizer)
        cached = cached_corpus([corpus_file], tokenizer, tmp_path / "cache")
        for corpus in (in_memory, cached):
            assert sentences(corpus) == expected
            assert corpus.num_documents == len(DOCUMENTS)
            assert corpus.num_sentences == sum(map(len, DOCUMENTS))
            assert corpus.num_tokens == sum(len(s) for document in expected for s in document)
            assert corpus.ids.dtype == np.uint16
        assert isinstance(cached.ids, np.memmap)


def test_large_vocabularies_take_four_bytes(wordpiece: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokenize_documents(DOCUMENTS, wordpiece).ids.dtype == np.uint16
    monkeypatch.setitem(wordpiece.__dict__, "vocab_size", 2**16 + 1)
    assert tokenize_documents(DOCUMENTS, wordpiece).ids.dtype == np.uint32


def test_sentences_and_documents_without_tokens_are_left_out(wordpiece: Tokenizer) -> None:
    corpus = tokenize_documents([["\u200b"], ["document", "\u200b", "number"]], wordpiece)
    assert sentences(corpus) == [[wordpiece.encode("document"), wordpiece.encode("number")]]
    with pytest.raises(DataError, match="no document has a token"):
        tokenize_documents([["\u200b"]], wordpiece)


def test_second_call_reads_the_cache_and_any_change_makes_another(
    corpus_file: Path, wordpiece: Tokenizer, byte_bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cached_corpus([corpus_file], wordpiece, cache)
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "encode_batch", None)
        cached_corpus([corpus_file], wordpiece, cache)
        renamed = corpus_file.with_name("renamed.txt")
        renamed.write_bytes(corpus_file.read_bytes())
        cached_corpus([renamed], wordpiece, cache)
    assert len(list(cache.iterdir())) == 1
    cached_corpus([corpus_file], byte_bpe, cache)
    cached_corpus([corpus_file], wordpiece, cache, sentence_split="regex")
    cached_corpus([corpus_file, renamed], wordpiece, cache)
    corpus_file.write_text("Other content.\n", encoding="utf-8")
    assert cached_corpus([corpus_file], wordpiece, cache).num_documents == 1
    assert len(list(cache.iterdir())) == 5


def test_progress_ends_at_the_total(corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path) -> None:
    packed = tmp_path / "more.jsonl.gz"
    packed.write_bytes(gzip.compress(b"".join(json.dumps({"text": "one\ntwo"}).encode() + b"\n" for _ in range(3000))))
    seen: list[tuple[int, int]] = []
    cached_corpus([corpus_file, packed], wordpiece, tmp_path / "cache", progress=lambda d, t: seen.append((d, t)))
    total = corpus_file.stat().st_size + packed.stat().st_size
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_nothing_is_left_of_a_failed_run(
    corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good line\n" * 10 + b"\xff\n")
    with pytest.raises(DataError, match=r"bad\.txt, line 11"):
        cached_corpus([corpus_file, bad], wordpiece, cache)
    assert list(cache.iterdir()) == []

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_append_offsets", full_disk)
        with pytest.raises(OSError, match="No space left"):
            cached_corpus([corpus_file], wordpiece, cache)
    assert list(cache.iterdir()) == []


def test_another_process_may_be_first(
    corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    rename = os.rename

    def after_another(source: Path, target: Path) -> None:
        rename(source, target)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(os, "rename", after_another)
    assert cached_corpus([corpus_file], wordpiece, cache).num_documents == len(DOCUMENTS)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("damage", ["cut", "no meta", "bad meta"])
def test_damaged_cache(corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    cached_corpus([corpus_file], wordpiece, cache)
    (directory,) = cache.iterdir()
    if damage == "cut":
        with (directory / "ids.bin").open("r+b") as stream:
            stream.truncate(5)
    elif damage == "no meta":
        (directory / "corpus.json").unlink()
    else:
        (directory / "corpus.json").write_text("{}")
    with pytest.raises(DataError, match=r"is damaged .*; delete it to have it made again"):
        cached_corpus([corpus_file], wordpiece, cache)
