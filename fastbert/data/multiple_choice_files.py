"""Multiple-choice questions in the files of SWAG, Story Cloze and RACE, and in plain JSONL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastbert.data.errors import DataError
from fastbert.data.multiple_choice import ChoiceQuestion
from fastbert.data.tables import read_rows, require_columns
from fastbert.data.textfiles import read_lines, require_file, require_text

Row = Mapping[str, object]

_SWAG = ("sent1", "sent2", "ending0", "ending1", "ending2", "ending3")
_STORY_CLOZE = (
    *(f"InputSentence{i}" for i in range(1, 5)),
    "RandomFifthSentenceQuiz1",
    "RandomFifthSentenceQuiz2",
)
RACE_LETTERS = "ABCDEFGHIJ"


def read_choice_questions(path: str | os.PathLike[str], *, labelled: bool = True) -> list[ChoiceQuestion]:
    """Read multiple-choice questions; the form is told by the file's name and header.

    - SWAG (Zellers et al. 2018), ``.csv`` with sent1, sent2, ending0 to ending3 and label (0 to 3): sent1 is the
      context, a choice is sent2 and an ending.
    - Story Cloze (Mostafazadeh et al. 2016), ``.csv`` with InputSentence1 to 4, RandomFifthSentenceQuiz1 and 2 and
      AnswerRightEnding (1 or 2): the four sentences are the context.
    - RACE (Lai et al. 2017), one ``.txt`` or ``.json`` file, or a directory of them at any depth: an object with
      article, questions, options and answers (letters from A). The gap "_" of a question stays in it.
    - ``.jsonl`` with context, choices, label (counted from 0), and where wanted question and id.

    Args:
        path: the file or the directory; tables and JSONL also as ``.gz``.
        labelled: whether the right choices are read.

    Raises:
        DataError: nothing to read, another form, a choice or a label that is missing or out of range, a malformed
            record: with file and line, or the question's number in RACE.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(file for file in root.rglob("*") if file.suffix in (".txt", ".json"))
        questions = [question for file in files for question in _race(file, labelled)]
    else:
        file = require_file(root, "data file")
        stem = file.name.removesuffix(".gz")
        if stem.endswith((".txt", ".json")):
            questions = list(_race(file, labelled))
        elif stem.endswith(".jsonl"):
            questions = [_plain(row, file, number, labelled) for number, row in read_rows(file)]
        else:
            questions = [_from_table(row, file, number, labelled) for number, row in read_rows(file)]
    if not questions:
        raise DataError(f"{root} has no multiple-choice questions")
    return questions


def _from_table(row: Row, path: Path, number: int, labelled: bool) -> ChoiceQuestion:
    if "ending0" in row:
        return _swag(row, path, number, labelled)
    if "RandomFifthSentenceQuiz1" in row:
        return _story_cloze(row, path, number, labelled)
    raise DataError(
        f"{path}: the columns are {', '.join(row)}; a table of questions is SWAG's ({', '.join(_SWAG)}, label) or "
        f"Story Cloze's ({', '.join(_STORY_CLOZE)}, AnswerRightEnding), anything else goes into JSONL with context, "
        "choices and label"
    )


def _swag(row: Row, path: Path, number: int, labelled: bool) -> ChoiceQuestion:
    require_columns(row, (*_SWAG, "label") if labelled else _SWAG, path, number)
    sent1, sent2, *endings = (_text(row, column, path, number) for column in _SWAG)
    return ChoiceQuestion(
        context=sent1,
        choices=tuple(f"{sent2} {_filled(ending, f'ending{i}', path, number)}" for i, ending in enumerate(endings)),
        label=_number_in(row["label"], "label", 0, 3, path, number) if labelled else None,
        names=("0", "1", "2", "3"),
        id=str(row[""]) if "" in row else None,  # its first column, the number of the row, has no name
        source=f"{path}, line {number}",
    )


def _story_cloze(row: Row, path: Path, number: int, labelled: bool) -> ChoiceQuestion:
    answer = "AnswerRightEnding"
    require_columns(row, (*_STORY_CLOZE, answer) if labelled else _STORY_CLOZE, path, number)
    *sentences, first, second = (_filled(_text(row, c, path, number), c, path, number) for c in _STORY_CLOZE)
    return ChoiceQuestion(
        context=" ".join(sentences),
        choices=(first, second),
        label=_number_in(row[answer], answer, 1, 2, path, number) - 1 if labelled else None,
        names=("1", "2"),
        id=str(row["InputStoryid"]) if "InputStoryid" in row else None,
        source=f"{path}, line {number}",
    )


def _plain(row: Row, path: Path, number: int, labelled: bool) -> ChoiceQuestion:
    require_columns(row, ("context", "choices", "label") if labelled else ("context", "choices"), path, number)
    choices = _choices(row["choices"], "choices", path, number, f"line {number}")
    label = None
    if labelled:
        label = _number_in(row["label"], "label", 0, len(choices) - 1, path, number)
    return ChoiceQuestion(
        context=_text(row, "context", path, number),
        choices=choices,
        label=label,
        question=_text(row, "question", path, number) if "question" in row else "",
        id=str(row["id"]) if "id" in row else None,
        source=f"{path}, line {number}",
    )


def _race(path: Path, labelled: bool) -> Iterator[ChoiceQuestion]:
    try:
        passage = json.loads("".join(line for _, line in read_lines(path)))
    except ValueError as error:
        raise DataError(f"{path}: malformed JSON ({error})") from error
    wanted = ("article", "questions", "options", *(("answers",) if labelled else ()))
    if not isinstance(passage, dict):
        raise DataError(f"{path}: a RACE passage is an object with {', '.join(wanted)}, got a {type(passage).__name__}")
    if missing := [name for name in wanted if name not in passage]:
        raise DataError(f"{path}: {', '.join(missing)} missing; a RACE passage has {', '.join(wanted)}")
    lists = [passage[name] for name in wanted[1:]]
    if not all(isinstance(values, list) and len(values) == len(lists[0]) for values in lists):
        raise DataError(f"{path}: {', '.join(wanted[1:])} must be lists of one length, an entry for each question")
    article = require_text(passage["article"], "article", path, 1)
    for i, (question, options) in enumerate(zip(passage["questions"], passage["options"], strict=True)):
        place = f"question {i + 1}"
        choices = _choices(options, "options", path, 1, place)
        letters = tuple(RACE_LETTERS[: len(choices)])
        answer = passage["answers"][i] if labelled else None
        if labelled and answer not in letters:
            allowed = ", ".join(letters)
            raise DataError(f"{path}, {place}: the answer is {answer!r}; allowed: {allowed}, a letter for each option")
        yield ChoiceQuestion(
            context=article,
            choices=choices,
            label=letters.index(str(answer)) if labelled else None,
            question=require_text(question, "questions", path, 1),
            names=letters,
            id=f"{passage.get('id', path.name)}-{i}",
            source=f"{path}, {place}",
        )


def _text(row: Row, column: str, path: Path, number: int) -> str:
    return require_text(row[column], column, path, number)


def _filled(text: str, column: str, path: Path, number: int) -> str:
    if not text.strip():
        raise DataError(f'{path}, line {number}: "{column}" is empty, every choice and sentence needs a text')
    return text


def _choices(values: object, name: str, path: Path, number: int, place: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise DataError(f'{path}, {place}: "{name}" must be a list of texts, none of them empty, got {values!r}')
    if not 2 <= len(values) <= len(RACE_LETTERS):
        raise DataError(f'{path}, {place}: "{name}" has {len(values)} texts; allowed: 2 to {len(RACE_LETTERS)}')
    return tuple(require_text(value, name, path, number) for value in values)


def _number_in(value: object, name: str, least: int, most: int, path: Path, number: int) -> int:
    text = "" if isinstance(value, bool) else str(value)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise DataError(f'{path}, line {number}: "{name}" is {value!r}; allowed: {least} to {most}')
    return int(text)
