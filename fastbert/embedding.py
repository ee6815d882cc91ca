"""Texts to sentence embeddings: a vector each, near to those of texts that mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from rich.progress import track

from fastbert.data import Tokenizer, token_budget_batches
from fastbert.data.text_classification import read_records
from fastbert.files import replaced
from fastbert.models import PretrainedModel, load_pretrained
from fastbert.packing import PackedBatch
from fastbert.training.config import require


@dataclass
class EmbedConfig:
    """Give every text of a file a vector, for search, clustering or as features.

    Attributes:
        model: directory of a BERT or a GPT, or a hub id.
        input: .csv, .tsv or .jsonl file.
        output: .npy file to write: float32 (texts, hidden), vectors of length 1 in the input's order.
        text_column: column of the text.
        pooling: "mean" of the tokens, the "cls" (first) or the "last" token; None for what the model was trained with.
        max_length: longest sequence in tokens; longer texts are cut.
        tokens_per_batch: tokens computed at a time.
        backend: attention backend; None lets the library choose.
    """

    model: str
    input: str
    output: str
    text_column: str = "text"
    pooling: Literal["mean", "cls", "last"] | None = None
    max_length: int = 256
    tokens_per_batch: int = 8192
    backend: str | None = None

    def __post_init__(self) -> None:
        require(Path(self.output).suffix == ".npy", "output", self.output, "a file that ends in .npy")
        require(self.max_length >= 3, "max_length", self.max_length, "at least 3 tokens")
        require(self.tokens_per_batch >= 1, "tokens_per_batch", self.tokens_per_batch, "at least 1")


def embed(config: EmbedConfig) -> npt.NDArray[np.float32]:
    """The vectors of all texts of ``input``, (texts, hidden), also written to ``output``.

    Raises:
        ValueError: data that cannot be used, or a model that is not there.
    """
    overrides = {} if config.pooling is None else {"pooling": config.pooling}
    model = load_pretrained(config.model, "embedding", **overrides)
    model.set_attention_backend(config.backend)
    records = read_records(config.input, text_column=config.text_column, label_column=None)
    vectors = embed_texts(
        model.to(Accelerator().device),
        Tokenizer.load(config.model),
        [record.text for record in records],
        max_length=config.max_length,
        tokens_per_batch=config.tokens_per_batch,
        progress=True,
    )
    with replaced(Path(config.output)) as aside:
        np.save(aside, vectors)
    return vectors


@torch.no_grad()
def embed_texts(
    model: PretrainedModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    max_length: int = 256,
    tokens_per_batch: int = 8192,
    progress: bool = False,
) -> npt.NDArray[np.float32]:
    """The vectors of texts: float32 (len(texts), hidden), each of length 1.

    Args:
        model: a BertForSentenceEmbedding or GPTForSentenceEmbedding, on any device, in evaluation mode.
        tokenizer: the model's.
        texts: what to embed. An empty text gets the vector of its special tokens, zeros where there are none.
        max_length: longest sequence in tokens, special ones included; longer texts are cut.
        tokens_per_batch: tokens computed at a time.
        progress: show a bar.

    Raises:
        TypeError: a model of another purpose.
        ValueError: a ``max_length`` without room for text.
    """
    if model.purpose != "embedding":
        raise TypeError(f"embed_texts: {type(model).__name__} makes no embeddings; load it for the purpose 'embedding'")
    room = max_length - tokenizer.num_added(pair=False)
    require(room >= 1, "max_length", max_length, "at least 3 tokens")
    built = [_build(tokenizer, tokenizer.encode(text)[:room]) for text in texts]
    lengths = [len(ids) for ids, _ in built]
    batches = token_budget_batches(lengths, tokens_per_batch, seed=0, epoch=0, shuffle=False)
    vectors = np.empty((len(built), model.config.hidden_size), np.float32)
    for indices in track(batches, "embedding", disable=not progress):
        segments = [built[i][1] for i in indices]
        batch = PackedBatch.from_sequences(
            [built[i][0] for i in indices],
            token_type_ids=None if None in segments else [s for s in segments if s is not None],
        )
        vectors[indices] = model(batch.to(model.device)).sentence_embedding.cpu().numpy()
    return vectors


def _build(tokenizer: Tokenizer, ids: list[int]) -> tuple[list[int], list[int] | None]:
    """A text as the model reads it; a GPT that was only pretrained knows no special tokens."""
    return (ids, None) if tokenizer.cls_id is None and tokenizer.start_id is None else tokenizer.build_single(ids)
