"""Column files of the CoNLL shared tasks: a token and its tags a line, an empty line between sentences."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fastbert.data.errors import DataError
from fastbert.data.textfiles import read_lines, require_file

DOCUMENT_START = "-DOCSTART-"
_BETWEEN_COLUMNS = re.compile(r"[ \t]+")  # Unicode's other spaces occur in tokens


@dataclass(frozen=True)
class TaggedSentence:
    """The words of a sentence and their tags.

    Attributes:
        words: the words.
        tags: a tag for each word as written, or None when the file was read without tags.
        rows: all columns of every word, to write the sentence again.
        lines: the line of every word.
        source: the file, for error messages.
        heading: the columns of the -DOCSTART- line before the sentence, or None where there is none.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[int, ...] = ()
    source: str = "a sentence"
    heading: tuple[str, ...] | None = None

    def place(self, word: int) -> str:
        """File and line of a word."""
        return f"{self.source}, line {self.lines[word]}" if self.lines else self.source


def read_column_file(
    path: str | os.PathLike[str], *, token_column: int = 0, tag_column: int | None = -1
) -> list[TaggedSentence]:
    """Read a column file, gzip-compressed when its name ends in ``.gz``.

    Columns stand between spaces and tabs, and every line has the same number of them. A line whose token is
    -DOCSTART- opens a document and is no sentence.

    Args:
        path: the file.
        token_column: the words' column, counted from 0, or from the last one with -1.
        tag_column: the tags' column, likewise, or None to read no tags.

    Raises:
        DataError: a missing file, one without sentences, text that is not UTF-8, a column that is not there, or a line
            with another number of columns than the first: with file and line.
    """
    file = require_file(path, "data file")
    sentences: list[TaggedSentence] = []
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    heading: tuple[str, ...] | None = None
    width: int | None = None

    def close() -> None:
        nonlocal heading
        if rows:
            sentences.append(_sentence(file, rows, lines, heading, token_column, tag_column))
            rows.clear()
            lines.clear()
            heading = None

    for number, line in read_lines(file):
        # A corpus repeats its words and tags: each is kept once.
        fields = tuple(sys.intern(field) for field in _BETWEEN_COLUMNS.split(line.strip(" \t\r\n")) if field)
        if not fields:
            close()
            continue
        if fields[0] == DOCUMENT_START:
            close()
            heading = fields
            continue
        width = len(fields) if width is None else width
        if len(fields) != width:
            raise DataError(
                f"{file}, line {number}: {len(fields)} columns, the lines before have {width}; a token and its tags "
                "stand between spaces or tabs, an empty line ends a sentence"
            )
        for name, column in (("token_column", token_column), ("tag_column", tag_column)):
            if column is not None and not -width <= column < width:
                raise DataError(f"{file}, line {number}: {name} is {column}; allowed: {-width} to {width - 1}")
        rows.append(fields)
        lines.append(number)
    close()
    if not sentences:
        raise DataError(f"data file {file} has no sentences")
    if tag_column is not None and width is not None and tag_column % width == token_column % width:
        raise DataError(f"{file}: tag_column {tag_column} is the tokens' column; the lines have {width}")
    return sentences


def write_column_file(path: Path, sentences: Iterable[TaggedSentence], tags: Iterable[tuple[str, ...]]) -> None:
    """Write sentences with a tag more on every line, after their own columns, as conlleval reads gold and predicted.

    A -DOCSTART- line gets the tag O.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sentence, predicted in zip(sentences, tags, strict=True):
            if sentence.heading is not None:
                file.write(" ".join((*sentence.heading, "O")) + "\n\n")
            rows = sentence.rows or tuple((word,) for word in sentence.words)
            for row, tag in zip(rows, predicted, strict=True):
                file.write(" ".join((*row, tag)) + "\n")
            file.write("\n")


def _sentence(
    file: Path,
    rows: list[tuple[str, ...]],
    lines: list[int],
    heading: tuple[str, ...] | None,
    token_column: int,
    tag_column: int | None,
) -> TaggedSentence:
    words = tuple(row[token_column] for row in rows)
    tags = None if tag_column is None else tuple(row[tag_column] for row in rows)
    return TaggedSentence(words, tags, tuple(rows), tuple(lines), str(file), heading)
