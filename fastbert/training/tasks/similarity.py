"""Comparing two texts, whose order means nothing: how alike they are, or whether they say the same.

GPT reads both orders and adds their Extract vectors before the linear layer (Radford et al. 2018, section 3.3); BERT
reads [CLS] a [SEP] b [SEP].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fastbert.data import TextExamples, TextRecord, Tokenizer, class_targets, number_targets
from fastbert.models import TransformerConfig
from fastbert.training.tasks import classification, regression
from fastbert.training.tasks.definition import DataOptions, label_names


def read_paraphrases(path: str, options: DataOptions, labelled: bool) -> list[TextRecord]:
    """The pairs of a file with their labels."""
    _require_pair(options)
    return classification.read(path, options, labelled)


def read_similarities(path: str, options: DataOptions, labelled: bool) -> list[TextRecord]:
    """The pairs of a file with their numbers."""
    _require_pair(options)
    return regression.read(path, options, labelled)


def encode(
    records: Sequence[TextRecord],
    tokenizer: Tokenizer,
    model_config: TransformerConfig,
    options: DataOptions,
    *,
    labelled: bool,
) -> TextExamples:
    """[CLS] a [SEP] b [SEP]; for GPT <start> a <delimiter> b <extract> and the same with b before a."""
    targets: Sequence[int] | Sequence[float] | None = None
    if labelled and model_config.problem_type == "regression":
        targets = number_targets(records)
    elif labelled:
        targets = class_targets(records, {label: i for i, label in enumerate(label_names(model_config))})
    texts = [record.texts for record in records]
    return TextExamples(texts, tokenizer, targets, options.max_length, both_orders=model_config.causal)


def _require_pair(options: DataOptions) -> None:
    if options.text_pair_column is None:
        raise ValueError("text_pair_column is None; allowed: the column of the text to compare with text_column's")


PARAPHRASE = dataclasses.replace(
    classification.CLASSIFICATION,
    name="paraphrase",
    causal_purpose="similarity",
    read=read_paraphrases,
    encode=encode,
)
SIMILARITY = dataclasses.replace(
    regression.REGRESSION,
    name="similarity",
    causal_purpose="similarity",
    read=read_similarities,
    encode=encode,
)
