"""English text that every CPython carries: its language reference and the docstrings of its standard library."""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from fastbert.data.corpus import Document, split_sentences
from fastbert.data.errors import DataError

# Third-party code, tests, generated tables, and code that only has docstrings in common with the rest.
SKIPPED_DIRECTORIES = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload", "encodings"}
)
TOPICS = Path("pydoc_data") / "topics.py"
MIN_SENTENCES = 2
MIN_WORDS = 4
MIN_WORDS_UNFINISHED = 8
MIN_LETTERS = 0.75

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_BLANK = re.compile(r"\n[ \t]*\n")
_UNDERLINE = re.compile(r"^\s*([*=~\-^\"#])\1{2,}\s*$", re.MULTILINE)
_BULLET = re.compile(r"^(?:[*\-+•]|\d+\.|\[\d+\]|:\w[^:]*:)\s+")
_CODE_LINE = re.compile(r"^\s*(?:>>>|\.\.\. |\.\. |\$ |[|+])|::=|^\s{8,}")


def python_documentation() -> list[Document]:
    """The prose of Python's documentation as documents of sentences, in an order that only the Python version decides.

    A document is one topic of ``pydoc_data.topics`` or all docstrings of one standard-library module, in source order.
    Code, tables, headings and repeated paragraphs are left out. Sources are parsed, never imported.

    Raises:
        DataError: this Python comes without the sources of its standard library.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    with _paused_collector():
        texts = [*_topics(root), *_modules(root)]
    if not texts:
        raise DataError(f"there are no sources of the standard library in {root}")
    seen: set[str] = set()
    documents = []
    for paragraphs in texts:
        document: Document = []
        for paragraph in paragraphs:
            if paragraph not in seen:
                seen.add(paragraph)
                document += split_sentences(paragraph)
        if len(document) >= MIN_SENTENCES:
            documents.append(document)
    return documents


def prose_paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring that are prose, each on one line. List items are paragraphs of their own."""
    for block in _BLANK.split(_UNDERLINE.sub("\n", textwrap.dedent(text))):
        lines = block.rstrip().split("\n")
        if any(_CODE_LINE.search(line) for line in lines):
            continue
        for item in _items([line.strip() for line in lines if line.strip()]):
            if _is_prose(item):
                yield item


def _items(lines: list[str]) -> Iterator[str]:
    current: list[str] = []
    for line in lines:
        bullet = _BULLET.match(line)
        if bullet and current:
            yield " ".join(current)
            current = []
        current.append(line[bullet.end() :] if bullet else line)
    if current:
        yield " ".join(current)


def _is_prose(text: str) -> bool:
    finished = text.endswith((".", "!", "?", ":", '."', ".)"))
    plain = sum(character.isalpha() or character == " " for character in text)
    words = len(text.split())
    return words >= (MIN_WORDS if finished else MIN_WORDS_UNFINISHED) and plain >= MIN_LETTERS * len(text)


def _topics(root: Path) -> Iterator[list[str]]:
    tree = _parse(root / TOPICS)
    if tree is None:
        return
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            for name in sorted(topics):
                yield list(prose_paragraphs(topics[name]))


def _modules(root: Path) -> Iterator[list[str]]:
    for relative in sorted(source_files(root), key=lambda path: path.parts):
        tree = _parse(root / relative)
        if tree is not None and relative != TOPICS:
            yield [paragraph for doc in _docstrings(tree) for paragraph in prose_paragraphs(doc)]


def source_files(root: Path) -> Iterator[Path]:
    """The sources of the standard library, relative to its root."""
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in SKIPPED_DIRECTORIES]
        yield from (Path(directory, file).relative_to(root) for file in files if file.endswith(".py"))


@contextlib.contextmanager
def _paused_collector() -> Iterator[None]:
    # Syntax trees are millions of small live objects; walking them in the collector took more than half the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _docstrings(node: _Documented) -> Iterator[str]:
    docstring = ast.get_docstring(node)
    if docstring:
        yield docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


def _parse(path: Path) -> ast.Module | None:
    try:
        return parse_source(path.read_bytes())
    except OSError:
        return None


def parse_source(source: str | bytes) -> ast.Module | None:
    """The syntax tree, or None for what only looks like Python, as templates in the standard library do."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None
