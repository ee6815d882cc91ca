"""Regression: a number for a text or for a pair of texts, learned by mean squared error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data import TextExamples, TextRecord, Tokenizer, number_targets, read_records
from fastbert.data.hub_forms import TABLE
from fastbert.models import TransformerConfig
from fastbert.training.tasks.correlation import correlations
from fastbert.training.tasks.definition import Array, DataOptions, TaskDefinition, logit_rows
from fastbert.training.tasks.prediction_tables import TABLE_SUFFIXES, write_table


@dataclass(frozen=True)
class NumberPrediction:
    """The number predicted for a text."""

    value: float


def read(path: str, options: DataOptions, labelled: bool) -> list[TextRecord]:
    """The texts of a file with their numbers."""
    return read_records(
        path,
        text_column=options.text_column,
        text_pair_column=options.text_pair_column,
        label_column=options.label_column if labelled else None,
        labels="numbers",
    )


def head(records: Sequence[TextRecord]) -> dict[str, Any]:
    """One output, learned by mean squared error."""
    return {"num_labels": 1, "problem_type": "regression", "id2label": None, "label2id": None}


def encode(
    records: Sequence[TextRecord],
    tokenizer: Tokenizer,
    model_config: TransformerConfig,
    options: DataOptions,
    *,
    labelled: bool,
) -> TextExamples:
    """[CLS] text [SEP], or <start> text <extract>, and their likes for pairs."""
    targets = number_targets(records) if labelled else None
    return TextExamples([record.texts for record in records], tokenizer, targets, options.max_length)


def predict(
    records: Sequence[TextRecord], examples: object, outputs: Sequence[Array], model_config: TransformerConfig
) -> list[NumberPrediction]:
    """The output of each text as it is."""
    return [NumberPrediction(float(logits[0])) for logits in outputs]


def measure(
    records: Sequence[TextRecord], predictions: Sequence[NumberPrediction], model_config: TransformerConfig
) -> dict[str, float]:
    """Pearson's and Spearman's correlation; the loss beside them is the mean squared error."""
    return correlations([prediction.value for prediction in predictions], number_targets(records))


def write(path: Path, records: Sequence[TextRecord], predictions: Sequence[NumberPrediction]) -> None:
    """A table with the value."""
    write_table(path, ({"value": prediction.value} for prediction in predictions))


REGRESSION = TaskDefinition(
    name="regression",
    options=frozenset({"text_column", "text_pair_column", "label_column"}),
    suffixes=TABLE_SUFFIXES,
    metrics=("pearson", "spearman"),
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
