"""Labelled texts from CSV, TSV and JSONL, and the examples made of them: classes or numbers to learn."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastbert.data.errors import DataError
from fastbert.data.tables import read_rows, require_columns
from fastbert.data.text_examples import TextExamples
from fastbert.data.textfiles import require_file, require_text
from fastbert.data.tokenisation import Tokenizer

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")


@dataclass(frozen=True)
class TextRecord:
    """One labelled text, or pair of texts.

    Attributes:
        text: the text.
        text_pair: the second text, or None.
        label: the label as written, or None when the file was read without labels.
        source: file and line, for error messages.
        id: what the file calls the record, or None.
    """

    text: str
    text_pair: str | None = None
    label: str | None = None
    source: str = "a record"
    id: str | None = None

    @property
    def texts(self) -> tuple[str, str | None]:
        """The text, and the second one or None."""
        return self.text, self.text_pair


def read_records(
    path: str | os.PathLike[str],
    *,
    text_column: str = "text",
    text_pair_column: str | None = None,
    label_column: str | None = "label",
    labels: Literal["classes", "numbers"] = "classes",
) -> list[TextRecord]:
    """Read labelled texts from a table as :func:`fastbert.data.tables.read_rows` reads it.

    Args:
        path: the file.
        text_column: the text's column.
        text_pair_column: the second text's column, or None.
        label_column: the label's column, or None to read no labels.
        labels: "classes", strings or integers; or "numbers", finite ones.

    Raises:
        DataError: a missing or empty file, a missing column (the columns found are named), a row with too few or too
            many fields, an empty label or one that is no number, text that is not UTF-8: with file and line.
    """
    file = require_file(path, "data file")
    read_label = _label if labels == "classes" else _number
    columns = [text_column, *(column for column in (text_pair_column, label_column) if column is not None)]
    records = [
        TextRecord(
            text=require_text(row[text_column], text_column, file, number),
            text_pair=None
            if text_pair_column is None
            else require_text(row[text_pair_column], text_pair_column, file, number),
            label=None if label_column is None else read_label(row[label_column], label_column, file, number),
            source=f"{file}, line {number}",
        )
        for number, row in read_rows(file)
        if require_columns(row, columns, file, number)
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


class TextClassificationExamples(TextExamples):
    """Examples of texts, or of pairs, with a class to learn."""

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
        targets = None if label2id is None else class_targets(records, label2id)
        super().__init__([record.texts for record in records], tokenizer, targets, max_length)


def class_targets(records: Iterable[TextRecord], label2id: Mapping[str, int]) -> list[int]:
    """The class of every record.

    Raises:
        DataError: an unknown label (the known ones are named), or a missing one.
    """
    return [_class_of(record, label2id) for record in records]


def number_targets(records: Iterable[TextRecord]) -> list[float]:
    """The labels of records that were read with numbers.

    Raises:
        DataError: a label that is missing or no number.
    """
    return [_number_of(record) for record in records]


def _integer_order(label: str) -> tuple[int, str]:
    return int(label), label  # "0" and "-0" are one number and two labels


def _class_of(record: TextRecord, label2id: Mapping[str, int]) -> int:
    if record.label is None:
        raise DataError(f"{record.source}: a label is needed")
    if record.label not in label2id:
        raise DataError(f"{record.source}: unknown label {record.label!r}, known are {', '.join(label2id)}")
    return label2id[record.label]


def _number_of(record: TextRecord) -> float:
    value = _finite(record.label)
    if value is None:
        raise DataError(f"{record.source}: the label must be a finite number, got {record.label!r}")
    return value


def _finite(label: object) -> float | None:
    try:
        value = float(label)  # type: ignore[arg-type] # what is no number says so
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _number(value: object, name: str, path: Path, number: int) -> str:
    if isinstance(value, bool) or _finite(value) is None:
        raise DataError(f'{path}, line {number}: "{name}" must be a finite number, got {value!r}')
    return str(value)


def _label(value: object, name: str, path: Path, number: int) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError(f'{path}, line {number}: "{name}" must be a string or an integer, got {value!r}')
    return require_text(value, name, path, number)
