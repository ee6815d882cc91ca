"""Text files read line by line, with errors that name the file and the line."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from fastbert.data.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def require_file(path: str | os.PathLike[str], what: str) -> Path:
    """The path if it is a readable file, else a :class:`DataError` that says which ``what`` is missing."""
    resolved = Path(path)
    if resolved.is_dir():
        raise DataError(f"{what} {resolved} is a directory, a file is needed")
    if not resolved.is_file():
        raise DataError(f"{what} {resolved} does not exist")
    return resolved


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(line_number, line)`` of a UTF-8 file, gzip-compressed when its name ends in ``.gz``.

    Line numbers start at 1. Only ``\\n`` ends a line (Unicode's other separators are text), and it stays on the line.
    A byte order mark is dropped.

    Raises:
        DataError: a line is not UTF-8, or the compressed data is damaged.
    """
    with opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, decode_line(line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line, path, number)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed when its name ends in ``.gz``; :class:`DataError` when they are damaged."""
    try:
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a complete gzip file: {error}") from error


def decode_line(line: bytes, path: Path, number: int) -> str:
    """The text of one line of a file; :class:`DataError` with file and line when it is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8; "
            "convert the file to UTF-8"
        ) from error


def parse_json_object(line: str, path: Path, number: int) -> dict[str, object]:
    """The JSON object on one line of a file; :class:`DataError` with file and line when it is not one."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: malformed JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: a JSON object is needed, got a {type(row).__name__}")
    return row


def require_text(value: object, name: str, path: Path, number: int) -> str:
    """``value`` if it is a string of real characters; JSON can also hold halves of surrogate pairs."""
    if not isinstance(value, str):
        raise DataError(f'{path}, line {number}: "{name}" must be a string, got a {type(value).__name__}')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f'{path}, line {number}: "{name}" holds half a surrogate pair, which is no character'
        ) from error
    return value
