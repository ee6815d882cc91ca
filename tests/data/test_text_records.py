"""Labelled texts: reading CSV, TSV and JSONL, and the examples made of them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from fastbert.data import (
    DataError,
    TextClassificationExamples,
    TextRecord,
    Tokenizer,
    build_label2id,
    collate,
    read_records,
)


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def values(records: list[TextRecord]) -> list[tuple[str, str | None, str | None]]:
    return [(record.text, record.text_pair, record.label) for record in records]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_csv(tmp_path: Path, name: str, ending: str) -> None:
    lines = ["\ufefflabel,id,text", 'pos,1,"Quoted, with ""marks"""', "NA,2,NA", "", " neg ,3,한국어"]
    records = read_records(write(tmp_path / name, ending.join(lines) + ending))
    assert values(records) == [
        ('Quoted, with "marks"', None, "pos"),
        ("NA", None, "NA"),
        ("한국어", None, " neg "),
    ]


@pytest.mark.parametrize("quoted", [False, True])
def test_a_field_may_be_long(tmp_path: Path, quoted: bool) -> None:
    text = "word " * 28_000  # 140,000 characters
    limit = csv.field_size_limit()
    field = f'"{text}"' if quoted else text
    records = read_records(write(tmp_path / "a.csv", f"text,label\n{field},x\nb,y\n"))
    assert values(records) == [(text, None, "x"), ("b", None, "y")]
    assert csv.field_size_limit() == limit  # which belongs to the whole process


def test_quoted_lines_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"two\nlines",x\nlast,\n')
    with pytest.raises(DataError, match=r'a\.csv, line 4: "label" must be a string or an integer, got \'\''):
        read_records(path)
    path = write(tmp_path / "b.csv", 'text,label\n"two\nlines",x\nlast,y\n')
    records = read_records(path)
    assert values(records) == [("two\nlines", None, "x"), ("last", None, "y")]
    assert [record.source.rsplit(", ", 1)[1] for record in records] == ["line 2", "line 4"]


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'sentence\tgold\n"Open quote\t1\nit\'s, 5"\t0\n')
    assert values(read_records(path, text_column="sentence", label_column="gold")) == [
        ('"Open quote', None, "1"),
        ("it's, 5\"", None, "0"),
    ]


def test_jsonl_with_integer_and_boolean_labels_and_pairs(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": "y", "c": 3}, {"a": "NA", "b": "", "c": True}, {"a": "z", "b": "w", "c": "s"}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    records = read_records(path, text_column="a", text_pair_column="b", label_column="c")
    assert values(records) == [("x", "y", "3"), ("NA", "", "true"), ("z", "w", "s")]
    assert values(read_records(path, text_column="a", label_column=None)) == [
        ("x", None, None),
        ("NA", None, None),
        ("z", None, None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,1\n\xff,2\n".encode("latin-1"), r"a\.csv, line 3: byte 0xff at column 1 is not UTF-8"),
        ("a.csv", "body,label\na,1\n", r"line 2: no column 'text', the columns are body, label"),
        ("a.csv", "text,score\na,1\n", r"line 2: no column 'label', the columns are text, score"),
        ("a.csv", "text,label\na,1\nb\n", r"line 3: 1 fields, the header has 2"),
        ("a.csv", "text,label\na,1,2\n", r"line 2: 3 fields, the header has 2"),
        ("a.csv", "text,text\na,1\n", r"line 1: a column name occurs twice in text, text"),
        ("a.csv", 'text,label\na,1\n"open,2\nx,3\n', r"line 3: malformed CSV"),
        ("a.csv", "text,label\n", r"has no records"),
        ("a.csv", "", r"has no records"),
        ("a.tsv", "text\tlabel\na\t1\nb c\n", r"a\.tsv, line 3: 1 fields, the header has 2"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', r"line 2: no column 'label', the columns are text"),
        ("a.jsonl", '{"text": "a", "label": 1.5}\n', r'line 1: "label" must be a string or an integer, got 1\.5'),
        ("a.jsonl", '{"text": null, "label": 1}\n', r'line 1: "text" must be a string, got a NoneType'),
        ("a.jsonl", '{"text": "a", label: 1}\n', r"line 1: malformed JSON"),
        ("a.xlsx", "x", r"must end in \.csv, \.tsv or \.jsonl"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_records(write(tmp_path / name, content))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data file .*none\.csv does not exist"):
        read_records(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a directory, a file is needed"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["pos", "neg", "pos"], {"neg": 0, "pos": 1}),
        (["10", "9", "-1"], {"-1": 0, "9": 1, "10": 2}),
        (["10", "9", "x"], {"10": 0, "9": 1, "x": 2}),
        (["01", "1"], {"01": 0, "1": 1}),
        (["0", "-0", "-1", "1"], {"-1": 0, "-0": 1, "0": 2, "1": 3}),
    ],
)
def test_labels_are_numbered_in_order(labels: list[str], expected: dict[str, int]) -> None:
    label2id = build_label2id([TextRecord("t", label=label) for label in labels])
    assert list(label2id.items()) == list(expected.items())


@pytest.mark.parametrize("largest", [1, 5, 20, 80, 300, 1000, 5000])
def test_two_spellings_of_a_number_are_always_in_the_same_order(largest: int) -> None:
    """Sets of different sizes hold the two in different orders."""
    labels = ["0", "-0", *map(str, range(1, largest))]
    assert list(build_label2id([TextRecord("t", label=label) for label in labels]))[:2] == ["-0", "0"]


def test_label_errors(bert: Tokenizer) -> None:
    with pytest.raises(DataError, match="the only label is 'a'"):
        build_label2id([TextRecord("t", label="a")])
    with pytest.raises(DataError, match="there are no records"):
        build_label2id([])
    with pytest.raises(DataError, match="here: a label is needed"):
        build_label2id([TextRecord("t", source="here")])
    with pytest.raises(DataError, match="f, line 3: unknown label 'c', known are a, b"):
        TextClassificationExamples([TextRecord("t", label="c", source="f, line 3")], bert, {"a": 0, "b": 1}, 8)
    with pytest.raises(DataError, match="f: a label is needed"):
        TextClassificationExamples([TextRecord("t", source="f")], bert, {"a": 0}, 8)
    with pytest.raises(DataError, match="max_length must be at least 5, got 4"):
        TextClassificationExamples([TextRecord("t")], bert, None, 4)


def test_bert_examples(bert: Tokenizer) -> None:
    records = [
        TextRecord("a b c", label="y"),
        TextRecord("a b c d e f g h", "i j", label="x"),
        TextRecord("", label="x"),
    ]
    examples = TextClassificationExamples(records, bert, {"x": 0, "y": 1}, 8)
    a, b = bert.encode("a b c d e f g h"), bert.encode("i j")
    assert examples.epoch(3) is examples
    assert len(examples) == 3
    assert examples.lengths.tolist() == [5, 8, 2]
    assert examples.num_truncated == 1
    assert examples[0].input_ids.tolist() == bert.build_single(a[:3])[0]
    assert examples[1].input_ids.tolist() == bert.build_pair(a[:3], b)[0]
    assert examples[1].token_type_ids is not None
    assert examples[1].token_type_ids.tolist() == [0] * 5 + [1] * 3
    assert examples[2].input_ids.tolist() == [bert.cls_id, bert.sep_id]
    batch = collate([examples[i] for i in range(3)])
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0, 0]
    unlabelled = TextClassificationExamples(records, bert, None, 8)
    assert collate([unlabelled[0]]).labels is None


def test_gpt_examples(gpt: Tokenizer) -> None:
    examples = TextClassificationExamples([TextRecord("abcdefghij"), TextRecord("ab", "c")], gpt, None, 8)
    assert examples[0].input_ids.tolist() == [gpt.start_id, *gpt.encode("abcdef"), gpt.extract_id]
    a, b = gpt.encode("ab"), gpt.encode("c")
    assert examples[1].input_ids.tolist() == [gpt.start_id, *a, gpt.delimiter_id, *b, gpt.extract_id]
    assert collate([examples[0], examples[1]]).token_type_ids is None
    plain = Tokenizer.train_byte_bpe(["a b c"], 258)
    with pytest.raises(DataError, match=r"add_task_tokens\(\) adds them"):
        TextClassificationExamples([TextRecord("a")], plain, None, 8)


def test_records_and_pairs_may_be_mixed(bert: Tokenizer) -> None:
    records = [TextRecord("a", "b"), TextRecord("c"), TextRecord("d", "e")]
    examples = TextClassificationExamples(records, bert, None, 16)
    ids = [np.array(bert.encode(letter)) for letter in "abcde"]
    assert examples[0].input_ids.tolist() == bert.build_pair(ids[0].tolist(), ids[1].tolist())[0]
    assert examples[1].input_ids.tolist() == bert.build_single(ids[2].tolist())[0]
    assert examples[2].input_ids.tolist() == bert.build_pair(ids[3].tolist(), ids[4].tolist())[0]
