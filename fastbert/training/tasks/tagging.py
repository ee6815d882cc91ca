"""Tagging: a label for every word, such as entities or parts of speech.

Tags that are O, B-type and I-type mark entities, which are then counted too; any others, those of four or five prefixes
among them, are measured word by word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastbert.data import TaggedSentence, TaggingExamples, Tokenizer, build_tag2id, read_column_file, write_column_file
from fastbert.data.hub_forms import TAGS
from fastbert.models import TransformerConfig
from fastbert.packing import PackedBatch
from fastbert.training.tasks.definition import Array, DataOptions, TaskDefinition, label_names, label_overrides
from fastbert.training.tasks.entities import entity_scores, marks_entities

METRICS = ("f1", "accuracy", "precision", "recall")


@dataclass(frozen=True)
class TagsPrediction:
    """The most probable tag of every word of a sentence."""

    tags: tuple[str, ...]


def read(path: str, options: DataOptions, labelled: bool) -> list[TaggedSentence]:
    """The sentences of a column file."""
    tag_column = options.tag_column if labelled else None
    return read_column_file(path, token_column=options.token_column, tag_column=tag_column)


def head(records: Sequence[TaggedSentence]) -> dict[str, Any]:
    """An output for each tag of the training data, in sorted order."""
    return label_overrides(build_tag2id(records))


def encode(
    records: Sequence[TaggedSentence],
    tokenizer: Tokenizer,
    model_config: TransformerConfig,
    options: DataOptions,
    *,
    labelled: bool,
) -> TaggingExamples:
    """[CLS] words [SEP], or <start> words <extract>; long sentences in several windows."""
    tag2id = {tag: i for i, tag in enumerate(label_names(model_config))} if labelled else None
    return TaggingExamples(records, tokenizer, tag2id, options.max_length)


def outputs(output: Any, batch: PackedBatch) -> list[Array]:
    """The most probable class of every token, (tokens,) for every example."""
    classes = output.logits.argmax(dim=-1).cpu()
    return [part.numpy() for part in classes.split(batch.cu_seqlens.diff().tolist())]


def predict(
    records: Sequence[TaggedSentence],
    examples: TaggingExamples,
    outputs: Sequence[Array],
    model_config: TransformerConfig,
) -> list[TagsPrediction]:
    """The tags of each sentence, from its windows."""
    names = label_names(model_config)
    tags: list[list[str]] = [[] for _ in records]
    for i, classes in enumerate(outputs):  # the windows of a sentence come in its order
        tags[examples.sentence_of[i]] += [names[int(tag)] for tag in classes[examples.places(i)]]
    return [TagsPrediction(tuple(sentence)) for sentence in tags]


def measure(
    records: Sequence[TaggedSentence], predictions: Sequence[TagsPrediction], model_config: TransformerConfig
) -> dict[str, float]:
    """The share of words with the right tag; where tags mark entities also their F1, precision and recall."""
    predicted, true = [p.tags for p in predictions], [record.tags or () for record in records]
    right = sum(a == b for p, t in zip(predicted, true, strict=True) for a, b in zip(p, t, strict=True))
    metrics = {"accuracy": right / sum(map(len, true))}
    return metrics | entity_scores(predicted, true) if marks_entities(label_names(model_config)) else metrics


def metrics_for(model_config: TransformerConfig) -> tuple[str, ...]:
    """Tags that mark no entities, such as parts of speech, have an accuracy only."""
    return METRICS if marks_entities(label_names(model_config)) else ("accuracy",)


def write(path: Path, records: Sequence[TaggedSentence], predictions: Sequence[TagsPrediction]) -> None:
    """The input as a column file, with the predicted tag as a last column."""
    write_column_file(path, records, (prediction.tags for prediction in predictions))


TAGGING = TaskDefinition(
    name="tagging",
    options=frozenset({"token_column", "tag_column"}),
    suffixes=(),
    metrics=METRICS,
    metrics_for=metrics_for,
    purpose="token-classification",
    read=read,
    hub_form=TAGS,
    head=head,
    encode=encode,
    outputs=outputs,
    predict=predict,
    measure=measure,
    write=write,
)
