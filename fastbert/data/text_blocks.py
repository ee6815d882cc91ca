"""Corpus files in blocks: stretches of whole documents, small enough to be worked on one at a time."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastbert.data.textfiles import BYTE_ORDER_MARK, decode_line, opened

BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Piece:
    """Whole documents of one file, decompressed.

    Attributes:
        path: the file.
        first_line: which line of the file ``data`` begins with, from 1.
        data: the lines, undecoded, without a byte order mark.
    """

    path: Path
    first_line: int
    data: bytes

    @property
    def is_jsonl(self) -> bool:
        return _is_jsonl(self.path)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield ``(line_number, line)``. Only ``\\n`` ends a line, and it stays on the line.

        Raises:
            DataError: a line is not UTF-8.
        """
        for number, line in enumerate(io.BytesIO(self.data), start=self.first_line):
            yield number, decode_line(line, self.path, number)


@dataclass(frozen=True)
class Block:
    """Pieces that lie one after the other in a corpus, and how many bytes of its files they took to read."""

    pieces: tuple[Piece, ...]
    bytes_read: int


def read_blocks(paths: Iterable[Path], size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Read files in order, in blocks of at least ``size`` bytes of text (the last may be smaller).

    Small files share a block, and large ones are cut between documents: after any line of ``.jsonl``, after a blank
    line of ``.txt``. The same files give the same blocks.

    Raises:
        DataError: compressed data is damaged.
    """
    pieces: list[Piece] = []
    length = bytes_read = 0
    for path in paths:
        for piece, read in _pieces(path, size):
            pieces.append(piece)
            length += len(piece.data)
            bytes_read += read
            if length >= size:
                yield Block(tuple(pieces), bytes_read)
                pieces, length, bytes_read = [], 0, 0
    if pieces:
        yield Block(tuple(pieces), bytes_read)


def _pieces(path: Path, size: int) -> Iterator[tuple[Piece, int]]:
    """The pieces of one file, each with how many bytes of the file were read for it."""
    with opened(path) as stream:
        file = stream.fileobj if isinstance(stream, gzip.GzipFile) else stream
        assert file is not None
        first_line = 1
        position = 0
        while data := stream.read(size):
            data += _rest_of_document(stream, by_line=_is_jsonl(path))
            lines = data.count(b"\n")
            if first_line == 1:
                data = data.removeprefix(BYTE_ORDER_MARK)
            yield Piece(path, first_line, data), file.tell() - position
            first_line += lines
            position = file.tell()


def _rest_of_document(stream: IO[bytes], *, by_line: bool) -> bytes:
    # What comes first may be the end of a line that was cut; it is never taken for a blank one.
    rest = [stream.readline()]
    if not by_line:
        for line in stream:
            rest.append(line)
            if not line.strip():
                break
    return b"".join(rest)


def _is_jsonl(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz"))
