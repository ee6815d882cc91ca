"""Data sets of the hub as files of the tasks' forms: those of the library ``datasets``, without the download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from fastbert.data import DataError
from fastbert.data.hub_datasets import local_file
from fastbert.data.hub_forms import TABLE
from fastbert.training.tasks import DataOptions, task_named

TEXT = Value("string")


def dataset(features: dict[str, Any], *rows: tuple[Any, ...]) -> Dataset:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return Dataset.from_dict(dict(zip(features, columns, strict=True)), features=Features(features))


LABEL = ClassLabel(names=["not_equivalent", "equivalent"])
MRPC = {"sentence1": TEXT, "sentence2": TEXT, "label": LABEL, "idx": Value("int32")}
NLI = ClassLabel(names=["entailment", "neutral", "contradiction"])
SQUAD = {
    "id": TEXT,
    "title": TEXT,
    "context": TEXT,
    "question": TEXT,
    "answers": {"text": List(TEXT), "answer_start": List(Value("int32"))},
}
CONTEXT = "The  café is in 서울."
HUB: dict[tuple[str, ...], Dataset] = {
    ("glue", "mrpc"): dataset(MRPC, ("a b", "c", 1, 0), ("d", "e", 0, 4)),
    ("glue", "stsb"): dataset({**MRPC, "label": Value("float32")}, ("a", "b", 2.5, 0), ("c", "d", 5.0, 1)),
    ("glue", "mnli"): dataset(
        {"premise": TEXT, "hypothesis": TEXT, "label": NLI, "idx": Value("int32")}, ("a", "b", 2, 7), ("c", "d", 0, 8)
    ),
    ("glue", "plain"): dataset({**MRPC, "label": Value("int64")}, ("a", "b\u00a0c", 1, 0)),
    ("glue", "tabs"): dataset(MRPC, ("a\tb", "c", 1, 0)),
    ("glue", "unlabelled"): dataset(MRPC, ("a", "b", -1, 3)),
    ("owner/reviews",): dataset({"text": TEXT, "label": ClassLabel(names=["bad", "good"])}, ("so\nso", 1), ("no", 0)),
    ("owner/reviews", "de"): dataset({"text": TEXT, "label": Value("int64")}, ("ja", 3)),
    ("conll",): dataset(
        {
            "id": TEXT,
            "tokens": List(TEXT),
            "pos_tags": List(ClassLabel(names=["NNP", "VBD"])),
            "ner_tags": List(ClassLabel(names=["O", "B-PER"])),
        },
        ("0", ["Anna", "ran"], [0, 1], [1, 0]),
        ("1", ["Stop"], [1], [0]),
    ),
    ("spaced",): dataset({"tokens": List(TEXT), "tags": List(ClassLabel(names=["O"]))}, (["a b"], [0])),
    ("swag", "regular"): dataset(
        {
            **dict.fromkeys(("sent1", "sent2", "ending0", "ending1", "ending2", "ending3"), TEXT),
            "label": ClassLabel(names=["0", "1", "2", "3"]),
        },
        ("She sits.", "She", "eats.", "runs.", "flies.", "melts.", 1),
    ),
    ("race", "all"): dataset(
        {"article": TEXT, "question": TEXT, "options": List(TEXT), "answer": TEXT},
        ("Once.", "When?", ["Now", "Once"], "B"),
    ),
    ("squad",): dataset(SQUAD, ("q1", "t", CONTEXT, "Where?", {"text": ["서울"], "answer_start": [16]})),
    ("squad_v2",): dataset(
        SQUAD,
        ("q1", "t", CONTEXT, "Where?", {"text": ["서울"], "answer_start": [16]}),
        ("q2", "t", CONTEXT, "Who?", {"text": [], "answer_start": []}),
    ),
}


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(*name: str, split: str) -> Dataset:
        if split.partition("[")[0] != "train":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train'].")
        if name not in HUB:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset {name} doesn't exist on the Hub")
        return HUB[name].select(range(1)) if "[" in split else HUB[name]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setenv("FASTBERT_CACHE", str(tmp_path / "cache"))


def records(task: str, name: str, *, labelled: bool = True, **options: Any) -> list[Any]:
    return task_named(task).records(name, DataOptions(**options), split="train", labelled=labelled)


def test_glue_labels_are_those_of_its_files() -> None:
    read = records("glue/mrpc", "hf://glue/mrpc")
    assert [(r.text, r.text_pair, r.label, r.id) for r in read] == [("a b", "c", "1", "0"), ("d", "e", "0", "4")]
    assert [r.label for r in records("glue/mnli", "hf://glue/mnli")] == ["contradiction", "entailment"]
    assert [float(r.label) for r in records("glue/stsb", "hf://glue/stsb")] == [2.5, 5.0]
    assert [(r.text_pair, r.label) for r in records("glue/mrpc", "hf://glue/plain")] == [("b\u00a0c", "1")]
    for task, name in (("glue/mrpc", "hf://glue/tabs"), ("glue/cola", "hf://glue/mrpc")):
        with pytest.raises(DataError, match=rf"{name}: the row .* does not fit index, "):
            records(task, name)


def test_rows_without_a_label_can_be_predicted_and_not_learnt() -> None:
    (record,) = records("glue/mrpc", "hf://glue/unlabelled", labelled=False)
    assert (record.text, record.id) == ("a", "3")
    with pytest.raises(DataError, match="a test file has no labels"):
        records("glue/mrpc", "hf://glue/unlabelled")
    with pytest.raises(DataError, match=r"line 1.*label"):
        records("classification", "hf://glue/unlabelled", text_column="sentence1", text_pair_column="sentence2")


def test_tables_keep_their_columns_and_get_class_names() -> None:
    assert [(r.text, r.label) for r in records("classification", "hf://owner/reviews")] == [
        ("so\nso", "good"),
        ("no", "bad"),
    ]
    read = records("paraphrase", "hf://glue/mrpc", text_column="sentence1", text_pair_column="sentence2")
    assert [r.label for r in read] == ["equivalent", "not_equivalent"]
    with pytest.raises(DataError, match=r"glue--mrpc--train\.jsonl, line 1.*text.*sentence1"):
        records("classification", "hf://glue/mrpc")


def test_names_may_have_an_owner_a_configuration_and_a_split() -> None:
    assert [r.label for r in records("classification", "hf://owner/reviews/de")] == ["3"]
    assert len(records("classification", "hf://owner/reviews:train")) == 2
    assert len(records("classification", "hf://owner/reviews:train[:50%]")) == 1
    with pytest.raises(DataError, match=r"hf://owner/reviews:dev: Unknown split \"dev\". Should be one of \['train'\]"):
        records("classification", "hf://owner/reviews:dev")
    with pytest.raises(DataError, match="hf://nothing: the hub has no such data set"):
        records("classification", "hf://nothing")
    for name in ("hf://", "hf:///tmp/x", "hf://a/b/c/d", "hf://../../x/../y", "hf://a b"):
        with pytest.raises(DataError, match="is no data set's name; allowed: hf://"):
            records("classification", name)


def test_tags_become_the_columns_of_a_column_file() -> None:
    first, second = records("tagging", "hf://conll")
    assert (first.words, first.tags, second.words) == (("Anna", "ran"), ("B-PER", "O"), ("Stop",))
    assert records("tagging", "hf://conll", tag_column=1)[0].tags == ("NNP", "VBD")
    with pytest.raises(DataError, match=r"hf://spaced: row 0 has \('a b', 'O'\)"):
        records("tagging", "hf://spaced")
    with pytest.raises(DataError, match="hf://squad has no column 'tokens', which the task needs; it has id, title"):
        records("tagging", "hf://squad")


def test_choices_of_swag_and_race() -> None:
    (swag,) = records("multiple_choice", "hf://swag/regular")
    assert (swag.context, swag.choices, swag.label) == (
        "She sits.",
        ("She eats.", "She runs.", "She flies.", "She melts."),
        1,
    )
    (race,) = records("multiple_choice", "hf://race/all")
    assert (race.context, race.question, race.choices, race.label) == ("Once.", "When?", ("Now", "Once"), 1)


def test_questions_of_both_versions() -> None:
    (question,) = records("question_answering", "hf://squad")
    assert (question.context, question.answers[0].text, question.optional) == (CONTEXT, "서울", False)
    answered, unanswered = records("question_answering", "hf://squad_v2")
    assert answered.optional
    assert unanswered.answers == ()


def test_paths_are_left_alone(tmp_path: Path) -> None:
    assert local_file(str(tmp_path / "x.csv"), TABLE, "train") == str(tmp_path / "x.csv")


def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: str, split: str) -> Dataset:
        raise ConnectionError("Couldn't reach 'glue' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"hf://glue/mrpc needs a network, and the hub cannot be .*; or name a file"):
        records("glue/mrpc", "hf://glue/mrpc")


def test_nothing_local_is_taken_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squad").mkdir()
    with pytest.raises(DataError, match="hf://squad: squad also exists here"):
        records("question_answering", "hf://squad")
