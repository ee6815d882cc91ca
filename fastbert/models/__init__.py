"""BERT and GPT on one transformer, with Hugging Face's names, keywords and checkpoints."""

from __future__ import annotations

from fastbert.models.auto import architecture, load_pretrained
from fastbert.models.base import PretrainedModel
from fastbert.models.bert import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSentenceEmbedding,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from fastbert.models.cache import KeyValueCache
from fastbert.models.checkpoints import read_config
from fastbert.models.config import BertConfig, GPTConfig, TransformerConfig
from fastbert.models.generation import Streamer
from fastbert.models.generation_config import GenerationConfig
from fastbert.models.gpt import (
    GPTForMultipleChoice,
    GPTForPreTraining,
    GPTForQuestionAnswering,
    GPTForSentenceEmbedding,
    GPTForSequenceClassification,
    GPTForSimilarity,
    GPTForTokenClassification,
    GPTModel,
)
from fastbert.models.losses import LossTerm
from fastbert.models.outputs import ModelOutput
from fastbert.models.presets import preset, preset_names

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
    "GPTConfig",
    "GPTForMultipleChoice",
    "GPTForPreTraining",
    "GPTForQuestionAnswering",
    "GPTForSentenceEmbedding",
    "GPTForSequenceClassification",
    "GPTForSimilarity",
    "GPTForTokenClassification",
    "GPTModel",
    "GenerationConfig",
    "KeyValueCache",
    "LossTerm",
    "ModelOutput",
    "PretrainedModel",
    "Streamer",
    "TransformerConfig",
    "architecture",
    "load_pretrained",
    "preset",
    "preset_names",
    "read_config",
]
