"""Retrieval: sentence embeddings by which each text finds its partner among all others.

Trained by contrast inside a batch (fastbert.models.SentenceEmbedder), so a large tokens_per_batch makes a harder and
better task; measured among all partners of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbert.data import TextGroups, TextRecord, Tokenizer, read_records
from fastbert.data.hub_forms import TABLE
from fastbert.models import TransformerConfig
from fastbert.packing import PackedBatch
from fastbert.training.tasks.definition import Array, DataOptions, TaskDefinition
from fastbert.training.tasks.prediction_tables import TABLE_SUFFIXES, write_table

_ROWS = 1024  # of the matrix of similarities, held at a time


@dataclass(frozen=True)
class RetrievalPrediction:
    """How well a text finds its partner.

    Attributes:
        rank: of the partner among all partners of the file, by similarity; 1 is found.
        similarity: cosine of the two vectors.
    """

    rank: int
    similarity: float


def read(path: str, options: DataOptions, labelled: bool) -> list[TextRecord]:
    """The pairs of a file; there are no labels."""
    if options.text_pair_column is None:
        raise ValueError("text_pair_column is None; allowed: the column of the text that text_column's should find")
    return read_records(
        path, text_column=options.text_column, text_pair_column=options.text_pair_column, label_column=None
    )


def head(records: Sequence[TextRecord]) -> dict[str, Any]:
    """Nothing: vectors are pooled from the transformer's."""
    return {}


def encode(
    records: Sequence[TextRecord],
    tokenizer: Tokenizer,
    model_config: TransformerConfig,
    options: DataOptions,
    *,
    labelled: bool,
) -> TextGroups:
    """Both texts of a pair, each by itself."""
    return TextGroups([(record.text, record.text_pair or "") for record in records], tokenizer, options.max_length)


def outputs(output: Any, batch: PackedBatch) -> list[Array]:
    """(2, hidden) float32 for every pair."""
    vectors: Array = output.sentence_embedding.cpu().numpy()
    return list(vectors.reshape(-1, batch.num_choices, vectors.shape[-1]))


def predict(
    records: Sequence[TextRecord], examples: object, outputs: Sequence[Array], model_config: TransformerConfig
) -> list[RetrievalPrediction]:
    """The rank of each partner; of partners that are equally near, this one comes last."""
    texts, partners = np.stack(outputs).swapaxes(0, 1)
    own = np.einsum("ij,ij->i", texts, partners)
    ranks = np.concatenate(
        [
            (texts[start : start + _ROWS] @ partners.T >= own[start : start + _ROWS, None] - 1e-6).sum(1)
            for start in range(0, len(texts), _ROWS)
        ]
    )
    return [RetrievalPrediction(int(rank), float(cosine)) for rank, cosine in zip(ranks, own, strict=True)]


def measure(
    records: Sequence[TextRecord], predictions: Sequence[RetrievalPrediction], model_config: TransformerConfig
) -> dict[str, float]:
    """The share of texts whose partner is the nearest, and the mean of 1 / rank."""
    ranks = np.array([prediction.rank for prediction in predictions])
    return {"accuracy": float((ranks == 1).mean()), "mrr": float((1 / ranks).mean())}


def write(path: Path, records: Sequence[TextRecord], predictions: Sequence[RetrievalPrediction]) -> None:
    """A table of similarities and ranks."""
    write_table(path, ({"similarity": p.similarity, "rank": str(p.rank)} for p in predictions))


RETRIEVAL = TaskDefinition(
    name="retrieval",
    options=frozenset({"text_column", "text_pair_column"}),
    suffixes=TABLE_SUFFIXES,
    metrics=("accuracy", "mrr"),
    purpose="embedding",
    read=read,
    hub_form=TABLE,
    head=head,
    encode=encode,
    outputs=outputs,
    predict=predict,
    measure=measure,
    write=write,
)
