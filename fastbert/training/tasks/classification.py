"""Text classification: a label for a text or for a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from fastbert.data import TextClassificationExamples, TextRecord, Tokenizer, build_label2id, read_records
from fastbert.data.hub_forms import TABLE
from fastbert.models import TransformerConfig
from fastbert.training.tasks.definition import (
    Array,
    DataOptions,
    TaskDefinition,
    label_names,
    label_overrides,
    logit_rows,
    softmax,
)
from fastbert.training.tasks.prediction_tables import TABLE_SUFFIXES, write_table


@dataclass(frozen=True)
class Prediction:
    """The most probable label of a text."""

    label: str
    probability: float


def read(path: str, options: DataOptions, labelled: bool) -> list[TextRecord]:
    """The labelled texts of a file."""
    return read_records(
        path,
        text_column=options.text_column,
        text_pair_column=options.text_pair_column,
        label_column=options.label_column if labelled else None,
    )


def head(records: Sequence[TextRecord]) -> dict[str, Any]:
    """An output for each label of the training data, in sorted order."""
    return label_overrides(build_label2id(records))


def encode(
    records: Sequence[TextRecord],
    tokenizer: Tokenizer,
    model_config: TransformerConfig,
    options: DataOptions,
    *,
    labelled: bool,
) -> TextClassificationExamples:
    """[CLS] text [SEP], or <start> text <extract>, and their likes for pairs."""
    label2id = {label: i for i, label in enumerate(label_names(model_config))} if labelled else None
    return TextClassificationExamples(records, tokenizer, label2id, options.max_length)


def predict(
    records: Sequence[TextRecord], examples: object, outputs: Sequence[Array], model_config: TransformerConfig
) -> list[Prediction]:
    """The most probable label of each text."""
    names = label_names(model_config)
    probabilities = [softmax(logits) for logits in outputs]
    return [Prediction(names[int(p.argmax())], float(p.max())) for p in probabilities]


def classes(
    records: Sequence[TextRecord], predictions: Sequence[Prediction], model_config: TransformerConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,) predicted classes and (n,) true ones."""
    ids = {name: i for i, name in enumerate(label_names(model_config))}
    predicted = torch.tensor([ids[prediction.label] for prediction in predictions])
    return predicted, torch.tensor([ids[str(record.label)] for record in records])


def measure(
    records: Sequence[TextRecord], predictions: Sequence[Prediction], model_config: TransformerConfig
) -> dict[str, float]:
    """Accuracy and macro F1."""
    predicted, true = classes(records, predictions, model_config)
    count = model_config.num_labels
    return {
        "accuracy": float(multiclass_accuracy(predicted, true, count, average="micro")),
        "f1": float(multiclass_f1_score(predicted, true, count, average="macro")),
    }


def write(path: Path, records: Sequence[TextRecord], predictions: Sequence[Prediction]) -> None:
    """A table with label and probability."""
    write_table(path, ({"label": p.label, "probability": p.probability} for p in predictions))


CLASSIFICATION = TaskDefinition(
    name="classification",
    options=frozenset({"text_column", "text_pair_column", "label_column"}),
    suffixes=TABLE_SUFFIXES,
    metrics=("accuracy", "f1"),
    purpose="classification",
    read=read,
    hub_form=TABLE,
    head=head,
    encode=encode,
    outputs=logit_rows,
    predict=predict,
    measure=measure,
    write=write,
)
