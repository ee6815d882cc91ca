"""PTX text to tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptx_emulator.errors import PtxError

_LINE_DIRECTIVE = re.compile(r"^[ \t]*\.(?:loc|file)\b.*$", re.MULTILINE)  # they end with the line, not with a ";"
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
    |(?P<string>"[^"]*")
    |(?P<number>0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}|0[xX][0-9a-fA-F]+U?|\d+\.\d+(?:[eE][+-]?\d+)?|\d+U?)
    |(?P<word>[%$._A-Za-z](?:[\w$%.]|::(?=\w))*)
    |(?P<mark>[{}()\[\],;:=<>@!|+\-*])""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    line: int
    end: int = 0  # offset in the text behind it


def without_line_directives(text: str) -> str:
    """The text with .loc and .file, which end with their line and not with a semicolon, left blank."""
    return _LINE_DIRECTIVE.sub("", text)


def tokens(text: str) -> list[Token]:
    found, position, line = [], 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise PtxError(f"PTX line {line}: cannot read {text[position : position + 20]!r}")
        kind, piece = str(match.lastgroup), match.group()
        if kind != "space":
            found.append(Token(kind, piece, line, match.end()))
        line += piece.count("\n")
        position = match.end()
    return found
