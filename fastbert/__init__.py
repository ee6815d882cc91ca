"""fastbert: fast training and fine-tuning of BERT and GPT on fused, exact attention kernels.

The public names are loaded when they are first used, so ``import fastbert`` takes milliseconds and imports no torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbert.data import Tokenizer
    from fastbert.embedding import EmbedConfig, embed, embed_texts
    from fastbert.models import (
        BertConfig,
        BertForMaskedLM,
        BertForMultipleChoice,
        BertForPreTraining,
        BertForQuestionAnswering,
        BertForSentenceEmbedding,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertModel,
        GPTConfig,
        GPTForMultipleChoice,
        GPTForPreTraining,
        GPTForQuestionAnswering,
        GPTForSentenceEmbedding,
        GPTForSequenceClassification,
        GPTForSimilarity,
        GPTForTokenClassification,
        GPTModel,
        TransformerConfig,
    )
    from fastbert.ops import attention, attention_varlen, scaled_dot_product_attention
    from fastbert.packing import PackedBatch
    from fastbert.training import FinetuneConfig, PretrainConfig, RunResult, finetune, pretrain

__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSentenceEmbedding",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "EmbedConfig",
    "FinetuneConfig",
    "GPTConfig",
    "GPTForMultipleChoice",
    "GPTForPreTraining",
    "GPTForQuestionAnswering",
    "GPTForSentenceEmbedding",
    "GPTForSequenceClassification",
    "GPTForSimilarity",
    "GPTForTokenClassification",
    "GPTModel",
    "PackedBatch",
    "PretrainConfig",
    "RunResult",
    "Tokenizer",
    "TransformerConfig",
    "__version__",
    "attention",
    "attention_varlen",
    "embed",
    "embed_texts",
    "finetune",
    "pretrain",
    "scaled_dot_product_attention",
]

_HOME = {
    "attention": "fastbert.ops",
    "attention_varlen": "fastbert.ops",
    "scaled_dot_product_attention": "fastbert.ops",
    "PackedBatch": "fastbert.packing",
    "Tokenizer": "fastbert.data",
    "EmbedConfig": "fastbert.embedding",
    "embed": "fastbert.embedding",
    "embed_texts": "fastbert.embedding",
    "FinetuneConfig": "fastbert.training",
    "PretrainConfig": "fastbert.training",
    "RunResult": "fastbert.training",
    "finetune": "fastbert.training",
    "pretrain": "fastbert.training",
}


def _version() -> str:
    try:
        return importlib.metadata.version("fastbert-kernels")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"  # run from a source tree that was never installed


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in __all__:
        value = getattr(importlib.import_module(_HOME.get(name, "fastbert.models")), name)
    else:
        raise AttributeError(f"module 'fastbert' has no attribute {name!r}")
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
