"""Documents to token ids: in batches within one process, or in parts of a corpus by several, each part kept on disk."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import loky
import numpy as np
import numpy.typing as npt

from fastbert.data.corpus import Document, documents_of
from fastbert.data.text_blocks import Block
from fastbert.data.tokenisation import Tokenizer
from fastbert.files import replaced

CHARACTERS_PER_BATCH = 1_000_000
FORMAT_VERSION = 1


@dataclass(frozen=True, eq=False)
class TokenPart:
    """Token ids of consecutive documents, of which every sentence and every document has at least one.

    Attributes:
        ids: (num_tokens,) uint16, or uint32 for a vocabulary that needs it.
        sentence_lengths: (num_sentences,) int64, in tokens.
        document_lengths: (num_documents,) int64, in sentences.
    """

    ids: npt.NDArray[Any]
    sentence_lengths: npt.NDArray[np.int64]
    document_lengths: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class KeptPart:
    """A part of a corpus, the file it is kept in, and how many bytes of the corpus' files it is made of."""

    part: TokenPart
    path: Path
    bytes_read: int


_Result: TypeAlias = Callable[[], TokenPart]
"""Waits for the part of a block that was begun."""


def id_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    """The smallest unsigned type for every id."""
    return np.dtype("<u2") if tokenizer.vocab_size <= 2**16 else np.dtype("<u4")


def tokenize(documents: Iterable[Document], tokenizer: Tokenizer) -> TokenPart:
    """Tokenise documents on several threads. Sentences and documents without a token are left out."""
    dtype = id_type(tokenizer)
    ids = [np.zeros(0, dtype=dtype)]
    sentence_lengths: list[int] = []
    document_lengths: list[int] = []
    for batch in _batches(documents):
        for document in tokenizer.encode_documents(batch):
            kept = [sentence for sentence in document if sentence]
            ids.append(np.fromiter(itertools.chain.from_iterable(kept), dtype=dtype))
            sentence_lengths += map(len, kept)
            document_lengths += [len(kept)] if kept else []
    return TokenPart(
        np.concatenate(ids), np.array(sentence_lengths, dtype=np.int64), np.array(document_lengths, dtype=np.int64)
    )


def tokenize_blocks(
    blocks: Iterable[Block], tokenizer: Tokenizer, directory: Path, *, sentence_split: str, processes: int
) -> Generator[KeptPart, None, None]:
    """Tokenise a corpus block by block, in order. Each part is kept in ``directory`` and found there by the next run.

    Args:
        blocks: see :func:`fastbert.data.text_blocks.read_blocks`.
        tokenizer: gives the ids.
        directory: exists. A part's file is named after a hash of the block's text, the tokenizer and the settings.
        sentence_split: see :func:`fastbert.data.corpus.read_documents`.
        processes: 1 works in this process, on several threads; more start as many, of one thread each.

    Raises:
        DataError: unusable text (see :func:`fastbert.data.corpus.read_documents`).
    """
    with _workers(tokenizer, sentence_split, processes) as begin:
        begun: collections.deque[tuple[Block, Path, TokenPart | _Result]] = collections.deque()
        for block in blocks:
            path = directory / f"{_key(block, tokenizer, sentence_split)}.npz"
            begun.append((block, path, _load(path) or begin(block)))
            if len(begun) > 2 * processes:
                yield _finish(*begun.popleft())
        while begun:
            yield _finish(*begun.popleft())


@contextlib.contextmanager
def _workers(tokenizer: Tokenizer, sentence_split: str, processes: int) -> Iterator[Callable[[Block], _Result]]:
    """Gives a function that has a block tokenised and returns how to wait for its part."""
    if processes == 1:
        yield lambda block: functools.partial(_tokenize_block, block, tokenizer, sentence_split)
        return
    # loky's processes import this module and not the user's script, which needs no `if __name__ == "__main__"` then.
    pool = loky.ProcessPoolExecutor(processes, initializer=_begin_worker, initargs=(os.getpid(),))
    try:
        yield lambda block: pool.submit(_tokenize_block, block, tokenizer, sentence_split).result
    finally:
        pool.shutdown(kill_workers=True)  # what they have not finished, nobody waits for


def _begin_worker(parent: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    """A parent that was killed cannot end its processes; they see that they have another and end themselves."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _tokenize_block(block: Block, tokenizer: Tokenizer, sentence_split: str) -> TokenPart:
    return tokenize(documents_of(block, sentence_split), tokenizer)


def _finish(block: Block, path: Path, part: TokenPart | _Result) -> KeptPart:
    if not isinstance(part, TokenPart):
        part = part()
        with replaced(path) as aside:
            np.savez(aside, ids=part.ids, sentences=part.sentence_lengths, documents=part.document_lengths)
    return KeptPart(part, path, block.bytes_read)


def _key(block: Block, tokenizer: Tokenizer, sentence_split: str) -> str:
    texts = [(piece.is_jsonl, hashlib.sha256(piece.data).hexdigest()) for piece in block.pieces]
    settings = [FORMAT_VERSION, tokenizer.fingerprint, sentence_split, texts]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]


def _load(path: Path) -> TokenPart | None:
    """The part kept in a file; None when there is none, or when its checksums tell that it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return TokenPart(arrays["ids"], arrays["sentences"], arrays["documents"])
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None  # made again


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
