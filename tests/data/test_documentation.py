"""The prose of Python's own documentation."""

from __future__ import annotations

import gc
import sys
import sysconfig
from pathlib import Path

import pytest

from fastbert.data import DataError, Document
from fastbert.data.documentation import prose_paragraphs, python_documentation

DOCSTRING = """
Heading
=======

A first paragraph that
goes over two lines.

   code = that_is(indented, by="three")
   >>> prompt()

* An item that is a sentence.
* Another item, which also
  goes over two lines.

+-----+-----+
| a   | b   |
+-----+-----+

Too short.

x = y; f(x, y)[0] {"a": 1, "b": [2, 3]}; g(z) == h(z) != 3.
"""


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return python_documentation()


def test_prose_is_kept_and_the_rest_is_not() -> None:
    assert list(prose_paragraphs(DOCSTRING)) == [
        "A first paragraph that goes over two lines.",
        "An item that is a sentence.",
        "Another item, which also goes over two lines.",
    ]


def test_every_python_carries_enough(documents: list[Document]) -> None:
    words = sum(len(sentence.split()) for document in documents for sentence in document)
    assert len(documents) > 300
    assert sum(map(len, documents)) > 10_000
    assert words > 150_000
    assert all(len(document) >= 2 for document in documents)
    assert all(sentence == sentence.strip() != "" for document in documents for sentence in document)
    assert not any("\n" in sentence or sentence.startswith(">>>") for document in documents for sentence in document)


def test_same_again_and_no_module_was_imported(documents: list[Document]) -> None:
    before = set(sys.modules)
    assert python_documentation() == documents
    assert set(sys.modules) == before
    assert "turtle" not in sys.modules
    assert gc.isenabled()


def test_sources_are_read_in_order_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prose = {
        "b.py": '"""Second module comes here. It has two sentences."""\nclass C:\n    """And a class, documented."""\n',
        "a/__init__.py": '"""First module comes here. It has two sentences too."""\n',
        "site-packages/c.py": '"""Third party is not read. Not at all, not here."""\n',
        "broken.py": '"""Only looks like Python. Really, only looks."""\ndef (:\n',
        "pydoc_data/topics.py": "topics = {'z': 'The last topic is here. It ends now.\\n',\n"
        "'y': 'This topic comes before. It ends too.\\n'}\n",
        "twice.py": '"""Second module comes here. It has two sentences."""\n',
    }
    for name, text in prose.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert python_documentation() == [
        ["This topic comes before.", "It ends too."],
        ["The last topic is here.", "It ends now."],
        ["First module comes here.", "It has two sentences too."],
        ["Second module comes here.", "It has two sentences.", "And a class, documented."],
    ]


def test_python_without_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match="no sources of the standard library"):
        python_documentation()
