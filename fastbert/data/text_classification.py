"""Labelled texts from CSV, TSV and JSONL, and the examples made of them."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastbert.data.errors import DataError
from fastbert.data.examples import Example
from fastbert.data.textfiles import parse_json_object, read_lines, require_file, require_text
from fastbert.data.tokenisation import Tokenizer
from fastbert.data.truncation import truncated_lengths

LONGEST_CSV_FIELD = 2**31 - 1  # characters; the csv module's own default, 131,072, is less than a long article
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_csv_limit = threading.Lock()


@dataclass(frozen=True)
class TextRecord:
    """One labelled text, or pair of texts.

    Attributes:
        text: the text.
        text_pair: the second text, or None.
        label: the label as written, or None when the file was read without labels.
        source: file and line, for error messages.
    """

    text: str
    text_pair: str | None = None
    label: str | None = None
    source: str = "a record"


def read_records(
    path: str | os.PathLike[str],
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_column: str | None = "label",
) -> list[TextRecord]:
    """Read a ``.csv``, ``.tsv`` or ``.jsonl`` file (each also as ``.gz``) with a header row, or with one object a line.

    Values are kept as written: "NA" is text. CSV is quoted as in RFC 4180, and a quoted field may span lines; TSV has
    no quoting, so a quotation mark is text.

    Args:
        path: the file.
        text_column: the text's column.
        text_pair_column: the second text's column, or None.
        label_column: the label's column, or None to read no labels.

    Raises:
        DataError: a missing or empty file, a missing column (the columns found are named), a row with too few or too
            many fields, an empty label, text that is not UTF-8: with file and line.
    """
    file = require_file(path, "data file")
    rows = _rows(file)
    columns = [text_column, *(column for column in (text_pair_column, label_column) if column is not None)]
    records = [
        TextRecord(
            text=require_text(row[text_column], text_column, file, number),
            text_pair=None
            if text_pair_column is None
            else require_text(row[text_pair_column], text_pair_column, file, number),
            label=None if label_column is None else _label(row[label_column], label_column, file, number),
            source=f"{file}, line {number}",
        )
        for number, row in rows
        if _has_columns(row, columns, file, number)
    ]
    if not records:
        raise DataError(f"data file {file} has no records")
    return records


def build_label2id(records: Iterable[TextRecord]) -> dict[str, int]:
    """Number the labels in sorted order: as integers when every label is one, else as strings.

    Raises:
        DataError: a record without a label, or fewer than two different labels.
    """
    labels: set[str] = set()
    for record in records:
        if record.label is None:
            raise DataError(f"{record.source}: a label is needed")
        labels.add(record.label)
    if len(labels) < 2:
        found = f"the only label is {labels.pop()!r}" if labels else "there are no records"
        raise DataError(f"classification needs at least two different labels, {found}")
    integers = all(_INTEGER.fullmatch(label) for label in labels)
    key = _integer_order if integers else None
    return {label: i for i, label in enumerate(sorted(labels, key=key))}


class TextClassificationExamples:
    """Examples of labelled texts, the same in every epoch, tokenised once.

    A text alone becomes [CLS] text [SEP] or <start> text <extract>, a pair [CLS] a [SEP] b [SEP] or <start> a
    <delimiter> b <extract>. What exceeds ``max_length`` is cut from the end, from the longer text of a pair.

    Attributes:
        lengths: (len(self),) int64 tokens of every example.
        num_truncated: how many examples were cut.
    """

    def __init__(
        self,
        records: Sequence[TextRecord],
        tokenizer: Tokenizer,
        label2id: Mapping[str, int] | None,
        max_length: int,
    ) -> None:
        """Tokenise records.

        Args:
            records: what :func:`read_records` returned.
            tokenizer: with [CLS] and [SEP], or with the task tokens.
            label2id: label to class, or None for examples without targets.
            max_length: most tokens of an example, special tokens included.

        Raises:
            DataError: an unknown label (the known ones are named), a missing one, or ``max_length`` without room.
        """
        if max_length < Tokenizer.num_added(pair=True) + 2:
            raise DataError(f"max_length must be at least {Tokenizer.num_added(pair=True) + 2}, got {max_length}")
        self._labels = [None if label2id is None else _class_of(record, label2id) for record in records]
        first = tokenizer.encode_batch([record.text for record in records])
        pairs = iter(tokenizer.encode_batch([record.text_pair for record in records if record.text_pair is not None]))
        self._inputs: list[tuple[list[int], list[int] | None]] = []
        self.num_truncated = 0
        for record, a in zip(records, first, strict=True):
            if record.text_pair is None:
                room = max_length - Tokenizer.num_added(pair=False)
                self.num_truncated += len(a) > room
                self._inputs.append(tokenizer.build_single(a[:room]))
                continue
            b = next(pairs)
            keep_a, keep_b = truncated_lengths(len(a), len(b), max_length - Tokenizer.num_added(pair=True))
            self.num_truncated += keep_a + keep_b < len(a) + len(b)
            self._inputs.append(tokenizer.build_pair(a[:keep_a], b[:keep_b]))
        self.lengths: npt.NDArray[np.int64] = np.array([len(ids) for ids, _ in self._inputs], dtype=np.int64)

    def epoch(self, epoch: int) -> TextClassificationExamples:
        """These examples, whatever the epoch."""
        return self

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> Example:
        ids, token_types = self._inputs[index]
        segments = None if token_types is None else np.array(token_types, dtype=np.int64)
        return Example(np.array(ids, dtype=np.int64), segments, label=self._labels[index])


def _integer_order(label: str) -> tuple[int, str]:
    return int(label), label  # "0" and "-0" are one number and two labels


def _class_of(record: TextRecord, label2id: Mapping[str, int]) -> int:
    if record.label is None:
        raise DataError(f"{record.source}: a label is needed")
    if record.label not in label2id:
        raise DataError(f"{record.source}: unknown label {record.label!r}, known are {', '.join(label2id)}")
    return label2id[record.label]


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    stem = path.name.removesuffix(".gz")
    if stem.endswith(".jsonl"):
        return _jsonl_rows(path)
    if stem.endswith(".csv"):
        return _table_rows(path, _csv_fields(path))
    if stem.endswith(".tsv"):
        return _table_rows(path, _tsv_fields(path))
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


def _tsv_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
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


def _has_columns(row: Mapping[str, object], columns: Sequence[str], path: Path, number: int) -> bool:
    for column in columns:
        if column not in row:
            raise DataError(f"{path}, line {number}: no column {column!r}, the columns are {', '.join(row)}")
    return True


def _label(value: object, name: str, path: Path, number: int) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError(f'{path}, line {number}: "{name}" must be a string or an integer, got {value!r}')
    return require_text(value, name, path, number)
