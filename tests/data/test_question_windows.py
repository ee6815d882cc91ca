"""SQuAD's files, windows over contexts, and spans that are the context's own text."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbert.data import (
    Answer,
    DataError,
    QuestionWindows,
    SquadQuestion,
    Tokenizer,
    collate,
    read_squad,
    span_text,
)
from fastbert.data.question_windows import answer_tokens, window_starts

CONTEXT = "Anna lives in Oslo.  She moved  there from São Paulo in 2019."
SQUAD: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "a", "question": "Where?", "answers": [{"text": "Oslo", "answer_start": 14}]},
                        {
                            "id": "b",
                            "question": "From where?",
                            "answers": [{"text": "São Paulo", "answer_start": CONTEXT.index("São")}],
                        },
                    ],
                }
            ],
        }
    ],
}
TEXTS = [CONTEXT, "where did she move from", "한국어 문장 Größe café e\u0301 👩‍🚀 東京", "a b c d e f g h"]


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def entry(content: Any) -> Any:
    return content["data"][0]["paragraphs"][0]["qas"][0]


def test_a_file_of_the_first_kind(tmp_path: Path) -> None:
    first, second = read_squad(write(tmp_path / "train.json", SQUAD))
    assert (first.id, first.question, first.answers, first.optional) == ("a", "Where?", (Answer("Oslo", 14),), False)
    assert second.answers[0].text == "São Paulo"
    assert first.source.endswith("train.json, question a")


def test_a_file_of_the_second_kind(tmp_path: Path) -> None:
    content = copy.deepcopy(SQUAD)
    content["version"] = "v2.0"
    entry(content).update(is_impossible=True, answers=[], plausible_answers=[{"text": "Oslo", "answer_start": 14}])
    first, second = read_squad(write(tmp_path / "train.json", content))
    assert (first.answers, first.optional, second.optional) == ((), True, True)


def test_without_labels_answers_may_be_missing(tmp_path: Path) -> None:
    content = copy.deepcopy(SQUAD)
    del entry(content)["answers"]
    assert read_squad(write(tmp_path / "test.json", content), labelled=False)[0].answers == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: entry(c)["answers"][0].update(answer_start=13), "question a: the answer 'Oslo' is not at 13 of"),
        (lambda c: entry(c)["answers"][0].update(answer_start=-4), "question a: the answer 'Oslo' is not at -4 of"),
        (lambda c: entry(c)["answers"][0].update(answer_start="14"), 'question a: "answer_start" must be an integer'),
        (lambda c: entry(c).update(answers=[]), "question a: no answer"),
        (lambda c: entry(c).pop("answers"), 'question a: "answers" must be a list, got nothing'),
        (lambda c: entry(c).update(id="b"), "question b: the id occurs twice"),
        (lambda c: entry(c).pop("id"), 'train.json: "id" must be a string, got nothing'),
        (lambda c: entry(c).update(question=7), 'question a: "question" must be a string, got int'),
        (lambda c: c["data"][0]["paragraphs"][0].pop("context"), 'article 1, paragraph 1: "context" must be a string'),
        (lambda c: c["data"][0].pop("paragraphs"), 'article 1: "paragraphs" must be a list'),
        (lambda c: c["data"].append(5), "article 2: an object is needed, this is a int"),
        (lambda c: c.update(data=[]), "has no questions"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, change: Any, message: str) -> None:
    content = copy.deepcopy(SQUAD)
    change(content)
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        read_squad(write(tmp_path / "train.json", content))


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text('{"data": [', encoding="utf-8")
    with pytest.raises(DataError, match=r"train.json is not JSON: .* line 1"):
        read_squad(path)


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    gpt = Tokenizer.train_byte_bpe(TEXTS * 5, 400)
    gpt.add_task_tokens()
    return {"bert": Tokenizer.train_wordpiece(TEXTS * 5, 400), "gpt": gpt}


def test_windows_cover_all_and_begin_a_stride_apart() -> None:
    assert window_starts(10, 10, 3) == [0]
    assert window_starts(11, 10, 3) == [0, 3]
    assert window_starts(20, 8, 5) == [0, 5, 10, 15]
    assert window_starts(20, 8, 100) == [0, 8, 16]


@pytest.mark.parametrize("family", ["bert", "gpt"])
def test_windows_and_their_targets(tokenizers: dict[str, Tokenizer], family: str) -> None:
    tokenizer = tokenizers[family]
    context = " ".join(f"{w} b c d" for w in "aefgh" * 6)
    start = context.index("f b") + 0
    question = SquadQuestion("q", "a b", context, (Answer("f b c", start),), False, "file, question q")
    examples = QuestionWindows([question], tokenizer, max_length=88, stride=7, labelled=True)
    assert len(examples) > 2
    ids, offsets = tokenizer.encode_with_offsets(context)
    first, last = answer_tokens(question, offsets)
    assert context[slice(*span_text(context, offsets, first, last))] == "f b c"
    asked = tokenizer.encode("a b")
    answered = 0
    for i, window in enumerate(examples.windows):
        example, part = examples[i], ids[window.first : window.first + window.size]
        assert len(example) <= 88
        assert example.input_ids.tolist() == tokenizer.build_pair(asked, part)[0]
        assert example.input_ids[window.offset : window.offset + window.size].tolist() == part
        if window.first <= first and last < window.first + window.size:
            answered += 1
            assert example.start_position is not None
            assert example.input_ids[example.start_position] == ids[first]
            assert example.start_position - window.offset + window.first == first
            assert example.end_position == last - window.first + window.offset
        else:
            null = 0 if family == "bert" else len(example) - 1
            assert example.start_position == example.end_position == window.null == null
    assert answered >= 1
    assert {token for w in examples.windows for token in range(w.first, w.first + w.size)} == set(range(len(ids)))
    batch = collate([examples[i] for i in range(len(examples))])
    assert batch.start_positions is not None
    assert len(batch.start_positions) == len(examples)


def test_what_cannot_be_encoded(tokenizers: dict[str, Tokenizer]) -> None:
    question = SquadQuestion("q", "a", "a b", (), True, "file, question q")
    with pytest.raises(DataError, match="max_length must be at least 68 for questions and contexts, got 60"):
        QuestionWindows([question], tokenizers["bert"], max_length=60, stride=8, labelled=False)
    with pytest.raises(DataError, match="stride must be at least 1, got 0"):
        QuestionWindows([question], tokenizers["bert"], max_length=80, stride=0, labelled=False)
    empty = SquadQuestion("q", "a", " ", (), True, "file, question q")
    with pytest.raises(DataError, match="file, question q: the context has no token"):
        QuestionWindows([empty], tokenizers["bert"], max_length=80, stride=8, labelled=False)


WORDS = ["Oslo", "São", "e\u0301te", "東京都", "한국어", "👩‍🚀", "don't", "10,000", "Größe", "ﬁne", "İstanbul"]


@settings(max_examples=150, deadline=None)
@given(
    words=st.lists(st.sampled_from(WORDS), min_size=3, max_size=12),
    gaps=st.lists(st.sampled_from([" ", "  ", "\t", "\n", " \u00a0"]), min_size=12, max_size=12),
    place=st.integers(0, 1000),
    length=st.integers(1, 4),
    family=st.sampled_from(["bert", "gpt"]),
)
def test_an_answer_of_whole_words_comes_back_as_it_was(
    tokenizers: dict[str, Tokenizer], words: list[str], gaps: list[str], place: int, length: int, family: str
) -> None:
    """Double spaces, tabs, combining marks, CJK, Hangul, emoji, and letters that lower case makes two of."""
    begin = place % len(words)
    chosen = range(begin, min(begin + length, len(words)))
    text, spans = "", []
    for word, gap in zip(words, gaps, strict=False):
        spans.append((len(text), len(text) + len(word)))
        text += word + gap
    start, end = spans[chosen[0]][0], spans[chosen[-1]][1]
    question = SquadQuestion("q", "a", text, (Answer(text[start:end], start),), False, "file, question q")
    _, offsets = tokenizers[family].encode_with_offsets(text)
    first, last = answer_tokens(question, offsets)
    a, b = span_text(text, offsets, first, last)
    assert text[a:b] == question.answers[0].text
    assert np.all(offsets[:, 0] <= offsets[:, 1])
