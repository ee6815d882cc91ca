"""Which class serves a family and a purpose."""

from __future__ import annotations

import os
from typing import Any

from fastbert.models import bert, checkpoints, gpt
from fastbert.models.base import PretrainedModel
from fastbert.models.config import FAMILIES

_CLASSES: tuple[type[PretrainedModel], ...] = (
    bert.BertModel,
    bert.BertForPreTraining,
    bert.BertForMaskedLM,
    bert.BertForSequenceClassification,
    bert.BertForTokenClassification,
    bert.BertForQuestionAnswering,
    bert.BertForMultipleChoice,
    gpt.GPTModel,
    gpt.GPTForPreTraining,
    gpt.GPTForSequenceClassification,
    gpt.GPTForTokenClassification,
    gpt.GPTForQuestionAnswering,
    gpt.GPTForMultipleChoice,
    gpt.GPTForSimilarity,
)


def architecture(family: str, purpose: str) -> type[PretrainedModel]:
    """The class for a family ("bert", "openai-gpt", "gpt2") and a purpose.

    Purposes: "model", "pretraining", "classification", "token-classification", "question-answering",
    "multiple-choice", for BERT also "masked-lm" and for GPT "similarity". ValueError for what is not there.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    classes = {cls.purpose: cls for cls in _CLASSES if family in cls.families}
    if purpose not in classes:
        raise ValueError(f"purpose must be one of {', '.join(classes)} for {family}, got {purpose!r}")
    return classes[purpose]


def load_pretrained(path: str | os.PathLike[str], purpose: str, **config_overrides: Any) -> PretrainedModel:
    """The class of the checkpoint's own family for a purpose, with its weights: see ``from_pretrained``."""
    family = checkpoints.read_config(checkpoints.locate(path).config).family
    return architecture(family, purpose).from_pretrained(path, **config_overrides)
