"""Question answering: the official metrics, answers from scores, and learning by BERT and by GPT."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import task_data as data

from fastbert import FinetuneConfig, finetune
from fastbert.data import Answer, QuestionWindows, SquadQuestion, Tokenizer, read_squad
from fastbert.inference import EvaluateConfig, PredictConfig, evaluate, predict
from fastbert.training.tasks import task_named
from fastbert.training.tasks.squad_metrics import best_of, best_threshold, exact_match, f1, normalised

TASK = task_named("question_answering")


def test_normalisation_by_hand() -> None:
    assert normalised("The  Cat's, a \tHAT!") == "cats hat"
    assert normalised("an theatre") == "theatre"
    assert exact_match("the Oslo.", "oslo") == 1.0
    assert exact_match("Oslo", "Bergen") == 0.0


@pytest.mark.parametrize(
    ("found", "right", "score"),
    [
        ("in Oslo", "Oslo", 2 / 3),
        ("red red house", "red house house", 2 / 3),
        ("the", "", 1.0),
        ("", "Oslo", 0.0),
        ("Bergen", "Oslo", 0.0),
        ("big old house", "old house", 0.8),
    ],
)
def test_f1_by_hand(found: str, right: str, score: float) -> None:
    assert f1(found, right) == pytest.approx(score)


def test_the_best_of_several_answers() -> None:
    assert best_of(f1, "in Oslo", ["Bergen", "Oslo", "the"]) == pytest.approx(2 / 3)
    assert best_of(exact_match, "", []) == 1.0
    assert best_of(exact_match, "Oslo", []) == 0.0


def test_the_best_threshold_by_hand() -> None:
    """In order of their differences: a right answer, a wrong one, one given to a question that has none."""
    assert best_threshold([1.0, 0.0, 0.0], [True, True, False], [-5.0, 1.0, 3.0]) == (pytest.approx(2 / 3), -5.0)
    # Nothing answered is best: the threshold lies below all.
    assert best_threshold([0.0, 0.0], [True, False], [2.0, 1.0]) == (0.5, 0.0)


@pytest.mark.parametrize("seed", range(10))
def test_the_best_threshold_against_all_of_them(seed: int) -> None:
    draw = random.Random(seed)
    n = 12
    answerable = [draw.random() < 0.6 for _ in range(n)]
    scores = [draw.choice((0.0, 0.5, 1.0)) if x else 0.0 for x in answerable]
    differences = draw.sample(range(-50, 50), n)

    def mean(threshold: float) -> float:
        given = [d <= threshold for d in differences]
        return (
            sum((s if g else 0.0) if a else float(not g) for s, a, g in zip(scores, answerable, given, strict=True)) / n
        )

    best, threshold = best_threshold(scores, answerable, differences)
    assert best == pytest.approx(max(mean(t) for t in (*differences, -1000)))
    assert mean(threshold) == pytest.approx(best)


def answers_of(context: str, scores: dict[int, dict[int, tuple[float, float]]], **options: Any) -> list[Any]:
    """Answers where every token scores 0 but those given, by window and place in the context."""
    tokenizer = Tokenizer.train_wordpiece(["a b c d e f g h i j k l m n o p"] * 9, 60)
    question = SquadQuestion("q", "a", context, (), options.pop("optional", False), "file, question q")
    examples = QuestionWindows(
        [question], tokenizer, max_length=options.pop("max_length", 80), labelled=False, **options
    )
    outputs = []
    for i, window in enumerate(examples.windows):
        array = np.zeros((int(examples.lengths[i]), 2), np.float32)
        for token, pair in scores.get(i, {}).items():
            array[window.null if token < 0 else token - window.first + window.offset] = pair
        outputs.append(array)
    return TASK.predict([question], examples, outputs, None)  # type: ignore[arg-type]


def test_the_best_span_is_in_order_and_not_too_long() -> None:
    (answer,) = answers_of("a b c d e f", {0: {4: (9.0, 0.0), 2: (5.0, 9.0), 3: (0.0, 7.0)}}, stride=8)
    assert answer.text == "c"  # 5 + 9; the start at e has only ends of 0 after it
    assert answer.start == 4
    assert answer.n_best[0][0] == "c"
    assert sum(p for _, p in answer.n_best) == pytest.approx(1.0)
    (answer,) = answers_of("a b c d e f", {0: {0: (9.0, 0.0), 5: (0.0, 9.0)}}, stride=8, max_answer_length=3)
    assert answer.text != "a b c d e f"


def test_a_token_counts_where_most_is_around_it() -> None:
    """Windows of 64 tokens begin at 0, 30 and 60: token 63 is the last of the first, and amid the second."""
    context = " ".join("abcdefghijklmno"[i % 15] for i in range(100))
    (answer,) = answers_of(context, {0: {63: (9.0, 9.0)}}, stride=30, max_length=68)
    assert answer.n_best[0][1] < 0.1  # all score 0
    (answer,) = answers_of(context, {1: {63: (9.0, 9.0)}}, stride=30, max_length=68)
    assert (answer.start, answer.text) == (2 * 63, "d")
    assert answer.probability > 0.9


def test_no_answer_is_held_against_the_threshold() -> None:
    scores = {0: {-1: (3.0, 3.0), 1: (2.0, 2.0)}}
    (answer,) = answers_of("a b c", scores, stride=8, optional=True)
    assert (answer.text, answer.start, answer.best_text, answer.null_difference) == ("", -1, "b", 2.0)
    (answer,) = answers_of("a b c", scores, stride=8, optional=True, null_threshold=2.5)
    assert answer.text == "b"
    (answer,) = answers_of("a b c", scores, stride=8)
    assert answer.text == "b"  # SQuAD 1.1 has an answer to every question


def test_metrics_of_the_second_kind() -> None:
    questions = [
        SquadQuestion("a", "?", "x", (Answer("old house", 0), Answer("house", 4)), True, ""),
        SquadQuestion("b", "?", "x", (), True, ""),
    ]
    kind = type(answers_of("a b", {}, stride=8)[0])
    predictions = [kind("house", 4, 1.0, "house", -1.0, ()), kind("x", 0, 1.0, "x", 0.5, ())]
    metrics = TASK.measure(questions, predictions, None)  # type: ignore[arg-type]
    assert (metrics["exact"], metrics["exact_answerable"], metrics["exact_unanswerable"]) == (0.5, 1.0, 0.0)
    assert (metrics["best_exact"], metrics["best_exact_threshold"]) == (1.0, -1.0)


# A person is somewhere and has something; the question says which of the two is asked for.
THINGS = ("a lamp", "two keys", "the map", "an old coat", "some bread")


def squad(count: int, seed: int, *, optional: bool) -> dict[str, Any]:
    draw, paragraphs = random.Random(seed), []
    for i in range(count):
        person, place, thing = draw.choice(data.FIRST_NAMES), " ".join(draw.choice(data.PLACES)), draw.choice(THINGS)
        context = f"{person} is in {place}  and carries {thing} today."
        asked, text = draw.choice((("Where is", place), ("What carries", thing)))
        impossible = optional and i % 3 == 0
        question = {"id": str(i), "question": f"{'Who likes' if impossible else asked} {person}?"}
        answers = [] if impossible else [{"text": text, "answer_start": context.index(text)}]
        extra = {"is_impossible": impossible} if optional else {}
        paragraphs.append({"context": context, "qas": [{**question, **extra, "answers": answers}]})
    return {"version": "v2.0" if optional else "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def write(path: Path, count: int, seed: int, *, optional: bool) -> Path:
    path.write_text(json.dumps(squad(count, seed, optional=optional)), encoding="utf-8")
    return path


@pytest.mark.parametrize("family", ["bert", "gpt"])
@pytest.mark.parametrize("optional", [False, True])
def test_it_is_learned(tmp_path: Path, family: str, optional: bool) -> None:
    train = write(tmp_path / "train.json", 128, 0, optional=optional)
    held_out = write(tmp_path / "held-out.json", 48, 1, optional=optional)
    texts = [text for q in read_squad(train) for text in (q.question, q.context)]
    model = data.small_model(family, texts, tmp_path / "model")
    run = tmp_path / "run"
    result = finetune(
        FinetuneConfig(
            model=str(model),
            output=str(run),
            task="question_answering",
            train=str(train),
            validation=str(held_out),
            epochs=16,
            learning_rate=2e-3,
            tokens_per_batch=512,
            precision="fp32",
            log_to="none",
            lm_weight=0.0,
        )
    )
    assert result.initial["f1"] < 0.5
    assert result.final["f1"] > 0.9
    output = tmp_path / "answers.json"
    predictions = predict(PredictConfig(str(run), str(held_out), str(output)))
    answers = json.loads(output.read_text(encoding="utf-8"))
    assert list(answers) == [question.id for question in read_squad(held_out)]
    assert list(answers.values()) == [prediction.text for prediction in predictions]
    probabilities = output.with_name("answers.na_prob.json")
    assert probabilities.exists() == optional
    if optional:
        none = json.loads(probabilities.read_text(encoding="utf-8"))
        assert all(0 <= p <= 1 for p in none.values())
        assert {i for i, p in none.items() if p > 0.5} == {i for i, answer in answers.items() if not answer}
    for question, prediction in zip(read_squad(held_out), predictions, strict=True):
        end = prediction.start + len(prediction.text)
        assert prediction.text == ("" if prediction.start < 0 else question.context[prediction.start : end])
    metrics = evaluate(EvaluateConfig(str(run), str(held_out)))
    assert metrics["exact"] == pytest.approx(result.final["exact"])
    assert ("best_f1" in metrics) == optional
