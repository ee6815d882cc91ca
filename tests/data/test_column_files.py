"""CoNLL column files: reading, writing, and what is refused with file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fastbert.data import DataError, TaggedSentence, read_column_file, write_column_file

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC

Peter NNP B-NP B-PER
Blackburn\tNNP\tI-NP\tI-PER



-DOCSTART- -X- -X- O

BRUSSELS NNP B-NP B-LOC"""


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["eng.train", "eng.conll.gz"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_words_and_tags(tmp_path: Path, name: str, ending: str) -> None:
    path = write(tmp_path / name, CONLL.replace("\n", ending))
    sentences = read_column_file(path)
    assert [sentence.words for sentence in sentences] == [
        ("EU", "rejects", "German"),
        ("Peter", "Blackburn"),
        ("BRUSSELS",),
    ]
    assert [sentence.tags for sentence in sentences] == [("B-ORG", "O", "B-MISC"), ("B-PER", "I-PER"), ("B-LOC",)]
    assert [sentence.lines for sentence in sentences] == [(3, 4, 5), (7, 8), (14,)]
    assert [sentence.heading is not None for sentence in sentences] == [True, False, True]
    assert sentences[1].place(1) == f"{path}, line 8"


def test_columns_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", CONLL)
    assert read_column_file(path, tag_column=1)[0].tags == ("NNP", "VBZ", "JJ")
    assert read_column_file(path, tag_column=-2)[1].tags == ("B-NP", "I-NP")
    assert read_column_file(path, token_column=1, tag_column=None)[0].words == ("NNP", "VBZ", "JJ")
    assert read_column_file(path, tag_column=None)[0].tags is None


def test_only_spaces_and_tabs_part_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "100\u00a0000 NUM\n\u3000 SPACE\n")
    assert read_column_file(path)[0].words == ("100\u00a0000", "\u3000")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a X\nb\n", r"a\.conll, line 2: 1 columns, the lines before have 2"),
        ("a X\n\nb X Y\n", r"a\.conll, line 3: 3 columns, the lines before have 2"),
        ("", r"a\.conll has no sentences"),
        ("-DOCSTART- O\n\n\n", r"a\.conll has no sentences"),
        ("a\nb\n", r"a\.conll: tag_column -1 is the tokens' column; the lines have 1"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_column_file(write(tmp_path / "a.conll", content))


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", CONLL)
    with pytest.raises(DataError, match=r"a\.conll, line 3: tag_column is 4; allowed: -4 to 3"):
        read_column_file(path, tag_column=4)
    with pytest.raises(DataError, match=r"line 3: token_column is -5; allowed: -4 to 3"):
        read_column_file(path, token_column=-5)
    with pytest.raises(DataError, match=r"data file .*none\.conll does not exist"):
        read_column_file(tmp_path / "none.conll")


def test_written_with_a_column_more(tmp_path: Path) -> None:
    sentences = read_column_file(write(tmp_path / "a.conll", CONLL))
    path = tmp_path / "b.conll"
    write_column_file(path, sentences, [("O", "O", "B-MISC"), ("B-PER", "I-PER"), ("O",)])
    assert path.read_text(encoding="utf-8") == (
        "-DOCSTART- -X- -X- O O\n\n"
        "EU NNP B-NP B-ORG O\nrejects VBZ B-VP O O\nGerman JJ B-NP B-MISC B-MISC\n\n"
        "Peter NNP B-NP B-PER B-PER\nBlackburn NNP I-NP I-PER I-PER\n\n"
        "-DOCSTART- -X- -X- O O\n\n"
        "BRUSSELS NNP B-NP B-LOC O\n\n"
    )
    again = read_column_file(path)
    assert [sentence.tags for sentence in again] == [("O", "O", "B-MISC"), ("B-PER", "I-PER"), ("O",)]


def test_a_sentence_made_by_hand_is_its_words(tmp_path: Path) -> None:
    write_column_file(tmp_path / "a.conll", [TaggedSentence(("a", "b"))], [("X", "Y")])
    assert (tmp_path / "a.conll").read_text() == "a X\nb Y\n\n"
