"""Texts with numbers, and pairs read in both orders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fastbert.data import DataError, TextExamples, TextRecord, Tokenizer, collate, number_targets, read_records


def test_numbers_from_every_kind_of_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\nb,-2.5\nc,1e-3\n")
    (tmp_path / "a.tsv").write_text("text\tlabel\na\t1\nb\t-2.5\nc\t1e-3\n")
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": -2.5}, {"text": "c", "label": "1e-3"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        assert number_targets(read_records(tmp_path / name, labels="numbers")) == [1.0, -2.5, 0.001]


@pytest.mark.parametrize("value", ["", "high", "nan", "inf", "1,5"])
def test_what_is_no_number(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.tsv").write_text(f"text\tlabel\na\t1\nb\t{value}\n")
    with pytest.raises(DataError, match=rf'a\.tsv, line 3: "label" must be a finite number, got \'{value}\''):
        read_records(tmp_path / "a.tsv", labels="numbers")


@pytest.mark.parametrize("value", ["true", "null", "[1]", "NaN"])
def test_what_is_no_number_in_json(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a", "label": {value}}}\n')
    with pytest.raises(DataError, match=r'a\.jsonl, line 1: "label" must be a finite number, got'):
        read_records(tmp_path / "a.jsonl", labels="numbers")


def test_a_record_without_a_number() -> None:
    with pytest.raises(DataError, match="f, line 2: the label must be a finite number, got None"):
        number_targets([TextRecord("a", source="f, line 2")])


def test_numbers_are_floats_in_a_batch(bert: Tokenizer) -> None:
    examples = TextExamples([("a", None), ("b", "c")], bert, [1.0, -2.0], 8)
    batch = collate([examples[0], examples[1]])
    assert batch.labels is not None
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == [1.0, -2.0]
    assert batch.num_choices == 1


def test_both_orders(gpt: Tokenizer) -> None:
    """The longer text is cut, in both orders to the same tokens."""
    examples = TextExamples([("ab", "c"), ("abcdefgh", "ij")], gpt, [1, 0], 10, both_orders=True)
    a, b = gpt.encode("ab"), gpt.encode("c")
    one, other = ([gpt.start_id, *x, gpt.delimiter_id, *y, gpt.extract_id] for x, y in ((a, b), (b, a)))
    assert examples[0].input_ids.tolist() == one + other
    assert examples[0].sequence_lengths == (6, 6)
    cut, short = gpt.encode("abcde"), gpt.encode("ij")
    assert examples[1].input_ids.tolist() == [*gpt.build_pair(cut, short)[0], *gpt.build_pair(short, cut)[0]]
    assert examples.num_truncated == 1
    assert examples.lengths.tolist() == [12, 20]
    batch = collate([examples[0], examples[1]])
    assert batch.num_choices == 2
    assert batch.cu_seqlens.tolist() == [0, 6, 12, 22, 32]
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0]
