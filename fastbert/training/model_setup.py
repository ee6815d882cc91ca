"""From a configuration to a model that fits its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastbert.data import Tokenizer
from fastbert.models import PretrainedModel, architecture, read_config
from fastbert.models.checkpoints import locate
from fastbert.ops import attention
from fastbert.training.config import TrainingConfig
from fastbert.training.tasks import TaskDefinition


def dropout_overrides(config: TrainingConfig) -> dict[str, float]:
    """The model's dropout probabilities, where the run sets them."""
    if config.dropout is None:
        return {}
    names = ("embedding_dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    return dict.fromkeys(names, config.dropout)


def load_for_task(
    name: str | Path, task: TaskDefinition[Any, Any], *, require_head: bool, **overrides: Any
) -> PretrainedModel:
    """The class that learns a task in the checkpoint's family, with its weights; see ``from_pretrained``.

    With ``require_head`` for a model that is to be used as it is, else for one to be trained, which loses, with a
    warning, a head of another shape: one of three classes on the way from MNLI to RTE.
    """
    family = read_config(locate(name).config)
    purpose = task.purpose_for(causal=family.causal)
    return architecture(family.family, purpose).from_pretrained(
        name, require_head=require_head, ignore_mismatched_sizes=not require_head, **overrides
    )


def check_vocabulary(tokenizer: Tokenizer, model: PretrainedModel, name: str) -> None:
    """ValueError where the tokenizer has ids that the model has no embedding for."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer of {name} has {tokenizer.vocab_size} ids, its model has embeddings for "
            f"{model.config.vocab_size}: they do not belong together"
        )


def check_length(max_length: int, model: PretrainedModel, name: str) -> None:
    """ValueError where sequences may be longer than the model's positions."""
    limit = model.config.max_position_embeddings
    if max_length > limit:
        raise ValueError(f"max_length is {max_length}; allowed: at most {limit}, the positions of {name}")


def check_backend(model: PretrainedModel, name: str | None) -> None:
    """ValueError where a backend asked for by name cannot train this model: before hours of preparation, not after."""
    config = model.config
    query = torch.zeros(1, 1, config.num_attention_heads, config.head_dim, device=model.device)
    dropout_p = config.attention_probs_dropout_prob
    attention(query, query, query, causal=config.causal, dropout_p=dropout_p, backend=name)


def save_with_tokenizer(tokenizer: Tokenizer, model: PretrainedModel, directory: Path) -> None:
    """Write a directory that ``from_pretrained`` and AutoTokenizer read."""
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save(directory)
    model.save_pretrained(directory)
