"""Question answering in SQuAD's files (Rajpurkar et al. 2016 and 2018)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastbert.data.errors import DataError
from fastbert.data.textfiles import require_file


@dataclass(frozen=True)
class Answer:
    """A span of a context: ``context[start : start + len(text)] == text``."""

    text: str
    start: int


@dataclass(frozen=True)
class SquadQuestion:
    """A question about a context.

    Attributes:
        id: of the question, unique in its file.
        question: its text.
        context: where the answer is.
        answers: the right ones, any of them; none where the context holds no answer, or where they were not read.
        optional: whether questions of the file may have no answer, as in SQuAD 2.0.
        source: file and id, for errors.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    optional: bool
    source: str


def read_squad(path: str | os.PathLike[str], *, labelled: bool = True) -> list[SquadQuestion]:
    """Read a ``.json`` file of SQuAD 1.1 or 2.0: data, paragraphs, qas.

    A file is of the second kind if its version says so or a question has "is_impossible".

    Args:
        path: the file.
        labelled: whether answers are read; without, questions need none.

    Raises:
        DataError: no such file, no JSON, no questions, a field that is missing or of another type, an id that occurs
            twice, a question of SQuAD 1.1 without an answer, an answer that is not where it says: with file and id.
    """
    file = require_file(path, "data file")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: an object with data is needed, this is a {type(content).__name__}")
    entries = list(_entries(content, file))
    optional = str(content.get("version", "")).removeprefix("v").startswith("2")
    optional = optional or any("is_impossible" in entry for entry, _ in entries)
    questions = [_question(entry, context, optional, labelled, file) for entry, context in entries]
    if not questions:
        raise DataError(f"{file} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise DataError(f"{question.source}: the id occurs twice")
        seen.add(question.id)
    return questions


def _entries(content: Mapping[str, object], file: Path) -> Iterator[tuple[Mapping[str, object], str]]:
    """Every question with its context."""
    for i, article in enumerate(_list(content, "data", str(file))):
        place = f"{file}, article {i + 1}"
        for j, paragraph in enumerate(_list(_object(article, place), "paragraphs", place)):
            where = f"{place}, paragraph {j + 1}"
            context = _text(_object(paragraph, where), "context", where)
            for entry in _list(_object(paragraph, where), "qas", where):
                yield _object(entry, where), context


def _question(entry: Mapping[str, object], context: str, optional: bool, labelled: bool, file: Path) -> SquadQuestion:
    identity = _text(entry, "id", str(file))
    source = f"{file}, question {identity}"
    answers: tuple[Answer, ...] = ()
    if labelled and not entry.get("is_impossible", False):
        answers = tuple(_answer(_object(answer, source), context, source) for answer in _list(entry, "answers", source))
        if not answers and not optional:
            raise DataError(f"{source}: no answer; a file of SQuAD 1.1 has one for every question")
    return SquadQuestion(identity, _text(entry, "question", source), context, answers, optional, source)


def _answer(answer: Mapping[str, object], context: str, source: str) -> Answer:
    text, start = _text(answer, "text", source), answer.get("answer_start")
    if not isinstance(start, int) or isinstance(start, bool):
        raise DataError(f'{source}: "answer_start" must be an integer, got {start!r}')
    if start < 0 or context[start : start + len(text)] != text:
        found = context[max(start, 0) : max(start, 0) + len(text)]
        raise DataError(f"{source}: the answer {text!r} is not at {start} of its context, where {found!r} is")
    return Answer(text, start)


def _object(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise DataError(f"{place}: an object is needed, this is a {type(value).__name__}")
    return value


def _list(values: Mapping[str, object], name: str, place: str) -> list[object]:
    value = values.get(name)
    if not isinstance(value, list):
        raise DataError(f'{place}: "{name}" must be a list, got {"nothing" if value is None else type(value).__name__}')
    return value


def _text(values: Mapping[str, object], name: str, place: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise DataError(
            f'{place}: "{name}" must be a string, got {"nothing" if value is None else type(value).__name__}'
        )
    return value
