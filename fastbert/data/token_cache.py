"""A tokenised corpus: flat token ids with sentence and document bounds, in memory or memory-mapped from a cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import numpy.typing as npt

from fastbert.data.corpus import Document, check_sentence_split, find_files
from fastbert.data.errors import DataError
from fastbert.data.text_blocks import BLOCK_BYTES, read_blocks
from fastbert.data.token_parts import KeptPart, id_type, tokenize, tokenize_blocks
from fastbert.data.tokenisation import Tokenizer
from fastbert.files import made_once, sha256_of

FORMAT_VERSION = 1
META_FILE = "corpus.json"
BYTES_PER_PROCESS = 1 << 24  # starting one takes as long as this much text
MOST_PROCESSES = 32  # one reader feeds no more
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
    whole = tokenize(documents, tokenizer)
    if not whole.document_lengths.size:
        raise DataError("there is no text in the corpus: no document has a token")
    return TokenizedCorpus(whole.ids, _offsets(whole.sentence_lengths), _offsets(whole.document_lengths))


def cached_corpus(
    patterns: Sequence[str | os.PathLike[str]],
    tokenizer: Tokenizer,
    cache_directory: str | os.PathLike[str],
    *,
    sentence_split: str = "line",
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenizedCorpus:
    """Tokenise the files of a corpus once, and memory-map the result from then on.

    The cache lies in a directory of ``cache_directory`` named after a hash of the files' content, the tokenizer and
    the settings, so a change of any of them makes a new one. It is written aside and renamed. What an interrupted run
    has tokenised lies in ``parts`` beside it, from where the next run goes on, and which may be deleted otherwise. Of
    runs that want the same cache at the same time one makes it and the others wait.

    Args:
        patterns: see :func:`fastbert.data.corpus.read_documents`.
        tokenizer: gives the ids.
        cache_directory: made when missing.
        sentence_split: "line" or "regex".
        processes: how many tokenise; by default one for each processor, or this one alone when the corpus is small.
        progress: called with (bytes of the files done, bytes in all) while tokenising.

    Raises:
        DataError: unusable text (see :func:`fastbert.data.corpus.read_documents`), or a damaged cache.
    """
    check_sentence_split(sentence_split)
    files = find_files(patterns)
    key = _key(files, tokenizer, sentence_split)
    directory = Path(cache_directory) / key
    if directory.is_dir():
        return _open(directory)
    kept = directory.with_name("parts")
    kept.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(kept / f"{key}.lock"):
        if not directory.is_dir():
            total = sum(file.stat().st_size for file in files)
            parts = tokenize_blocks(
                read_blocks(files, BLOCK_BYTES),
                tokenizer,
                kept,
                sentence_split=sentence_split,
                processes=processes or _worthwhile_processes(total),
            )
            with contextlib.closing(parts):  # and with it the processes, also on an error
                paths = _write(directory, parts, id_type(tokenizer), lambda done: progress and progress(done, total))
            for path in paths:
                path.unlink(missing_ok=True)
    return _open(directory)


def _worthwhile_processes(corpus_bytes: int) -> int:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(processors, corpus_bytes // BYTES_PER_PROCESS, MOST_PROCESSES)
    return max(1, processes)


def _write(
    directory: Path, parts: Iterable[KeptPart], dtype: np.dtype[Any], progress: Callable[[int], object]
) -> list[Path]:
    """Lay parts end to end; returns where they are kept."""
    paths: list[Path] = []
    bytes_done = 0
    with made_once(directory) as aside:
        counts = {"tokens": 0, "sentences": 0, "documents": 0}
        with (
            (aside / "ids.bin").open("wb") as ids,
            (aside / "sentences.bin").open("wb") as sentences,
            (aside / "documents.bin").open("wb") as bounds,
        ):
            for stream in (sentences, bounds):
                stream.write(np.zeros(1, dtype=OFFSET_TYPE).tobytes())
            for kept in parts:
                part = kept.part
                ids.write(part.ids.tobytes())
                _append_offsets(sentences, counts["tokens"], part.sentence_lengths)
                _append_offsets(bounds, counts["sentences"], part.document_lengths)
                counts["tokens"] += part.ids.size
                counts["sentences"] += part.sentence_lengths.size
                counts["documents"] += part.document_lengths.size
                paths.append(kept.path)
                bytes_done += kept.bytes_read
                progress(bytes_done)
        if not counts["documents"]:
            raise DataError("there is no text in the corpus: no document has a token")
        meta = {"format": FORMAT_VERSION, "id_type": dtype.str, **counts}
        (aside / META_FILE).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return paths


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


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
