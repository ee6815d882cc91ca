"""Extractive question answering: where in its context a question's answer is, or that it has none.

A span's score is the sum of its first token's start score and its last token's end score (Devlin et al. 2018, section
4.2). A token that several windows show counts in the one that shows most of its surroundings. In files of SQuAD 2.0 the
best span is held against the score of no answer, least over the windows, and ``null_threshold``; evaluation also
reports the thresholds that would have been best.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastbert.data import ContextWindow, QuestionWindows, SquadQuestion, Tokenizer, read_squad, span_text
from fastbert.data.hub_forms import QUESTIONS
from fastbert.models import TransformerConfig
from fastbert.packing import PackedBatch
from fastbert.training.tasks.definition import Array, DataOptions, TaskDefinition, Writer, softmax
from fastbert.training.tasks.squad_metrics import best_of, best_threshold, exact_match, f1

N_BEST = 20


@dataclass(frozen=True)
class AnswerPrediction:
    """The answer to a question.

    Attributes:
        text: the answer, "" for none.
        start: where in the context it begins, -1 for none.
        probability: among the n best spans, by a softmax over their scores.
        best_text: the best answer, also where none was given.
        null_difference: score of no answer minus that of the best one.
        n_best: the best spans' texts and probabilities, best first.
    """

    text: str
    start: int
    probability: float
    best_text: str
    null_difference: float
    n_best: tuple[tuple[str, float], ...]


class _Span(NamedTuple):
    score: float
    first: int  # tokens of the context
    last: int


def read(path: str, options: DataOptions, labelled: bool) -> list[SquadQuestion]:
    """The questions of a file."""
    return read_squad(path, labelled=labelled)


def head(records: Sequence[SquadQuestion]) -> dict[str, Any]:
    """Nothing: a start and an end score for every token."""
    return {}


def encode(
    records: Sequence[SquadQuestion],
    tokenizer: Tokenizer,
    model_config: TransformerConfig,
    options: DataOptions,
    *,
    labelled: bool,
) -> QuestionWindows:
    """Windows over the contexts."""
    return QuestionWindows(
        records,
        tokenizer,
        max_length=options.max_length,
        stride=options.stride,
        labelled=labelled,
        max_answer_length=options.max_answer_length,
        null_threshold=options.null_threshold,
    )


def outputs(output: Any, batch: PackedBatch) -> list[Array]:
    """(tokens, 2) float32 start and end scores for every example."""
    scores: Array = np.stack([output.start_logits.float().cpu().numpy(), output.end_logits.float().cpu().numpy()], -1)
    return np.split(scores, batch.cu_seqlens[1:-1].tolist())


def predict(
    records: Sequence[SquadQuestion],
    examples: QuestionWindows,
    outputs: Sequence[Array],
    model_config: TransformerConfig,
) -> list[AnswerPrediction]:
    """The answer to each question, from its windows."""
    windows: list[list[int]] = [[] for _ in records]
    for i, window in enumerate(examples.windows):
        windows[window.question].append(i)
    return [
        _answer(question, examples, number, [examples.windows[i] for i in mine], [outputs[i] for i in mine])
        for number, (question, mine) in enumerate(zip(records, windows, strict=True))
    ]


def _answer(
    question: SquadQuestion,
    examples: QuestionWindows,
    number: int,
    windows: Sequence[ContextWindow],
    outputs: Sequence[Array],
) -> AnswerPrediction:
    offsets = examples.offsets[number]
    fullest = _fullest_window(windows, len(offsets))
    spans = [
        span
        for i, (window, scores) in enumerate(zip(windows, outputs, strict=True))
        for span in _spans(window, scores, fullest == i, examples.max_answer_length)
    ]
    spans = sorted(spans, key=lambda span: -span.score)[:N_BEST]
    null = min(float(scores[window.null].sum()) for window, scores in zip(windows, outputs, strict=True))
    places = [span_text(question.context, offsets, span.first, span.last) for span in spans]
    texts = [question.context[a:b] for a, b in places]
    probabilities = softmax(np.array([span.score for span in spans])).tolist()
    difference = null - spans[0].score
    none = question.optional and difference > examples.null_threshold
    return AnswerPrediction(
        "" if none else texts[0],
        -1 if none else places[0][0],
        probabilities[0],
        texts[0],
        difference,
        tuple(zip(texts, probabilities, strict=True)),
    )


def _fullest_window(windows: Sequence[ContextWindow], tokens: int) -> Array:
    """(tokens,) which window shows most around a token: the lesser side of it, and then a hundredth of the window."""
    token = np.arange(tokens)
    surroundings = np.full((len(windows), tokens), -np.inf)
    for i, window in enumerate(windows):
        left, right = token - window.first, window.first + window.size - 1 - token
        inside = (left >= 0) & (right >= 0)
        surroundings[i, inside] = np.minimum(left, right)[inside] + 0.01 * window.size
    fullest: Array = surroundings.argmax(axis=0)
    return fullest


def _spans(window: ContextWindow, scores: Array, mine: Array, longest: int) -> Iterator[_Span]:
    """The spans of the best starts and the best ends in a window; they start in tokens that count here."""
    context = scores[window.offset : window.offset + window.size].astype(np.float64)
    starts = np.argsort(-np.where(mine[window.first :][: window.size], context[:, 0], -np.inf), kind="stable")
    ends = np.argsort(-context[:, 1], kind="stable")[:N_BEST]
    for start in starts[:N_BEST]:
        if not mine[window.first + start]:
            return
        # Also the best end that this start may have: there is an answer to every question.
        allowed = context[start : start + longest, 1]
        for end in {*ends.tolist(), int(start + allowed.argmax())}:
            if start <= end < start + longest:
                score = float(context[start, 0] + context[end, 1])
                yield _Span(score, window.first + int(start), window.first + int(end))


def measure(
    records: Sequence[SquadQuestion], predictions: Sequence[AnswerPrediction], model_config: TransformerConfig
) -> dict[str, float]:
    """Exact match and F1; of SQuAD 2.0 also over questions with and without answers, and at the best thresholds."""
    right = [[answer.text for answer in question.answers] for question in records]
    scores = {
        name: np.array([best_of(score, p.text, texts) for p, texts in zip(predictions, right, strict=True)])
        for name, score in _SCORES.items()
    }
    metrics = {name: float(values.mean()) for name, values in scores.items()}
    if not any(question.optional for question in records):
        return metrics
    answerable = np.array([bool(question.answers) for question in records])
    for kind, chosen in (("answerable", answerable), ("unanswerable", ~answerable)):
        if chosen.any():
            metrics |= {f"{name}_{kind}": float(values[chosen].mean()) for name, values in scores.items()}
    for name, score in _SCORES.items():
        given = [best_of(score, p.best_text, texts) for p, texts in zip(predictions, right, strict=True)]
        differences = [p.null_difference for p in predictions]
        metrics[f"best_{name}"], metrics[f"best_{name}_threshold"] = best_threshold(
            given, answerable.tolist(), differences
        )
    return metrics


_SCORES = {"f1": f1, "exact": exact_match}


def write(path: Path, records: Sequence[SquadQuestion], predictions: Sequence[AnswerPrediction]) -> None:
    """The official form: an object of ids and answers."""
    _write_by_id(path, records, [prediction.text for prediction in predictions])


def write_no_answer(path: Path, records: Sequence[SquadQuestion], predictions: Sequence[AnswerPrediction]) -> None:
    """What SQuAD 2.0's script takes as --na-prob-file: ids and the probability of no answer against the best one."""
    differences = np.array([prediction.null_difference for prediction in predictions])
    _write_by_id(path, records, softmax(np.stack([np.zeros_like(differences), differences], -1))[:, 1].tolist())


def companions(records: Sequence[SquadQuestion]) -> Mapping[str, Writer]:
    """The probabilities of no answer, where that is an answer."""
    return {".na_prob.json": write_no_answer} if any(question.optional for question in records) else {}


def _write_by_id(path: Path, records: Sequence[SquadQuestion], values: Sequence[str] | Sequence[float]) -> None:
    by_id = {question.id: value for question, value in zip(records, values, strict=True)}
    path.write_text(json.dumps(by_id, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


QUESTION_ANSWERING = TaskDefinition(
    name="question_answering",
    options=frozenset({"stride", "max_answer_length", "null_threshold"}),
    suffixes=(".json",),
    metrics=("f1", "exact"),
    purpose="question-answering",
    read=read,
    hub_form=QUESTIONS,
    head=head,
    encode=encode,
    outputs=outputs,
    predict=predict,
    measure=measure,
    write=write,
    companions=companions,
)
