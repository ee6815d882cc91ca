"""Raw text for pretraining: files to documents, documents to sentences, streaming."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fastbert.data.errors import DataError
from fastbert.data.text_blocks import Block, Piece, read_blocks
from fastbert.data.textfiles import parse_json_object, require_file, require_text
from fastbert.files import replaced

Document = list[str]
"""The sentences of one document, in order, none of them empty."""

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
SENTENCE_SPLITS = ("line", "regex")

# A sentence ends after . ! ? (and closing quotes or brackets) before white space and something that can begin one, or
# after the full-width marks of Chinese and Japanese, which no space follows.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W_a-z])|(?<=[。！？])[”’」』）]*(?=\S)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|cf|Fig|Figs|Eq|Sec|approx|e\.g|i\.e|a\.k\.a)|\b[A-Z]|\.[A-Z])\.$"
)


def find_files(patterns: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that paths and glob patterns (``**`` included) name: each once, sorted within a pattern.

    Raises:
        DataError: no pattern, a missing file, a pattern without a match, or a name with an unknown ending.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        text = os.fspath(pattern)
        exact = Path(text).exists() or not glob.has_magic(text)
        globbed = [] if exact else sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - Path.glob takes no "/..."
        matches = [text] if exact else [match for match in globbed if Path(match).is_file()]
        if not matches:
            raise DataError(f"corpus pattern {text!r} matches no file")
        found |= dict.fromkeys(require_file(match, "corpus file") for match in matches)
    if not found:
        raise DataError("the corpus names no file, at least one is needed")
    for path in found:
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"corpus file {path} must end in one of {', '.join(SUFFIXES)}")
    return list(found)


def read_documents(patterns: Iterable[str | os.PathLike[str]], *, sentence_split: str = "line") -> Iterator[Document]:
    """Yield the documents of a corpus one after the other.

    ``.txt``: a blank line ends a document, each line is a sentence. ``.jsonl``: an object a line, its "text" is a
    document whose lines are sentences. Both also gzip-compressed, as ``.gz``.

    Args:
        patterns: paths and glob patterns.
        sentence_split: "line" takes a line as one sentence, "regex" also splits within lines.

    Raises:
        DataError: see :func:`find_files`; text that is not UTF-8 and malformed JSON, with file and line; no text.
    """
    check_sentence_split(sentence_split)
    paths = find_files(patterns)
    empty = True
    for block in read_blocks(paths):
        for document in documents_of(block, sentence_split):
            empty = False
            yield document
    if empty:
        raise DataError(f"there is no text in the corpus: {_listed(paths)}")


def check_sentence_split(sentence_split: str) -> None:
    """Raise :class:`DataError` unless it is a known way to split."""
    if sentence_split not in SENTENCE_SPLITS:
        raise DataError(f"sentence_split must be one of {', '.join(SENTENCE_SPLITS)}, got {sentence_split!r}")


def documents_of(block: Block, sentence_split: str) -> Iterator[Document]:
    """Yield the documents of one block of a corpus. See :func:`read_documents`."""
    for piece in block.pieces:
        read = _read_jsonl if piece.is_jsonl else _read_txt
        for lines in read(piece):
            document = [s for line in lines for s in _sentences(line, sentence_split)]
            if document:
                yield document


def split_sentences(text: str) -> list[str]:
    """Split one paragraph into sentences by punctuation. Common abbreviations and initials end none."""
    sentences: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        end = match.start() + len(match.group().rstrip())
        if _ABBREVIATION.search(text, max(0, match.start() - 12), match.start()):
            continue
        sentences.append(text[start:end].strip())
        start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def write_documents(path: str | os.PathLike[str], documents: Iterable[Sequence[str]]) -> None:
    """Write documents as a ``.txt`` corpus: a sentence a line, a blank line between documents. Renamed into place."""
    with replaced(Path(path)) as aside, aside.open("w", encoding="utf-8", newline="\n") as stream:
        for number, document in enumerate(documents):
            stream.write("\n" * (number > 0))
            stream.writelines(" ".join(sentence.split()) + "\n" for sentence in document if sentence.strip())


def _sentences(line: str, sentence_split: str) -> list[str]:
    stripped = line.strip()
    if not stripped:
        return []
    return [stripped] if sentence_split == "line" else split_sentences(stripped)


def _read_txt(piece: Piece) -> Iterator[list[str]]:
    lines: list[str] = []
    for _, line in piece.lines():
        if line.strip():
            lines.append(line)
        elif lines:
            yield lines
            lines = []
    yield lines


def _read_jsonl(piece: Piece) -> Iterator[list[str]]:
    for number, line in piece.lines():
        if not line.strip():
            continue
        row = parse_json_object(line, piece.path, number)
        if "text" not in row:
            raise DataError(
                f'{piece.path}, line {number}: the object has no "text"; it has {", ".join(row) or "nothing"}'
            )
        yield require_text(row["text"], "text", piece.path, number).split("\n")


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(map(str, paths[:3]))
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"
