"""The nine tasks of GLUE (Wang et al. 2019) as their TSV files are laid out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastbert.data.errors import DataError
from fastbert.data.tables import read_rows, require_columns, tsv_fields
from fastbert.data.text_classification import TextRecord
from fastbert.data.textfiles import require_file


@dataclass(frozen=True)
class GlueLayout:
    """Where a task's files have what.

    Attributes:
        text: the column of the text.
        text_pair: the column of the second text, or None.
        label: the column of the label.
        labels: all labels, in the order of their classes; none where the label is a number.
        unnamed: the columns of files without a header (CoLA's training and development sets), or ().
        id: the column that numbers the test set.
    """

    text: str
    text_pair: str | None
    label: str
    labels: tuple[str, ...]
    unnamed: tuple[str, ...] = ()
    id: str = "index"


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")

GLUE_LAYOUTS: Mapping[str, GlueLayout] = {
    "cola": GlueLayout("sentence", None, "label", _BINARY, unnamed=("source", "label", "judgement", "sentence")),
    "sst2": GlueLayout("sentence", None, "label", _BINARY),
    "mrpc": GlueLayout("#1 String", "#2 String", "Quality", _BINARY),
    "stsb": GlueLayout("sentence1", "sentence2", "score", ()),
    "qqp": GlueLayout("question1", "question2", "is_duplicate", _BINARY, id="id"),
    "mnli": GlueLayout("sentence1", "sentence2", "gold_label", ("contradiction", "entailment", "neutral")),
    "qnli": GlueLayout("question", "sentence", "label", _ENTAILMENT),
    "rte": GlueLayout("sentence1", "sentence2", "label", _ENTAILMENT),
    "wnli": GlueLayout("sentence1", "sentence2", "label", _BINARY),
}


def read_glue(path: str | os.PathLike[str], layout: GlueLayout, *, labelled: bool = True) -> list[TextRecord]:
    """Read one of a task's .tsv files: train, dev (matched or mismatched for MNLI) or test.

    Args:
        path: the file, also as ``.gz``.
        layout: the task's.
        labelled: whether the labels are read, which test files do not have.

    Raises:
        DataError: a missing or empty file, one of another layout, a label that the task does not have: with file and
            line.
    """
    file = require_file(path, "GLUE file")
    if not file.name.removesuffix(".gz").endswith(".tsv"):
        raise DataError(f"GLUE file {file} must end in .tsv or .tsv.gz")
    columns = [layout.text, *([layout.text_pair] if layout.text_pair else []), *([layout.label] if labelled else [])]
    records = [
        TextRecord(
            text=str(row[layout.text]),
            text_pair=str(row[layout.text_pair]) if layout.text_pair else None,
            label=_label(str(row[layout.label]), layout, file, number) if labelled else None,
            source=f"{file}, line {number}",
            id=str(row.get(layout.id, index)),
        )
        for index, (number, row) in enumerate(_rows(file, layout))
        if require_columns(row, columns, file, number)
    ]
    if not records:
        raise DataError(f"GLUE file {file} has no records")
    return records


def _rows(file: Path, layout: GlueLayout) -> Iterator[tuple[int, Mapping[str, object]]]:
    if layout.unnamed and next((fields for _, fields in tsv_fields(file) if fields), [layout.id])[0] != layout.id:
        return _unnamed_rows(file, layout.unnamed)
    return read_rows(file)


def _unnamed_rows(file: Path, names: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, fields in tsv_fields(file):
        if not fields:
            continue
        if len(fields) != len(names):
            raise DataError(f"{file}, line {number}: {len(fields)} fields, {len(names)} are needed: {', '.join(names)}")
        yield number, dict(zip(names, fields, strict=True))


def _label(label: str, layout: GlueLayout, file: Path, number: int) -> str:
    if layout.labels and label not in layout.labels:
        raise DataError(
            f"{file}, line {number}: {layout.label} is {label!r}; allowed: {', '.join(layout.labels)} (a test file has "
            "no labels: predict reads it)"
        )
    return label
