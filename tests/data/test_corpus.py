"""Corpus files: what is read from each format, and what is said about broken ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fastbert.data import DataError, find_files, read_documents, split_sentences, write_documents

DOCUMENTS = [["First sentence.", "Second one."], ["안녕하세요 세계."], ["Third document,", "café."]]
TEXT = "First sentence.\nSecond one.\n\n안녕하세요 세계.\n \n\nThird document,\ncafé.\n"


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(documents: list[list[str]]) -> str:
    return "".join(json.dumps({"text": "\n".join(document), "id": 1}) + "\n" for document in documents)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_text_has_a_sentence_a_line_and_a_blank_line_between_documents(tmp_path: Path, name: str, ending: str) -> None:
    path = write(tmp_path / name, TEXT.replace("\n", ending))
    assert list(read_documents([path])) == DOCUMENTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_has_a_document_a_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, jsonl(DOCUMENTS) + "\n")
    assert list(read_documents([path])) == DOCUMENTS


def test_byte_order_mark_and_unicode_separators_are_no_text_and_no_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffone\u2028still one\x85and one\ntwo")
    assert list(read_documents([path])) == [["one\u2028still one\x85and one", "two"]]


def test_globs_are_sorted_and_files_named_twice_are_read_once(tmp_path: Path) -> None:
    names = ["b.txt", "a.txt", "deep/c.txt"]
    (tmp_path / "deep").mkdir()
    for name in names:
        write(tmp_path / name, name)
    found = find_files([tmp_path / "b.txt", f"{tmp_path}/**/*.txt"])
    assert found == [tmp_path / "b.txt", tmp_path / "a.txt", tmp_path / "deep" / "c.txt"]


def test_documents_end_with_their_file(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.txt", "one"), write(tmp_path / "b.txt", "two")]
    assert list(read_documents(paths)) == [["one"], ["two"]]


def test_regex_splits_within_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "One here. Two there!\nThree\n")
    assert list(read_documents([path], sentence_split="regex")) == [["One here.", "Two there!", "Three"]]
    assert list(read_documents([path])) == [["One here. Two there!", "Three"]]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three! Four", ["One.", "Two?", "Three!", "Four"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Dr. Smith met Mr. J. Doe, e.g. in St. Ives. They spoke.", None),
        ("Version 2.5 of example.com is out. Get it.", ["Version 2.5 of example.com is out.", "Get it."]),
        ("그는 갔다. 나는 왔다.", ["그는 갔다.", "나는 왔다."]),
        ("我来了。你好！“走吧。”他说。", ["我来了。", "你好！", "“走吧。”", "他说。"]),
        ("no end", ["no end"]),
        ("   ", []),
    ],
)
def test_split_sentences(text: str, sentences: list[str] | None) -> None:
    expected = ["Dr. Smith met Mr. J. Doe, e.g. in St. Ives.", "They spoke."] if sentences is None else sentences
    assert split_sentences(text) == expected


def test_written_documents_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "corpus.txt"
    write_documents(path, [["One.", "", "Two\nlines."], [], ["Three."]])
    assert list(read_documents([path])) == [["One.", "Two lines."], ["Three."]]
    assert [p.name for p in path.parent.iterdir()] == ["corpus.txt"]


def test_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"good\nalso good\ncaf\xe9 bad\n")
    with pytest.raises(DataError, match=r"a\.txt, line 3: byte 0xe9 at column 4 is not UTF-8"):
        list(read_documents([path]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', r"line 2: malformed JSON"),
        ("[1]", r"line 2: a JSON object is needed, got a list"),
        ('{"body": "a", "id": 3}', r'line 2: the object has no "text"; it has body, id'),
        ('{"text": 5}', r'line 2: "text" must be a string, got a int'),
        ('{"text": "\\ud800"}', r'line 2: "text" holds half a surrogate pair'),
    ],
)
def test_malformed_json_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "good"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        list(read_documents([path]))


def test_damaged_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode())[:-12])
    with pytest.raises(DataError, match="not a complete gzip file"):
        list(read_documents([path]))
    path.write_bytes(TEXT.encode())
    with pytest.raises(DataError, match="not a complete gzip file"):
        list(read_documents([path]))


def test_missing_and_empty_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt does not exist"):
        find_files([tmp_path / "none.txt"])
    with pytest.raises(DataError, match="matches no file"):
        find_files([f"{tmp_path}/*.txt"])
    with pytest.raises(DataError, match="names no file"):
        find_files([])
    with pytest.raises(DataError, match="is a directory"):
        find_files([tmp_path])
    with pytest.raises(DataError, match=r"must end in one of \.txt, \.jsonl"):
        find_files([write(tmp_path / "a.pdf", "x")])
    with pytest.raises(DataError, match="no text in the corpus"):
        list(read_documents([write(tmp_path / "empty.txt", " \n\n")]))
    with pytest.raises(DataError, match="sentence_split must be one of line, regex"):
        list(read_documents([tmp_path / "empty.txt"], sentence_split="word"))
