"""Tables of records in files: CSV, TSV and JSONL, with the line of every row."""

from __future__ import annotations

import contextlib
import csv
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fastbert.data.errors import DataError
from fastbert.data.textfiles import parse_json_object, read_lines

LONGEST_CSV_FIELD = 2**31 - 1  # characters; the csv module's own default, 131,072, is less than a long article
_csv_limit = threading.Lock()


def read_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Yield ``(line_number, row)`` of a ``.csv``, ``.tsv`` or ``.jsonl`` file, each also as ``.gz``.

    A row maps the header's names, or the object's keys, to values. Those of CSV and TSV are kept as written: "NA" is
    text. CSV is quoted as in RFC 4180, and a quoted field may span lines; TSV has no quoting, so a quotation mark is
    text.

    Raises:
        DataError: another ending, a row with too few or too many fields, a column name that occurs twice, malformed
            CSV or JSON, text that is not UTF-8: with file and line.
    """
    stem = path.name.removesuffix(".gz")
    if stem.endswith(".jsonl"):
        return _jsonl_rows(path)
    if stem.endswith(".csv"):
        return _table_rows(path, _csv_fields(path))
    if stem.endswith(".tsv"):
        return _table_rows(path, tsv_fields(path))
    raise DataError(f"data file {path} must end in .csv, .tsv or .jsonl, or in one of them and .gz")


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in read_lines(path):
        if line.strip():
            yield number, parse_json_object(line, path, number)


def _csv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in read_lines(path)), strict=True)
    while True:
        first_line = reader.line_num + 1
        try:
            with _long_csv_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {first_line}: malformed CSV ({error})") from error
        yield first_line, fields


@contextlib.contextmanager
def _long_csv_fields() -> Iterator[None]:
    # The limit belongs to the whole process: it is raised while a row is read, by one thread at a time, and put back.
    with _csv_limit:
        before = csv.field_size_limit(LONGEST_CSV_FIELD)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def tsv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line_number, fields)`` of every line between tabs, no fields for an empty line."""
    for number, line in read_lines(path):
        text = line.rstrip("\r\n")
        yield number, text.split("\t") if text else []


def _table_rows(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Mapping[str, object]]]:
    header: list[str] | None = None
    for number, fields in rows:
        if not fields:
            continue
        if header is None:
            header = fields
            if len(set(header)) < len(header):
                raise DataError(f"{path}, line {number}: a column name occurs twice in {', '.join(header)}")
            continue
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, the header has {len(header)}")
        yield number, dict(zip(header, fields, strict=True))


def require_columns(row: Mapping[str, object], columns: Sequence[str], path: Path, number: int) -> bool:
    """True where the row has all the columns, else :class:`DataError` that names those it has."""
    for column in columns:
        if column not in row:
            raise DataError(f"{path}, line {number}: no column {column!r}, the columns are {', '.join(row)}")
    return True
