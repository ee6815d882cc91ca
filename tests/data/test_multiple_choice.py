"""Multiple-choice questions: the four forms of their files, and the examples made of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fastbert.data import (
    ChoiceQuestion,
    DataError,
    Example,
    MultipleChoiceExamples,
    Tokenizer,
    collate,
    read_choice_questions,
)

SWAG = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
    '7,lsmdc_1,16668,"A waits. He","A waits.",He,gold,"sits, and rests.",runs.,eats.,flies.,2\n'
)
STORY = (
    "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,RandomFifthSentenceQuiz1,"
    "RandomFifthSentenceQuiz2,AnswerRightEnding\n"
    "s-1,One.,Two.,Three.,Four.,Good end.,Bad end.,2\n"
)
RACE: dict[str, Any] = {
    "answers": ["C", "A"],
    "options": [["w", "x", "y", "z"], ["k", "l", "m", "n"]],
    "questions": ["What is _ ?", "Why?"],
    "article": "Once\nthere was a word.",
    "id": "high1.txt",
}
PLAIN = {"context": "It rains.", "choices": ["Wet.", "Dry.", "Hot."], "label": 0, "question": "So?", "id": 5}


def write(path: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_swag(tmp_path: Path) -> None:
    (question,) = read_choice_questions(write(tmp_path / "val.csv", SWAG))
    assert question.context == "A waits."
    assert question.choices == ("He sits, and rests.", "He runs.", "He eats.", "He flies.")
    assert (question.label, question.name(2), question.id) == (2, "2", "7")
    assert question.source.endswith("val.csv, line 2")
    test = SWAG.replace(",label\n", "\n").replace(",2\n", "\n")
    (question,) = read_choice_questions(write(tmp_path / "test.csv", test), labelled=False)
    assert question.label is None


def test_story_cloze(tmp_path: Path) -> None:
    (question,) = read_choice_questions(write(tmp_path / "cloze.csv", STORY))
    assert question.context == "One. Two. Three. Four."
    assert question.choices == ("Good end.", "Bad end.")
    assert (question.label, question.name(1), question.id) == (1, "2", "s-1")


def test_race(tmp_path: Path) -> None:
    write(tmp_path / "dev" / "high" / "2.txt", {**RACE, "id": "high2.txt", "answers": ["B", "B"]})
    path = write(tmp_path / "dev" / "high" / "1.txt", RACE)
    first, second = read_choice_questions(path)
    assert (first.context, first.question) == ("Once\nthere was a word.", "What is _ ?")
    assert (first.choices, first.label, first.name(2)) == (("w", "x", "y", "z"), 2, "C")
    assert (second.choices, second.label, second.id) == (("k", "l", "m", "n"), 0, "high1.txt-1")
    everything = read_choice_questions(tmp_path / "dev")
    assert [question.label for question in everything] == [2, 0, 1, 1]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_plain(tmp_path: Path, name: str) -> None:
    bare = {"context": "c", "choices": ["x", "y", "z"], "label": 2}
    first, second = read_choice_questions(write(tmp_path / name, json.dumps(PLAIN) + "\n\n" + json.dumps(bare) + "\n"))
    assert (first.context, first.question, first.choices) == ("It rains.", "So?", ("Wet.", "Dry.", "Hot."))
    assert (first.label, first.id) == (0, "5")
    assert (second.question, second.label, second.id) == ("", 2, None)
    assert second.source.endswith("line 3")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", SWAG.replace(",2\n", ",4\n"), r'a\.csv, line 2: "label" is \'4\'; allowed: 0 to 3'),
        ("a.csv", SWAG.replace(",2\n", ",\n"), r'line 2: "label" is \'\'; allowed: 0 to 3'),
        ("a.csv", SWAG.replace("eats.", ""), r'line 2: "ending2" is empty'),
        ("a.csv", SWAG.replace("ending3", "end"), r"line 2: no column 'ending3', the columns are"),
        ("a.csv", STORY.replace(",2\n", ",0\n"), r'line 2: "AnswerRightEnding" is \'0\'; allowed: 1 to 2'),
        ("a.csv", STORY.replace("Bad end.", " "), r'line 2: "RandomFifthSentenceQuiz2" is empty'),
        ("a.csv", "text,label\na,1\n", r"a\.csv: the columns are text, label; a table of questions is SWAG's"),
        ("a.csv", SWAG.splitlines()[0] + "\n", r"a\.csv has no multiple-choice questions"),
        ("a.jsonl", {**PLAIN, "label": 3}, r'line 1: "label" is 3; allowed: 0 to 2'),
        ("a.jsonl", {**PLAIN, "label": True}, r'line 1: "label" is True; allowed: 0 to 2'),
        ("a.jsonl", {**PLAIN, "label": 1.0}, r'line 1: "label" is 1\.0; allowed'),
        ("a.jsonl", {**PLAIN, "choices": ["x"]}, r'line 1: "choices" has 1 texts; allowed: 2 to 10'),
        ("a.jsonl", {**PLAIN, "choices": ["x", ""]}, r'line 1: "choices" must be a list of texts, none of them empty'),
        ("a.jsonl", {"context": "c", "choices": ["x", "y"]}, r"line 1: no column 'label'"),
        ("a.jsonl", '{"context": ', r"line 1: malformed JSON"),
        ("a.txt", {**RACE, "answers": ["C", "E"]}, r"a\.txt, question 2: the answer is 'E'; allowed: A, B, C, D"),
        ("a.txt", {**RACE, "answers": ["C"]}, r"a\.txt: questions, options, answers must be lists of one length"),
        ("a.txt", {**RACE, "options": [["w"], ["k", "l"]]}, r'question 1: "options" has 1 texts'),
        ("a.txt", {"article": "x"}, r"a\.txt: questions, options, answers missing; a RACE passage has"),
        ("a.txt", [RACE], r"a\.txt: a RACE passage is an object with article, .*, got a list"),
        ("a.txt", "no json", r"a\.txt: malformed JSON"),
        ("a.xml", "x", r"must end in \.csv, \.tsv or \.jsonl"),
    ],
)
def test_errors_name_file_and_place(tmp_path: Path, name: str, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_choice_questions(write(tmp_path / name, content))


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no multiple-choice questions"):
        read_choice_questions(tmp_path)


def parts(example: Example) -> list[list[int]]:
    """The sequences of a group."""
    assert example.sequence_lengths is not None
    found, start = [], 0
    for length in example.sequence_lengths:
        found.append(example.input_ids[start : start + length].tolist())
        start += length
    return found


def test_bert_reads_each_choice_after_context_and_question(bert: Tokenizer) -> None:
    questions = [ChoiceQuestion("a b", ("c", "d e"), 1, "f"), ChoiceQuestion("a", ("b", "c"), 0)]
    examples = MultipleChoiceExamples(questions, bert, 16, labelled=True)
    context = bert.encode("a b f")
    assert parts(examples[0]) == [bert.build_pair(context, bert.encode(c))[0] for c in ("c", "d e")]
    assert examples.lengths.tolist() == [7 + 8, 5 + 5]
    batch = collate([examples[0], examples[1]])
    assert batch.num_choices == 2
    assert batch.cu_seqlens.tolist() == [0, 7, 15, 20, 25]
    assert batch.position_ids.tolist() == [*range(7), *range(8), *range(5), *range(5)]
    assert batch.max_seqlen == 8
    assert batch.token_type_ids is not None
    assert batch.token_type_ids[:15].tolist() == [0] * 5 + [1] * 2 + [0] * 5 + [1] * 3
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0]
    assert collate([MultipleChoiceExamples(questions, bert, 16, labelled=False)[0]]).labels is None


def test_gpt_reads_start_context_delimiter_choice_extract(gpt: Tokenizer) -> None:
    example = MultipleChoiceExamples([ChoiceQuestion("ab", ("c", "d"), 1, "q")], gpt, 16, labelled=True)[0]
    for sequence, choice in zip(parts(example), "cd", strict=True):
        assert sequence == [gpt.start_id, *gpt.encode("ab q"), gpt.delimiter_id, *gpt.encode(choice), gpt.extract_id]
    assert example.token_type_ids is None


def test_the_context_is_cut_first(bert: Tokenizer) -> None:
    """Room for 7: of eight context tokens four stay beside the question and two of the answer; the rest is uncut."""
    question = ChoiceQuestion("a b c d e f g h", ("i j", "i"), 0, "a")
    examples = MultipleChoiceExamples([question], bert, 10, labelled=True)
    assert parts(examples[0]) == [
        bert.build_pair(bert.encode("a b c d a"), bert.encode("i j"))[0],
        bert.build_pair(bert.encode("a b c d e a"), bert.encode("i"))[0],
    ]
    assert examples.num_truncated == 2
    long = ChoiceQuestion("a b", ("c d e f g h", "i"), 0, "j i h")
    assert parts(MultipleChoiceExamples([long], bert, 8, labelled=True)[0]) == [
        bert.build_pair(bert.encode("j i h"), bert.encode("c d"))[0],
        bert.build_pair(bert.encode("a j i h"), bert.encode("i"))[0],
    ]


def test_examples_that_cannot_be_made(bert: Tokenizer) -> None:
    good = ChoiceQuestion("a", ("b", "c"), 0, source="f, line 1")
    for bad, message in (
        (
            ChoiceQuestion("a", ("b", "c", "d"), 0, source="f, line 9"),
            "f, line 9: 3 choices, the file's first .* has 2",
        ),
        (ChoiceQuestion("a", ("b", "c"), 2, source="f, line 9"), "f, line 9: the label is 2; allowed: 0 to 1"),
        (ChoiceQuestion("a", ("b", "c"), source="f, line 9"), "f, line 9: a label is needed"),
    ):
        with pytest.raises(DataError, match=message):
            MultipleChoiceExamples([good, bad], bert, 16, labelled=True)
    with pytest.raises(DataError, match="f, line 1: 1 choices, at least two"):
        MultipleChoiceExamples([ChoiceQuestion("a", ("b",), 0, source="f, line 1")], bert, 16, labelled=True)
    with pytest.raises(DataError, match="max_length must be at least 5, got 4"):
        MultipleChoiceExamples([good], bert, 4, labelled=True)


def test_groups_that_cannot_be_collated() -> None:
    two = Example([1, 2], sequence_lengths=(1, 1))  # type: ignore[arg-type]
    three = Example([1, 2, 3], sequence_lengths=(1, 1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="groups of 2 and 3 sequences, one size is allowed"):
        collate([two, three])
    with pytest.raises(ValueError, match="1 of 2 examples have sequence_lengths"):
        collate([two, Example([1])])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sequence_lengths \(1, 2\) do not sum up to the 2 tokens"):
        Example([1, 2], sequence_lengths=(1, 2))  # type: ignore[arg-type]
