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
    bert.BertForSentenceEmbedding,
    gpt.GPTModel,
    gpt.GPTForPreTraining,
    gpt.GPTForSequenceClassification,
    gpt.GPTForTokenClassification,
    gpt.GPTForQuestionAnswering,
    gpt.GPTForMultipleChoice,
    gpt.GPTForSentenceEmbedding,
    gpt.GPTForSimilarity,
)

_FAMILY_WORDS = {"bert": "BERT", "openai-gpt": "GPT", "gpt2": "GPT-2"}
_ABILITIES = {"masked-lm": "fill in masked words", "similarity": "compare two texts"}  # what not every family can do


def architecture(family: str, purpose: str) -> type[PretrainedModel]:
    """The class for a family ("bert", "openai-gpt", "gpt2") and a purpose.

    Purposes: "model", "pretraining", "classification", "token-classification", "question-answering",
    "multiple-choice", "embedding", for BERT also "masked-lm" and for GPT "similarity". ValueError for what is not
    there.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    classes = {cls.purpose: cls for cls in _CLASSES if family in cls.families}
    if purpose not in classes:
        raise ValueError(f"purpose must be one of {', '.join(classes)} for {family}, got {purpose!r}")
    return classes[purpose]


def load_pretrained(path: str | os.PathLike[str], purpose: str, **config_overrides: Any) -> PretrainedModel:
    """The class of the checkpoint's own family for a purpose, with its weights: see ``from_pretrained``.

    ValueError where models of that family cannot serve the purpose, e.g. a GPT "masked-lm".
    """
    family = checkpoints.read_config(checkpoints.locate(path).config).family
    able = [_FAMILY_WORDS[other] for other in FAMILIES if _serves(other, purpose)]
    if able and not _serves(family, purpose):
        raise ValueError(
            f"{path} holds a {_FAMILY_WORDS[family]} model, which cannot {_ABILITIES[purpose]}; "
            f"only {' and '.join(able)} models can"
        )
    return architecture(family, purpose).from_pretrained(path, **config_overrides)


def _serves(family: str, purpose: str) -> bool:
    return any(family in cls.families and purpose == cls.purpose for cls in _CLASSES)
