"""Text files read line by line, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from fastbert.data.errors import DataError

LINES_PER_REPORT = 1000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def require_file(path: str | os.PathLike[str], what: str) -> Path:
    """The path if it is a readable file, else a :class:`DataError` that says which ``what`` is missing."""
    resolved = Path(path)
    if resolved.is_dir():
        raise DataError(f"{what} {resolved} is a directory, a file is needed")
    if not resolved.is_file():
        raise DataError(f"{what} {resolved} does not exist")
    return resolved


def read_lines(path: Path, *, progress: Callable[[int], None] | None = None) -> Iterator[tuple[int, str]]:
    """Yield ``(line_number, line)`` of a UTF-8 file, gzip-compressed when its name ends in ``.gz``.

    Line numbers start at 1. Only ``\\n`` ends a line (Unicode's other separators are text), and it stays on the line.
    A byte order mark is dropped.

    Args:
        path: the file.
        progress: called now and then with the number of bytes of the file itself read since the last call.

    Raises:
        DataError: a line is not UTF-8, or the compressed data is damaged.
    """
    with path.open("rb") as raw:
        stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw)
        reported = 0
        number = 0
        try:
            for number, line in enumerate(stream, start=1):
                if number == 1:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                yield number, _decode(line, path, number)
                if progress is not None and number % LINES_PER_REPORT == 0:
                    position = raw.tell()
                    progress(position - reported)
                    reported = position
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a complete gzip file: {error} after line {number}") from error
        if progress is not None:
            progress(raw.tell() - reported)


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


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8; "
            "convert the file to UTF-8"
        ) from error
