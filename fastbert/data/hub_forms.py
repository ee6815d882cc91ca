"""The files that data sets of the Hugging Face hub become, one form for the tasks that read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fastbert.data.errors import DataError
from fastbert.data.glue import GlueLayout
from fastbert.data.multiple_choice_files import RACE_LETTERS

Rows: TypeAlias = Iterable[Mapping[str, Any]]
"""Rows of a data set, with the names of classes in place of their numbers and None for no class."""
Classes: TypeAlias = Mapping[str, list[str]]
"""The columns that hold classes, or lists of them, with the names."""


@dataclass(frozen=True)
class FileForm:
    """A form of file: its ending, and what writes it. KeyError for a column that is not there."""

    suffix: str
    write: Callable[[Path, Rows, Classes], None]


def _write_jsonl(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _write_table(path: Path, rows: Rows, _: Classes) -> None:
    """JSONL with the data set's own columns; one without a value is left out of its row."""
    _write_jsonl(path, ({name: value for name, value in row.items() if value is not None} for row in rows))


def _write_choices(path: Path, rows: Rows, _: Classes) -> None:
    """JSONL of context, choices and label, from SWAG's columns, RACE's, or these themselves."""
    _write_jsonl(path, map(_choice_row, rows))


def _choice_row(row: Mapping[str, Any]) -> dict[str, Any]:
    if "ending0" in row:
        endings = [row[f"ending{i}"] for i in range(4)]
        made = {"context": row["sent1"], "choices": [f"{row['sent2']} {ending}" for ending in endings]}
        label = row["label"]
    elif "article" in row:
        made = {"context": row["article"], "question": row["question"], "choices": row["options"]}
        label = RACE_LETTERS.find(row["answer"]) if row["answer"] else None
    else:
        made = {"context": row["context"], "choices": row["choices"]}
        made |= {name: row[name] for name in ("question", "id") if name in row}
        label = row.get("label")
    return made if label is None else {**made, "label": label}


def _write_tags(path: Path, rows: Rows, classes: Classes) -> None:
    """A column file: the words, then every column of tags in the data set's order."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number, row in enumerate(rows):
            columns = [row["tokens"], *(row[name] for name in classes if isinstance(row[name], list))]
            for fields in zip(*columns, strict=True):
                if any(not field or re.search(r"[ \t\r\n]", field) for field in fields):
                    raise DataError(f"row {number} has {fields!r}; a column file takes no empty field and no space")
                file.write(" ".join(fields) + "\n")
            file.write("\n")


def _write_questions(path: Path, rows: Rows, _: Classes) -> None:
    """SQuAD's JSON, of version 2.0 where a question has no answer."""
    paragraphs = []
    for row in rows:
        answers = row["answers"]
        entry = {"id": row["id"], "question": row["question"], "answers": []}
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            entry["answers"].append({"text": text, "answer_start": start})
        paragraphs.append({"context": row["context"], "qas": [entry]})
    optional = any(not paragraph["qas"][0]["answers"] for paragraph in paragraphs)
    content = {"version": "v2.0" if optional else "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def glue_form(layout: GlueLayout) -> FileForm:
    """GLUE's TSV, from the columns of the data set ``glue``: the texts in order, ``label``, ``idx``."""

    def write(path: Path, rows: Rows, classes: Classes) -> None:
        header = [name for name in (layout.id, layout.text, layout.text_pair, layout.label) if name is not None]
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.write("\t".join(header) + "\n")
            for row in rows:
                texts = [str(value) for name, value in row.items() if name not in ("label", "idx")]
                fields = [str(row["idx"]), *texts, _glue_label(row["label"], layout, classes.get("label", []))]
                if len(fields) != len(header) or any(re.search(r"[\t\n\r]", text) for text in texts):
                    raise DataError(f"the row {fields!r} does not fit {', '.join(header)}; texts take no tabs")
                file.write("\t".join(fields) + "\n")

    return FileForm(".tsv", write)


def _glue_label(label: Any, layout: GlueLayout, names: list[str]) -> str:
    if label is None:
        return ""
    return str(names.index(label)) if names and layout.labels == ("0", "1") else str(label)


TABLE = FileForm(".jsonl", _write_table)
CHOICES = FileForm(".jsonl", _write_choices)
TAGS = FileForm(".txt", _write_tags)
QUESTIONS = FileForm(".json", _write_questions)
