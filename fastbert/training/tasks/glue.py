"""The nine tasks of GLUE (Wang et al. 2019): their files, their metrics and the files its server takes.

MNLI's matched and mismatched sets are two files, measured and predicted one by one; the first may be a run's validation
set and the second its test set. GPT reads the pairs of MRPC, QQP and STS-B in both orders, for they have none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastbert.data import GLUE_LAYOUTS, GlueLayout, TextRecord, read_glue
from fastbert.data.hub_forms import glue_form
from fastbert.models import TransformerConfig
from fastbert.training.tasks import classification, similarity
from fastbert.training.tasks.classification import Prediction
from fastbert.training.tasks.correlation import pearson
from fastbert.training.tasks.definition import DataOptions, TaskDefinition, label_overrides
from fastbert.training.tasks.regression import NumberPrediction

Measure = Callable[[Sequence[TextRecord], Sequence[Any], TransformerConfig], dict[str, float]]


def accuracy(
    records: Sequence[TextRecord], predictions: Sequence[Prediction], _: TransformerConfig
) -> dict[str, float]:
    """The share of right labels."""
    return {"accuracy": sum(r.label == p.label for r, p in zip(records, predictions, strict=True)) / len(records)}


def accuracy_and_f1(
    records: Sequence[TextRecord], predictions: Sequence[Prediction], model_config: TransformerConfig
) -> dict[str, float]:
    """Accuracy, and F1 of the label "1"; 0 where it is neither predicted nor true."""
    true = np.array([record.label == "1" for record in records])
    predicted = np.array([prediction.label == "1" for prediction in predictions])
    both, either = int((true & predicted).sum()), int(true.sum() + predicted.sum())
    return {"f1": 2 * both / either if either else 0.0, **accuracy(records, predictions, model_config)}


def matthews(
    records: Sequence[TextRecord], predictions: Sequence[Prediction], _: TransformerConfig
) -> dict[str, float]:
    """Matthews' correlation of two classes, which is Pearson's of their indicators; 0 where a side is constant."""
    true = np.array([record.label == "1" for record in records], dtype=np.float64)
    predicted = np.array([prediction.label == "1" for prediction in predictions], dtype=np.float64)
    return {"matthews": pearson(predicted, true)}


def write_labels(path: Path, records: Sequence[TextRecord], predictions: Sequence[Prediction]) -> None:
    """The labels, as GLUE's server takes them: index and prediction."""
    _write(path, records, [prediction.label for prediction in predictions])


def write_numbers(path: Path, records: Sequence[TextRecord], predictions: Sequence[NumberPrediction]) -> None:
    """STS-B's scores, put into its range of 0 to 5."""
    _write(path, records, [f"{min(max(prediction.value, 0.0), 5.0):.3f}" for prediction in predictions])


def _write(path: Path, records: Sequence[TextRecord], values: Sequence[str]) -> None:
    lines = [f"{record.id}\t{value}\n" for record, value in zip(records, values, strict=True)]
    path.write_text("index\tprediction\n" + "".join(lines), encoding="utf-8")


def _definition(name: str, base: TaskDefinition[Any, Any], layout: GlueLayout) -> TaskDefinition[Any, Any]:
    def read(path: str, options: DataOptions, labelled: bool) -> list[TextRecord]:
        return read_glue(path, layout, labelled=labelled)

    def head(records: Sequence[TextRecord]) -> Mapping[str, Any]:
        return label_overrides({label: i for i, label in enumerate(layout.labels)})

    measure, metrics = _METRICS.get(name, (accuracy, ("accuracy",)))
    task = dataclasses.replace(
        base, name=f"glue/{name}", options=frozenset(), suffixes=(".tsv",), read=read, hub_form=glue_form(layout)
    )
    if not layout.labels:
        return dataclasses.replace(task, write=write_numbers)
    return dataclasses.replace(task, head=head, measure=measure, metrics=metrics, write=write_labels)


_METRICS: dict[str, tuple[Measure, tuple[str, ...]]] = {
    "cola": (matthews, ("matthews",)),
    "mrpc": (accuracy_and_f1, ("f1", "accuracy")),
    "qqp": (accuracy_and_f1, ("f1", "accuracy")),
}
_BASES: dict[str, TaskDefinition[Any, Any]] = {
    "mrpc": similarity.PARAPHRASE,
    "qqp": similarity.PARAPHRASE,
    "stsb": similarity.SIMILARITY,
}
GLUE_TASKS = tuple(
    _definition(name, _BASES.get(name, classification.CLASSIFICATION), layout) for name, layout in GLUE_LAYOUTS.items()
)
