"""A tokenised corpus: flat token ids with sentence and document bounds, in memory or memory-mapped from a cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from fastbert.data.corpus import Document, find_files, read_documents
from fastbert.data.errors import DataError
from fastbert.data.tokenisation import Tokenizer
from fastbert.files import made_once, sha256_of

FORMAT_VERSION = 1
META_FILE = "corpus.json"
CHARACTERS_PER_BATCH = 1_000_000
OFFSET_TYPE = np.dtype("<i8")


@dataclass(frozen=True, eq=False)
class TokenizedCorpus:
    """Token ids of a corpus without special tokens.

    Attributes:
        ids: (num_tokens,) uint16 or uint32.
        sentence_offsets: (num_sentences + 1,) int64: sentence ``s`` is ``ids[offsets[s]:offsets[s + 1]]``.
        document_offsets: (num_documents + 1,) int64: the sentences of document ``d`` are ``offsets[d]`` up to, not
            including, ``offsets[d + 1]``.
    """

    ids: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    sentence_offsets: npt.NDArray[np.int64]
    document_offsets: npt.NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        return self.ids.size

    @property
    def num_sentences(self) -> int:
        return self.sentence_offsets.size - 1

    @property
    def num_documents(self) -> int:
        return self.document_offsets.size - 1

    def slice(self, start: int, end: int) -> npt.NDArray[np.int64]:
        """(end - start,) int64 copy of a stretch of the ids."""
        return self.ids[start:end].astype(np.int64)


def tokenize_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> TokenizedCorpus:
    """Tokenise documents in memory. Sentences and documents without any token are left out.

    Raises:
        DataError: nothing is left.
    """
    ids: list[npt.NDArray[Any]] = []
    sentences: list[npt.NDArray[np.int64]] = []
    document_lengths: list[int] = []
    dtype = _id_type(tokenizer)
    for batch in _tokenized(documents, tokenizer, dtype):
        ids.append(batch.ids)
        sentences.append(batch.sentence_lengths)
        document_lengths += batch.document_lengths.tolist()
    if not document_lengths:
        raise DataError("there is no text in the corpus: no document has a token")
    return TokenizedCorpus(
        np.concatenate(ids), _offsets(np.concatenate(sentences)), _offsets(np.array(document_lengths, dtype=np.int64))
    )


def cached_corpus(
    patterns: Sequence[str | os.PathLike[str]],
    tokenizer: Tokenizer,
    cache_directory: str | os.PathLike[str],
    *,
    sentence_split: str = "line",
    progress: Callable[[int, int], None] | None = None,
) -> TokenizedCorpus:
    """Tokenise the files of a corpus once, and memory-map the result from then on.

    The cache lies in a directory of ``cache_directory`` named after a hash of the files' content, the tokenizer and
    the settings, so a change of any of them makes a new one. It is written aside and renamed: an interrupted run or a
    full disk leaves nothing behind.

    Args:
        patterns: see :func:`fastbert.data.corpus.read_documents`.
        tokenizer: gives the ids.
        cache_directory: made when missing.
        sentence_split: "line" or "regex".
        progress: called with (bytes read, bytes in all) while tokenising.

    Raises:
        DataError: unusable text (see :func:`fastbert.data.corpus.read_documents`), or a damaged cache.
    """
    files = find_files(patterns)
    directory = Path(cache_directory) / _key(files, tokenizer, sentence_split)
    if not directory.is_dir():
        total = sum(file.stat().st_size for file in files)
        done = 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        documents = read_documents(files, sentence_split=sentence_split, progress=report)
        _write(directory, documents, tokenizer)
    return _open(directory)


@dataclass(frozen=True, eq=False)
class _TokenizedBatch:
    ids: npt.NDArray[Any]
    sentence_lengths: npt.NDArray[np.int64]
    document_lengths: npt.NDArray[np.int64]


def _tokenized(documents: Iterable[Document], tokenizer: Tokenizer, dtype: npt.DTypeLike) -> Iterator[_TokenizedBatch]:
    for batch in _batches(documents):
        sentences: list[list[int]] = []
        lengths: list[int] = []
        for document in tokenizer.encode_documents(batch):
            kept = [sentence for sentence in document if sentence]
            if kept:
                sentences += kept
                lengths.append(len(kept))
        if lengths:
            yield _TokenizedBatch(
                np.array([token for sentence in sentences for token in sentence], dtype=dtype),
                np.array([len(sentence) for sentence in sentences], dtype=np.int64),
                np.array(lengths, dtype=np.int64),
            )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += sum(map(len, document))
        if characters >= CHARACTERS_PER_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _write(directory: Path, documents: Iterable[Document], tokenizer: Tokenizer) -> None:
    dtype = _id_type(tokenizer)
    with made_once(directory) as aside:
        counts = {"tokens": 0, "sentences": 0, "documents": 0}
        with (
            (aside / "ids.bin").open("wb") as ids,
            (aside / "sentences.bin").open("wb") as sentences,
            (aside / "documents.bin").open("wb") as bounds,
        ):
            for stream in (sentences, bounds):
                stream.write(np.zeros(1, dtype=OFFSET_TYPE).tobytes())
            for batch in _tokenized(documents, tokenizer, dtype):
                ids.write(batch.ids.tobytes())
                _append_offsets(sentences, counts["tokens"], batch.sentence_lengths)
                _append_offsets(bounds, counts["sentences"], batch.document_lengths)
                counts["tokens"] += batch.ids.size
                counts["sentences"] += batch.sentence_lengths.size
                counts["documents"] += batch.document_lengths.size
        if not counts["documents"]:
            raise DataError("there is no text in the corpus: no document has a token")
        meta = {"format": FORMAT_VERSION, "id_type": dtype.str, **counts}
        (aside / META_FILE).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _append_offsets(stream: BinaryIO, base: int, lengths: npt.NDArray[np.int64]) -> None:
    stream.write((base + np.cumsum(lengths)).astype(OFFSET_TYPE).tobytes())


def _open(directory: Path) -> TokenizedCorpus:
    try:
        meta = json.loads((directory / META_FILE).read_text(encoding="utf-8"))
        files = (
            ("ids.bin", np.dtype(meta["id_type"]), meta["tokens"]),
            ("sentences.bin", OFFSET_TYPE, meta["sentences"] + 1),
            ("documents.bin", OFFSET_TYPE, meta["documents"] + 1),
        )
        for name, dtype, count in files:
            if (directory / name).stat().st_size != count * dtype.itemsize:
                raise ValueError(f"{name} has the wrong size")
        arrays = [np.memmap(directory / name, dtype=dtype, mode="r") for name, dtype, _ in files]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the token cache {directory} is damaged ({error}); delete it to have it made again") from error
    return TokenizedCorpus(*arrays)


def _key(files: Sequence[Path], tokenizer: Tokenizer, sentence_split: str) -> str:
    digest = hashlib.sha256()
    settings = [FORMAT_VERSION, tokenizer.fingerprint, sentence_split, [_ending(file) for file in files]]
    digest.update(json.dumps(settings).encode("utf-8"))
    for file in files:
        digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()[:32]


def _ending(file: Path) -> str:
    return "".join(suffix for suffix in file.suffixes[-2:] if suffix in (".txt", ".jsonl", ".gz"))


def _id_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2") if tokenizer.vocab_size <= 2**16 else np.dtype("<u4")


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
