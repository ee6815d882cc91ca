"""Multiple choice: which of several texts continues a context, or answers a question about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data import ChoiceQuestion, MultipleChoiceExamples, Tokenizer, read_choice_questions
from fastbert.data.hub_forms import CHOICES
from fastbert.models import TransformerConfig
from fastbert.training.tasks.definition import Array, DataOptions, TaskDefinition, logit_rows, softmax
from fastbert.training.tasks.prediction_tables import TABLE_SUFFIXES, write_table


@dataclass(frozen=True)
class ChoicePrediction:
    """The most probable choice of a question.

    Attributes:
        choice: counted from 0.
        label: the file's name of it.
        probability: a softmax over the choices' scores.
    """

    choice: int
    label: str
    probability: float


def read(path: str, options: DataOptions, labelled: bool) -> list[ChoiceQuestion]:
    """The questions of a file, or of a directory in RACE."""
    return read_choice_questions(path, labelled=labelled)


def head(records: Sequence[ChoiceQuestion]) -> dict[str, Any]:
    """Nothing: a question has a score for each choice, however many there are."""
    return {}


def encode(
    records: Sequence[ChoiceQuestion],
    tokenizer: Tokenizer,
    model_config: TransformerConfig,
    options: DataOptions,
    *,
    labelled: bool,
) -> MultipleChoiceExamples:
    """A sequence for each choice of a question."""
    return MultipleChoiceExamples(records, tokenizer, options.max_length, labelled=labelled)


def predict(
    records: Sequence[ChoiceQuestion], examples: object, outputs: Sequence[Array], model_config: TransformerConfig
) -> list[ChoicePrediction]:
    """The most probable choice of each question."""
    predictions = []
    for question, scores in zip(records, outputs, strict=True):
        probabilities = softmax(scores)
        choice = int(probabilities.argmax())
        predictions.append(ChoicePrediction(choice, question.name(choice), float(probabilities[choice])))
    return predictions


def measure(
    records: Sequence[ChoiceQuestion], predictions: Sequence[ChoicePrediction], model_config: TransformerConfig
) -> dict[str, float]:
    """Accuracy: the share of questions whose most probable choice is right."""
    right = sum(question.label == p.choice for question, p in zip(records, predictions, strict=True))
    return {"accuracy": right / len(records)}


def write(path: Path, records: Sequence[ChoiceQuestion], predictions: Sequence[ChoicePrediction]) -> None:
    """A table with the question's id, the choice by the file's name, and its probability."""
    write_table(
        path,
        (
            {"id": str(i) if question.id is None else question.id, "label": p.label, "probability": p.probability}
            for i, (question, p) in enumerate(zip(records, predictions, strict=True))
        ),
    )


MULTIPLE_CHOICE = TaskDefinition(
    name="multiple_choice",
    options=frozenset(),
    suffixes=TABLE_SUFFIXES,
    metrics=("accuracy",),
    purpose="multiple-choice",
    read=read,
    hub_form=CHOICES,
    head=head,
    encode=encode,
    outputs=logit_rows,
    predict=predict,
    measure=measure,
    write=write,
)
