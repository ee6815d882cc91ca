"""The tokenised corpus, in memory and in the cache."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from fastbert.data import (
    DataError,
    TokenizedCorpus,
    Tokenizer,
    cached_corpus,
    token_cache,
    token_parts,
    tokenize_documents,
    write_documents,
)

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


def made(cache: Path) -> list[Path]:
    """The finished caches. Nothing else may lie beside them but ``parts``."""
    assert not list(cache.glob(".*"))
    return [path for path in cache.iterdir() if path.name != "parts"]


def kept(cache: Path) -> list[Path]:
    """The parts of unfinished caches, the only thing in ``parts`` but locks."""
    assert {path.suffix for path in (cache / "parts").iterdir()} <= {".npz", ".lock"}
    return sorted((cache / "parts").glob("*.npz"))


def content(cache: Path) -> dict[str, bytes]:
    (directory,) = made(cache)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


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
    monkeypatch.setattr(token_parts, "CHARACTERS_PER_BATCH", batch)
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
    assert len(made(cache)) == 1
    cached_corpus([corpus_file], byte_bpe, cache)
    cached_corpus([corpus_file], wordpiece, cache, sentence_split="regex")
    cached_corpus([corpus_file, renamed], wordpiece, cache)
    corpus_file.write_text("Other content.\n", encoding="utf-8")
    assert cached_corpus([corpus_file], wordpiece, cache).num_documents == 1
    assert len(made(cache)) == 5


def test_progress_ends_at_the_total(corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path) -> None:
    packed = tmp_path / "more.jsonl.gz"
    packed.write_bytes(gzip.compress(b"".join(json.dumps({"text": "one\ntwo"}).encode() + b"\n" for _ in range(3000))))
    seen: list[tuple[int, int]] = []
    cached_corpus([corpus_file, packed], wordpiece, tmp_path / "cache", progress=lambda d, t: seen.append((d, t)))
    total = corpus_file.stat().st_size + packed.stat().st_size
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_nothing_but_whole_parts_is_left_of_a_failed_run(
    corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good line\n" * 10 + b"\xff\n")
    monkeypatch.setattr(token_cache, "BLOCK_BYTES", 100)
    with pytest.raises(DataError, match=r"bad\.txt, line 11"):
        cached_corpus([corpus_file, bad], wordpiece, cache)
    assert made(cache) == []
    assert kept(cache)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for where, name in ((token_cache, "_append_offsets"), (np, "savez")):
        other = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(where, name, full_disk)
            with pytest.raises(OSError, match="No space left"):
                cached_corpus([corpus_file], wordpiece, other)
        assert made(other) == []
    assert kept(other) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(
    corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    cached_corpus([corpus_file], wordpiece, tmp_path / "undisturbed")
    cache = tmp_path / "cache"
    monkeypatch.setattr(token_cache, "BLOCK_BYTES", 300)

    def interrupt(done: int, _: int) -> None:
        if done > 1200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_corpus([corpus_file], wordpiece, cache, processes=processes, progress=interrupt)
    parts = kept(cache)
    assert len(parts) >= 4
    assert made(cache) == []
    parts[0].write_bytes(parts[0].read_bytes()[:-100])
    damaged = bytearray(parts[1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    parts[1].write_bytes(damaged)

    tokenised: list[str] = []
    encode = Tokenizer.encode_batch

    def counted(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        tokenised.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", counted)
    seen: list[int] = []
    cached_corpus([corpus_file], wordpiece, cache, processes=1, progress=lambda done, _: seen.append(done))
    blocks = len(seen)
    assert len(tokenised) < sum(map(len, DOCUMENTS)) * (blocks - len(parts) + 3) / blocks
    assert kept(cache) == []
    assert content(cache) == content(tmp_path / "undisturbed")


def test_processes_and_blocks_change_no_bit(
    corpus_file: Path, byte_bpe: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [tmp_path / f"{i}.txt" for i in range(30)]
    for i, path in enumerate(small):
        write_documents(path, DOCUMENTS[i : i + 2])
    cached_corpus([corpus_file, *small], byte_bpe, tmp_path / "one")
    monkeypatch.setattr(token_cache, "BLOCK_BYTES", 150)
    cached_corpus([corpus_file, *small], byte_bpe, tmp_path / "two", processes=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_processes_say_what_is_wrong_with_the_text(
    corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_cache, "BLOCK_BYTES", 100)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good line\n\n" * 50 + b"\xff\n" + b"good line\n\n" * 50)
    with pytest.raises(DataError, match=r"bad\.txt, line 101: byte 0xff at column 1 is not UTF-8"):
        cached_corpus([corpus_file, bad], wordpiece, tmp_path / "cache", processes=2)


def script(directory: Path, corpus: Path, tokenizer: Tokenizer, rest: str) -> list[str]:
    """A command that makes a cache with two processes, not guarded by ``if __name__ == "__main__"``."""
    tokenizer.save(directory / "tokenizer")
    path = directory / "script.py"
    path.write_text(
        "import os, signal\n"
        "from fastbert.data import Tokenizer, cached_corpus, token_cache\n"
        "token_cache.BLOCK_BYTES = 300\n"
        f"tokenizer = Tokenizer.load({str(directory / 'tokenizer')!r})\n"
        f"make = lambda **more: cached_corpus([{str(corpus)!r}], tokenizer, {str(directory / 'cache')!r}, **more)\n"
        f"{rest}\n"
    )
    return [sys.executable, str(path)]


def alive_in_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_processes_need_no_main_guard(corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path) -> None:
    command = script(tmp_path, corpus_file, wordpiece, "print(make(processes=2).num_documents)")
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (run.stdout, run.stderr, run.returncode) == (f"{len(DOCUMENTS)}\n", "", 0)


def test_processes_end_with_one_that_was_killed(corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path) -> None:
    kill = "make(processes=2, progress=lambda done, _: done > 1200 and os.kill(os.getpid(), signal.SIGKILL))"
    command = script(tmp_path, corpus_file, wordpiece, kill)
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    assert run.wait(timeout=300) == -signal.SIGKILL
    assert kept(tmp_path / "cache")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and alive_in_session(run.pid):
        time.sleep(0.2)
    assert alive_in_session(run.pid) == []


def test_of_two_at_once_one_waits_for_the_other(
    corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenised: list[str] = []
    encode = Tokenizer.encode_batch

    def slow(self: Tokenizer, texts: list[str]) -> list[list[int]]:
        time.sleep(0.3)
        tokenised.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", slow)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(cached_corpus, [corpus_file], wordpiece, tmp_path / "cache") for _ in range(2)]
        assert [run.result().num_documents for run in runs] == [len(DOCUMENTS)] * 2
    assert len(tokenised) == sum(map(len, DOCUMENTS))


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
    assert len(made(cache)) == 1


@pytest.mark.parametrize("damage", ["cut", "no meta", "bad meta"])
def test_damaged_cache(corpus_file: Path, wordpiece: Tokenizer, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    cached_corpus([corpus_file], wordpiece, cache)
    (directory,) = made(cache)
    if damage == "cut":
        with (directory / "ids.bin").open("r+b") as stream:
            stream.truncate(5)
    elif damage == "no meta":
        (directory / "corpus.json").unlink()
    else:
        (directory / "corpus.json").write_text("{}")
    with pytest.raises(DataError, match=r"is damaged .*; delete it to have it made again"):
        cached_corpus([corpus_file], wordpiece, cache)
