"""The two labelled tasks that are made of the standard library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastbert.data import DataError, read_column_file, read_squad
from fastbert.data.standard_library import tagged_lines, write_questions, write_tagged_code

SOURCE = '''
import os.path as path  # the comment is no token
from json import dumps

class Größe(Base):
    """A docstring with spaces: the line is left out."""

    async def mean(self, values, *, start=0):
        é = "x"; total = sum(self.values, start=start)
        return path.join(total.real, 1)
'''
TAGGED = """
import:keyword os:module .:operator path:variable as:keyword path:variable
class:keyword Größe:class (:operator Base:variable ):operator ::operator
async:keyword def:keyword mean:function (:operator self:parameter ,:operator values:parameter ,:operator *:operator
 ,:operator start:parameter =:operator 0:number ):operator ::operator
é:variable =:operator "x":string ;:operator total:variable =:operator sum:call (:operator self:variable .:operator
 values:attribute ,:operator start:argument =:operator start:variable ):operator
return:keyword path:variable .:operator join:method (:operator total:variable .:operator real:attribute ,:operator
 1:number ):operator
"""


def test_tokens_by_what_they_are() -> None:
    """Also behind letters that are several bytes, which the parser counts and the tokenizer does not."""
    found = [" ".join(map(":".join, zip(s.words, s.tags or (), strict=True))) for s in tagged_lines(SOURCE, "it")]
    assert found == TAGGED.strip().replace("\n ", " ").splitlines()


def test_code_is_written_as_column_files(tmp_path: Path) -> None:
    train, held_out = (read_column_file(p) for p in write_tagged_code(tmp_path, train=300, held_out=100))
    assert (len(train), len(held_out)) == (300, 100)
    tags = {tag for sentence in train for tag in sentence.tags or ()}
    assert {"keyword", "operator", "variable", "parameter", "attribute", "method", "call", "function"} <= tags
    first = (tmp_path / "train.conll").read_bytes()
    write_tagged_code(tmp_path, train=300, held_out=100)
    assert (tmp_path / "train.conll").read_bytes() == first


def test_questions_are_of_squad_and_their_answers_where_they_say(tmp_path: Path) -> None:
    """Reading checks every span."""
    train, held_out = write_questions(tmp_path, train=100, held_out=40)
    questions = read_squad(train)
    assert len(questions) == 300
    assert all(question.optional for question in questions)
    unanswerable = [q for q in questions if not q.answers]
    assert unanswerable
    assert {q.question for q in unanswerable} == {"Which arguments does it take?"}
    assert all(q.context.partition("(")[2].startswith(")") for q in unanswerable)
    modules = [{q.id.rsplit(".", 2)[0] for q in part} for part in (questions, read_squad(held_out))]
    assert not modules[0] & modules[1]
    assert json.loads(train.read_text(encoding="utf-8"))["version"] == "v2.0"


def test_more_than_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has sources for \d+ examples, not 10000000"):
        write_questions(tmp_path, train=10_000_000, held_out=1)
