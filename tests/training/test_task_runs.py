"""What every task shares: finetune, evaluate and predict on one definition, from Python and from the command line."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import task_data as data
import torch
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from fastbert import FinetuneConfig, finetune
from fastbert.cli import main
from fastbert.data import read_choice_questions, read_column_file
from fastbert.inference import EvaluateConfig, PredictConfig, evaluate, predict
from fastbert.models import load_pretrained
from fastbert.training.recorder import read_metrics
from fastbert.training.tasks import DataOptions, task_named, task_names


def tuned(model: Path, task: str, train: Path, **options: Any) -> Path:
    """A short run beside the training file; held out is what it trains on."""
    output = train.with_name("run")
    defaults = {"steps": 6, "max_length": 40, "tokens_per_batch": 256, "learning_rate": 1e-3, "precision": "fp32"}
    settings = {**defaults, "validation": str(train), "log_to": "none", **options}
    finetune(FinetuneConfig(str(model), str(output), task=task, train=str(train), **settings))
    return output


def last_validation(run: Path) -> dict[str, Any]:
    return [line for line in read_metrics(run) if line["split"] == "validation"][-1]


@pytest.fixture(params=["bert", "gpt"])
def names(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model that knows the words of the column files."""
    return data.small_model(request.param, data.conll_texts(), tmp_path / "model")


@pytest.fixture(params=["bert", "gpt"])
def topics(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return data.small_model(request.param, data.topic_texts(), tmp_path / "model")


def test_tagging_evaluated_and_predicted(names: Path, tmp_path: Path) -> None:
    train = data.write_conll(tmp_path / "train.conll", 30, 0)
    run = tuned(names, "tagging", train)
    measured = evaluate(EvaluateConfig(str(run), str(train), max_length=40))
    kept = last_validation(run)
    assert measured == pytest.approx({name: kept[name] for name in measured}, rel=1e-4)

    predictions = predict(PredictConfig(str(run), str(train), str(tmp_path / "out.conll"), max_length=40))
    gold, written = read_column_file(train), read_column_file(tmp_path / "out.conll")
    assert [sentence.tags for sentence in written] == [prediction.tags for prediction in predictions]
    assert [sentence.rows for sentence in gold] == [tuple(row[:-1] for row in s.rows) for s in written]
    words = [(t, p) for s, q in zip(gold, predictions, strict=True) for t, p in zip(s.tags or (), q.tags, strict=True)]
    assert sum(t == p for t, p in words) / len(words) == pytest.approx(measured["accuracy"])


def test_long_sentences_are_tagged_in_windows(names: Path, tmp_path: Path) -> None:
    """A file of one sentence of 200 words, which no model here could read at once."""
    sentences = read_column_file(data.write_conll(tmp_path / "short.conll", 30, 0))
    rows = [row for sentence in sentences for row in sentence.rows]
    train = tmp_path / "long.conll"
    train.write_text("".join(" ".join(row) + "\n" for row in rows))
    run = tuned(names, "tagging", train, max_length=24)
    (prediction,) = predict(PredictConfig(str(run), str(train), str(tmp_path / "out.conll"), max_length=24))
    assert len(prediction.tags) == len(rows) > 150


def test_transformers_tags_alike(tmp_path: Path) -> None:
    train = data.write_conll(tmp_path / "train.conll", 20, 0)
    run = tuned(data.small_model("bert", data.conll_texts(), tmp_path / "model"), "tagging", train, steps=20)
    ours = predict(PredictConfig(str(run), str(train), str(tmp_path / "out.conll"), max_length=40))
    theirs, tokenizer = AutoModelForTokenClassification.from_pretrained(run).eval(), AutoTokenizer.from_pretrained(run)
    for sentence, prediction in zip(read_column_file(train), ours, strict=True):
        encoded = tokenizer(list(sentence.words), is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            classes = theirs(**encoded).logits[0].argmax(-1).tolist()
        owners = encoded.word_ids()
        first = [owners.index(word) for word in range(len(sentence.words))]
        assert prediction.tags == tuple(theirs.config.id2label[classes[place]] for place in first)


def test_transformers_chooses_alike(tmp_path: Path) -> None:
    train = data.write_swag(tmp_path / "train.csv", 20, 0)
    run = tuned(data.small_model("bert", data.topic_texts(), tmp_path / "model"), "multiple_choice", train, steps=20)
    ours = predict(PredictConfig(str(run), str(train), str(tmp_path / "out.csv"), max_length=40))
    theirs, tokenizer = AutoModelForMultipleChoice.from_pretrained(run).eval(), AutoTokenizer.from_pretrained(run)
    for question, prediction in zip(read_choice_questions(train), ours, strict=True):
        encoded = tokenizer([question.context] * 4, list(question.choices), padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = theirs(**{name: value[None] for name, value in encoded.items()}).logits[0]
        assert prediction.choice == int(logits.argmax())
        assert prediction.probability == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)


def test_multiple_choice_evaluated_and_predicted(topics: Path, tmp_path: Path) -> None:
    train = data.write_race(tmp_path / "race", 20, 0)
    run = tuned(topics, "multiple_choice", train)
    measured = evaluate(EvaluateConfig(str(run), str(train), max_length=40))
    kept = last_validation(run)
    assert measured == pytest.approx({name: kept[name] for name in measured}, rel=1e-4)
    predict(PredictConfig(str(run), str(train), str(tmp_path / "out.csv"), max_length=40))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    questions = read_choice_questions(train)
    assert [row["id"] for row in rows] == [question.id for question in questions]
    right = [row["label"] == question.name(question.label or 0) for row, question in zip(rows, questions, strict=True)]
    assert sum(right) / len(right) == pytest.approx(measured["accuracy"])


def test_gpt_keeps_its_language_model_loss_over_all_choices(tmp_path: Path) -> None:
    train = data.write_swag(tmp_path / "train.csv", 20, 0)
    run = tuned(data.small_model("gpt", data.topic_texts(), tmp_path / "model"), "multiple_choice", train)
    line = next(line for line in read_metrics(run) if line["split"] == "train")
    assert line["loss"] == pytest.approx(line["task"] + 0.5 * line["lm"])


def test_regression_evaluated_and_predicted(tmp_path: Path) -> None:
    train = data.write_csv(tmp_path / "train.csv", data.scored_texts(30, 0))
    texts = [str(row["text"]) for row in data.scored_texts(30, 0)]
    run = tuned(data.small_model("bert", texts, tmp_path / "model"), "regression", train, label_column="score")
    config = load_pretrained(run, "classification").config
    assert (config.num_labels, config.problem_type) == (1, "regression")
    measured = evaluate(EvaluateConfig(str(run), str(train), label_column="score", max_length=40))
    predictions = predict(PredictConfig(str(run), str(train), str(tmp_path / "out.jsonl"), max_length=40))
    values = [json.loads(line)["value"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert values == [prediction.value for prediction in predictions]
    scores = [float(str(row["score"])) for row in data.scored_texts(30, 0)]
    squares = [(value - score) ** 2 for value, score in zip(values, scores, strict=True)]
    assert measured["loss"] == pytest.approx(sum(squares) / len(squares), rel=1e-4)
    theirs, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(run).eval(),
        AutoTokenizer.from_pretrained(run),
    )
    with torch.no_grad():
        expected = [float(theirs(**tokenizer(text, return_tensors="pt")).logits) for text in texts]
    assert values == pytest.approx(expected, abs=1e-5)


def test_gpt_compares_without_regard_to_order(tmp_path: Path) -> None:
    rows = data.compared_texts(20, 0)
    train = data.write_csv(tmp_path / "train.csv", rows)
    turned = [{"first": row["second"], "second": row["first"], "same": row["same"]} for row in rows]
    other = data.write_csv(tmp_path / "turned.csv", turned)
    columns = {"text_column": "first", "text_pair_column": "second"}
    run = tuned(
        data.small_model("gpt", data.topic_texts(), tmp_path / "model"),
        "paraphrase",
        train,
        label_column="same",
        **columns,
    )
    one, two = (
        predict(PredictConfig(str(run), str(path), str(tmp_path / "out.csv"), max_length=40, **columns))
        for path in (train, other)
    )
    assert [p.label for p in one] == [p.label for p in two]
    assert [p.probability for p in one] == pytest.approx([p.probability for p in two], abs=1e-6)


def test_a_head_of_another_shape_is_made_anew_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = data.scored_texts(20, 0)
    model = data.small_model("bert", [str(row["text"]) for row in rows], tmp_path / "model")
    train = data.write_csv(tmp_path / "train.csv", rows)
    numbers = tuned(model, "regression", train, label_column="score", steps=1)
    (tmp_path / "next").mkdir()
    tagged = data.write_conll(tmp_path / "next" / "train.conll", 20, 0)
    caplog.clear()
    tags = load_pretrained(tuned(numbers, "tagging", tagged, steps=1), "token-classification")
    assert tags.config.num_labels == 5
    (said,) = [r.getMessage() for r in caplog.records if "newly initialised" in r.getMessage()]
    new = "classifier.weight, classifier.bias"
    assert said.endswith(f"of another shape in the checkpoint, newly initialised, to be trained before use: {new}")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("tagging", {"text_column": "x"}, r"text_column is 'x', which task 'tagging' does not read"),
        ("classification", {"tag_column": 1}, r"tag_column is 1, which task 'classification' does not read"),
        ("multiple_choice", {"label_column": "y"}, r"label_column is 'y', which task 'multiple_choice' does not read"),
        ("tagging", {"metric": "pearson"}, r"metric is 'pearson'; allowed: \"f1\", .*, \"loss\" for tagging"),
        ("dancing", {}, r"task is 'dancing'; allowed: classification, regression, tagging, multiple_choice"),
        ("similarity", {}, r"text_pair_column is None; allowed: the column of the text to compare"),
        ("paraphrase", {}, r"text_pair_column is None; allowed"),
    ],
)
def test_settings_that_make_no_sense(task: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    train = data.write_csv(tmp_path / "train.csv", data.compared_texts(4, 0))
    with pytest.raises(ValueError, match=message):
        tuned(tmp_path, task, train, **options)


def test_a_metric_that_the_tags_do_not_have(tmp_path: Path) -> None:
    train = data.write_conll(tmp_path / "train.conll", 20, 0)
    model = data.small_model("bert", data.conll_texts(), tmp_path / "model")
    with pytest.raises(ValueError, match=r"metric is 'f1'; allowed with these labels: accuracy, loss"):
        tuned(model, "tagging", train, tag_column=1, metric="f1")


def test_an_unknown_tag_in_the_validation_file(names: Path, tmp_path: Path) -> None:
    train = data.write_conll(tmp_path / "train.conll", 20, 0)
    held_out = tmp_path / "dev.conll"
    held_out.write_text("Anna NNP I-NP B-PER\nmet VBD I-VP B-EVENT\n")
    message = (
        r"dev.conll, line 2: unknown tag 'B-EVENT', known from the training data are B-LOC, B-PER, I-LOC, I-PER, O"
    )
    with pytest.raises(ValueError, match=message):
        tuned(names, "tagging", train, validation=str(held_out))
    assert not (tmp_path / "run").exists()


def test_an_unknown_tag_is_no_hindrance_to_predicting(names: Path, tmp_path: Path) -> None:
    train = data.write_conll(tmp_path / "train.conll", 20, 0)
    words = tmp_path / "words.txt"
    words.write_text("Anna\nmet\nBoris\n\nChen\n")
    predictions = predict(PredictConfig(str(tuned(names, "tagging", train)), str(words), str(tmp_path / "out")))
    assert [len(prediction.tags) for prediction in predictions] == [3, 1]
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line.split()[0] for line in lines if line] == ["Anna", "met", "Boris", "Chen"]


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    train = data.write_conll(tmp_path / "train.conll", 20, 0)
    run = tuned(data.small_model("bert", data.conll_texts(), tmp_path / "model"), "tagging", train, steps=1)
    questions = data.write_swag(tmp_path / "swag.csv", 4, 0)
    with pytest.raises(ValueError, match=r"weights of the wrong shape: classifier.weight is \(5, 128\)"):
        evaluate(EvaluateConfig(str(run), str(questions), task="multiple_choice"))
    with pytest.raises(ValueError, match=r"output .*x\.txt must end in \.csv, \.tsv or \.jsonl"):
        predict(PredictConfig(str(run), str(questions), str(tmp_path / "x.txt"), task="multiple_choice"))


def test_the_command_line_knows_the_task_of_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train = str(data.write_conll(tmp_path / "train.conll", 20, 0))
    model = data.small_model("bert", data.conll_texts(), tmp_path / "model")
    run = str(tmp_path / "run")
    common = ["--max_length", "32"]
    arguments = ["finetune", "--model", str(model), "--output", run, "--task", "tagging", "--train", train]
    arguments += ["--validation", train, "--steps", "2", "--log_to", "none", "--tag_column", "1"]
    assert main([*arguments, *common]) == 0
    assert main(["evaluate", "--model", run, "--data", train, "--tag_column", "1", *common]) == 0
    assert "accuracy 0." in capfd.readouterr().out
    assert main(["predict", "--model", run, "--input", train, "--output", str(tmp_path / "out.conll"), *common]) == 0
    assert "20 predictions in" in capfd.readouterr().out
    assert main([*arguments, "--resume", "true", "--task", "dancing"]) == 2
    assert "task is 'dancing'; allowed: classification" in capfd.readouterr().err


@pytest.mark.parametrize("name", task_names())
def test_every_task_is_whole(name: str) -> None:
    task = task_named(name)
    assert task.name == name
    assert task.metrics
    assert task.purpose_for(causal=False) == task.purpose


@pytest.mark.parametrize("config", [FinetuneConfig, EvaluateConfig, PredictConfig])
def test_the_options_have_one_default_each(config: type) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(DataOptions)}
    shared = {field.name: field.default for field in dataclasses.fields(config) if field.name in defaults}
    assert len(shared) >= 4
    assert shared == {name: defaults[name] for name in shared}


def test_hub_data_sets_give_each_use_its_split(topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def load(*name: str, split: str) -> datasets.Dataset:
        asked.append((*name, split))
        features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["cooks", "sails"]))
        rows = {"text": ["she stirs the soup", "he ties the boat"] * 8, "label": [0, 1] * 8}
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setenv("FASTBERT_CACHE", str(tmp_path / "cache"))
    name = "hf://topics/small"
    run = tmp_path / "run"
    settings = FinetuneConfig(
        str(topics), str(run), train=name, validation=name, test=name, steps=2, max_length=16, log_to="none"
    )
    assert set(finetune(settings).test) >= {"accuracy"}
    assert asked == [("topics", "small", split) for split in ("train", "validation", "test")]
    evaluate(EvaluateConfig(str(run), f"{name}:train"))
    labels = {prediction.label for prediction in predict(PredictConfig(str(run), name, str(tmp_path / "out.csv")))}
    assert labels <= {"cooks", "sails"}
    assert asked[3:] == [("topics", "small", "train"), ("topics", "small", "test")]
