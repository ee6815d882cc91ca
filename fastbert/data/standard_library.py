"""Two labelled tasks that every CPython carries: the names in its own code by what they are, and questions about it.

Labels are exact, for the parser and the docstrings give them; sources are parsed, never imported. The held-out part
comes from modules of its own.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import keyword
import os
import re
import sysconfig
import token
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, TypeVar

from fastbert.data.column_files import TaggedSentence
from fastbert.data.corpus import split_sentences
from fastbert.data.documentation import parse_source, prose_paragraphs, source_files
from fastbert.data.errors import DataError
from fastbert.files import replaced

LONGEST_LINE = 40  # tokens
SHORTEST_LINE = 5
LINES_OF_A_MODULE = 100
WORDS_OF_AN_ANSWER = range(3, 21)

Place = tuple[int, int]
"""Line, counted from 1, and column in characters."""

Example = TypeVar("Example")


def tagged_lines(source: str, name: str) -> list[TaggedSentence]:
    """The logical lines of a Python source, every token with what it is.

    Tags: keyword, operator, number, string; and of names class, function, parameter, argument (of a call, by name),
    module, method and attribute (after a dot, called or not), call and variable. Lines with text that a column file
    cannot hold are left out, and so are those shorter than five tokens or longer than forty.

    Raises:
        SyntaxError: it is no Python, or, as tokenize.TokenError, it does not end as Python does.
    """
    roles = _roles(ast.parse(source), source.split("\n"))
    sentences: list[TaggedSentence] = []
    line: list[tuple[str, str]] = []
    for kind, text, place, _, _ in tokenize.generate_tokens(io.StringIO(source).readline):
        if kind == token.NEWLINE:
            whole = all(text and not any(map(str.isspace, text)) for text, _ in line)
            if whole and SHORTEST_LINE <= len(line) <= LONGEST_LINE:
                words, tags = zip(*line, strict=True)
                sentences.append(TaggedSentence(words, tags, source=name))
            line = []
        elif kind not in (token.COMMENT, token.NL, token.INDENT, token.DEDENT, token.ENDMARKER):
            line.append((text, _tag(kind, text, roles.get(place, "variable"))))
    return sentences


def write_tagged_code(directory: str | os.PathLike[str], *, train: int, held_out: int) -> tuple[Path, Path]:
    """Write train.conll and test.conll: so many logical lines of the standard library, a token and its tag a line.

    Raises:
        DataError: this Python comes without the sources of its standard library, or with fewer lines.
    """

    def lines(relative: PurePath, source: str) -> list[TaggedSentence]:
        try:
            found = tagged_lines(source, str(relative))
        except (SyntaxError, tokenize.TokenError):  # templates that only look like Python
            return []
        return found[:: max(1, len(found) // LINES_OF_A_MODULE)]

    paths = Path(directory) / "train.conll", Path(directory) / "test.conll"
    for path, chosen in zip(paths, _collected(lines, train, held_out), strict=True):
        with replaced(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as stream:
            for line in chosen:
                stream.writelines(f"{word}\t{tag}\n" for word, tag in zip(line.words, line.tags or (), strict=True))
                stream.write("\n")
    return paths


def write_questions(directory: str | os.PathLike[str], *, train: int, held_out: int) -> tuple[Path, Path]:
    """Write train.json and test.json in the format of SQuAD 2.0: so many contexts from the standard library.

    A context is a function's signature and the first sentence of its docstring. Asked is what it is called, which
    arguments it takes, where the answer may be none, and what it does.

    Raises:
        DataError: this Python comes without the sources of its standard library, or with fewer contexts.
    """

    def paragraphs(relative: PurePath, source: str) -> list[dict[str, Any]]:
        tree = parse_source(source)
        return [] if tree is None else list(_paragraphs(relative.with_suffix("").as_posix(), tree))

    paths = Path(directory) / "train.json", Path(directory) / "test.json"
    for path, chosen in zip(paths, _collected(paragraphs, train, held_out), strict=True):
        content = {"version": "v2.0", "data": [{"title": "the standard library", "paragraphs": chosen}]}
        with replaced(path) as aside:
            aside.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return paths


def _collected(
    examples: Callable[[PurePath, str], list[Example]], train: int, held_out: int
) -> tuple[list[Example], list[Example]]:
    """So many examples from modules in an order that their names decide; one module in eight is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[Example], list[Example]] = ([], [])
    hashes = {relative: hashlib.sha256(relative.as_posix().encode()).digest() for relative in source_files(root)}
    for relative in sorted(hashes, key=hashes.__getitem__):
        here, wanted = (parts[1], held_out) if hashes[relative][-1] % 8 == 0 else (parts[0], train)
        if len(here) < wanted:
            try:
                here += examples(relative, (root / relative).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
    for part, wanted in zip(parts, (train, held_out), strict=True):
        if len(part) < wanted:
            raise DataError(f"the standard library in {root} has sources for {len(part)} examples, not {wanted}")
    return parts[0][:train], parts[1][:held_out]


def _tag(kind: int, text: str, role: str) -> str:
    if kind == token.NAME:
        return "keyword" if keyword.iskeyword(text) else role
    return {token.NUMBER: "number", token.OP: "operator"}.get(kind, "string")  # from Python 3.12 on in several parts


def _roles(tree: ast.AST, lines: list[str]) -> dict[Place, str]:
    """What the names at their places are, where they are not plain variables."""
    roles: dict[Place, str] = {}

    def mark(line: int, column: int, role: str) -> None:
        characters = len(
            lines[line - 1].encode()[:column].decode()
        )  # the parser counts bytes, the tokenizer characters
        roles[line, characters] = role

    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            mark(node.lineno, node.col_offset, "parameter")
        elif isinstance(node, ast.keyword) and node.arg is not None:
            mark(node.lineno, node.col_offset, "argument")
        elif isinstance(node, ast.Attribute) and node.end_lineno and node.end_col_offset:
            place = (node.end_lineno, node.end_col_offset - len(node.attr.encode()))
            mark(*place, "attribute")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            written = {ast.FunctionDef: "def ", ast.AsyncFunctionDef: "async def ", ast.ClassDef: "class "}[type(node)]
            role = "class" if isinstance(node, ast.ClassDef) else "function"
            mark(node.lineno, node.col_offset + len(written), role)
        elif isinstance(node, ast.alias):
            mark(node.lineno, node.col_offset, "module")
    for node in ast.walk(tree):  # after the attributes that they call
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and called.end_lineno and called.end_col_offset:
                mark(called.end_lineno, called.end_col_offset - len(called.attr.encode()), "method")
            elif isinstance(called, ast.Name):
                mark(called.lineno, called.col_offset, "call")
    return roles


def _paragraphs(module: str, tree: ast.Module) -> Iterator[dict[str, Any]]:
    """Contexts and their questions, as SQuAD has them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            docstring = ast.get_docstring(node) or ""
            paragraph = next(prose_paragraphs(docstring), "")
            sentence = split_sentences(paragraph)[0] if paragraph else ""
            if docstring.startswith(sentence[:20]) and len(sentence.split()) in WORDS_OF_AN_ANSWER:
                yield _paragraph(f"{module}.{node.lineno}", node.name, _arguments(node), sentence)


def _paragraph(identity: str, name: str, arguments: str, sentence: str) -> dict[str, Any]:
    opening = f"{name}({arguments})"
    answers = {
        "What is the function called?": (name, 0),
        "Which arguments does it take?": (arguments, len(name) + 1),
        "What does it do?": (sentence.rstrip("."), len(opening) + 1),
    }
    questions = [
        {
            "id": f"{identity}.{number}",
            "question": question,
            "is_impossible": not text,
            "answers": [{"text": text, "answer_start": start}] if text else [],
        }
        for number, (question, (text, start)) in enumerate(answers.items())
    ]
    return {"context": f"{opening} {sentence}", "qas": questions}


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """As they are written, without the object that a method belongs to."""
    return re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
