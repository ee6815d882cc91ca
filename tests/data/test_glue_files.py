"""GLUE's TSV files, each as its task lays it out."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastbert.data import GLUE_LAYOUTS, DataError, read_glue

# The headers and a row of the released files: (task, file, lines, text, second text, label, id).
FILES = [
    ("cola", "train.tsv", ["gj04\t1\t\tOur friends won't buy this.", "gj04\t0\t*\tThey drank the pub."],
     "Our friends won't buy this.", None, "1", "0"),
    ("cola", "test.tsv", ["index\tsentence", "0\tBill whistled past the house."], "Bill whistled past the house.", None,
     None, "0"),
    ("sst2", "dev.tsv", ["sentence\tlabel", "it 's a charming film .\t1"], "it 's a charming film .", None, "1", "0"),
    ("sst2", "test.tsv", ["index\tsentence", "8\tuneasy mishmash ."], "uneasy mishmash .", None, None, "8"),
    ("mrpc", "train.tsv", ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t70\t71\tSay "yes" .\tYes , he said .'],
     'Say "yes" .', "Yes , he said .", "1", "0"),
    ("mrpc", "test.tsv", ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "3\t70\t71\tA .\tB ."], "A .", "B .", None, "3"),
    ("stsb", "dev.tsv",
     ["index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
      "4\tmain-captions\tMSRvid\t2012\t0001\tnone\tnone\tA man.\tA boy.\t4.250"], "A man.", "A boy.", "4.250", "4"),
    ("qqp", "train.tsv", ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "133\t2\t3\tHow?\tWhy?\t0"],
     "How?", "Why?", "0", "133"),
    ("qqp", "test.tsv", ["id\tquestion1\tquestion2", "0\tHow?\tWhy?"], "How?", "Why?", None, "0"),
    ("mnli", "dev_matched.tsv",
     ["index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
      "sentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
      "9\t63\t63n\tfacts\tp\tp\tp\tp\tIt is old.\tIt is new.\tneutral\tentailment\tneutral\tneutral\tneutral\tneutral"],
     "It is old.", "It is new.", "neutral", "9"),
    ("qnli", "train.tsv", ["index\tquestion\tsentence\tlabel", "0\tWho?\tHe did.\tnot_entailment"], "Who?", "He did.",
     "not_entailment", "0"),
    ("rte", "train.tsv", ["index\tsentence1\tsentence2\tlabel", "0\tIt is.\tIs it.\tentailment"], "It is.", "Is it.",
     "entailment", "0"),
    ("wnli", "dev.tsv", ["index\tsentence1\tsentence2\tlabel", "5\tI did.\tHe did.\t1"], "I did.", "He did.", "1", "5"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "name", "lines", "text", "pair", "label", "number"), FILES)
def test_every_layout(
    tmp_path: Path,
    task: str,
    name: str,
    lines: list[str],
    text: str,
    pair: str | None,
    label: str | None,
    number: str,
) -> None:
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    record = read_glue(tmp_path / name, GLUE_LAYOUTS[task], labelled=label is not None)[0]
    assert (record.text, record.text_pair, record.label, record.id) == (text, pair, label, number)
    unlabelled = read_glue(tmp_path / name, GLUE_LAYOUTS[task], labelled=False)[0]
    assert (unlabelled.text, unlabelled.label, unlabelled.id) == (text, None, number)


def test_the_nine() -> None:
    assert list(GLUE_LAYOUTS) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        ("cola", ["gj04\t1\tNo mark."], r"a\.tsv, line 1: 3 fields, 4 are needed: source, label, judgement, sentence"),
        ("cola", ["gj04\t2\t\tText."], r"a\.tsv, line 1: label is '2'; allowed: 0, 1"),
        (
            "rte",
            ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tneutral"],
            r"line 2: label is 'neutral'; allowed: ent",
        ),
        ("rte", ["index\tsentence1\tsentence2", "0\ta\tb"], r"line 2: no column 'label', the columns are index, sent"),
        ("qqp", ["id\tquestion1\tquestion2\tis_duplicate", "0\tHow?"], r"line 2: 2 fields, the header has 4"),
        ("sst2", ["sentence\tlabel"], r"a\.tsv has no records"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, task: str, lines: list[str], message: str) -> None:
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message):
        read_glue(tmp_path / "a.tsv", GLUE_LAYOUTS[task])


def test_another_ending(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(DataError, match=r"GLUE file .*a\.csv must end in \.tsv"):
        read_glue(tmp_path / "a.csv", GLUE_LAYOUTS["rte"])
