"""Small random models of the same family on both sides, and inputs for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from fastbert import models
from fastbert.models import PretrainedModel

VOCAB, HIDDEN, LAYERS, HEADS, POSITIONS = 61, 32, 3, 4, 24
FAMILIES = ("bert", "openai-gpt", "gpt2")

# Every class that Hugging Face has too: (family, ours, theirs).
PAIRS: list[tuple[str, type[PretrainedModel], str]] = [
    ("bert", models.BertModel, "BertModel"),
    ("bert", models.BertForPreTraining, "BertForPreTraining"),
    ("bert", models.BertForMaskedLM, "BertForMaskedLM"),
    ("bert", models.BertForSequenceClassification, "BertForSequenceClassification"),
    ("bert", models.BertForTokenClassification, "BertForTokenClassification"),
    ("bert", models.BertForQuestionAnswering, "BertForQuestionAnswering"),
    ("bert", models.BertForMultipleChoice, "BertForMultipleChoice"),
    ("openai-gpt", models.GPTModel, "OpenAIGPTModel"),
    ("openai-gpt", models.GPTForPreTraining, "OpenAIGPTLMHeadModel"),
    ("openai-gpt", models.GPTForSequenceClassification, "OpenAIGPTForSequenceClassification"),
    ("gpt2", models.GPTModel, "GPT2Model"),
    ("gpt2", models.GPTForPreTraining, "GPT2LMHeadModel"),
    ("gpt2", models.GPTForSequenceClassification, "GPT2ForSequenceClassification"),
    ("gpt2", models.GPTForTokenClassification, "GPT2ForTokenClassification"),
    ("gpt2", models.GPTForQuestionAnswering, "GPT2ForQuestionAnswering"),
]


def their_config(family: str, **overrides: Any) -> Any:
    """Their configuration: small, without dropout."""
    if family == "bert":
        sizes = {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": 4 * HIDDEN,
            "max_position_embeddings": POSITIONS,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        bert: Any = transformers.BertConfig
        return bert(vocab_size=VOCAB, attn_implementation="eager", **{**sizes, **overrides})
    sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS}
    probabilities = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config_class: Any = transformers.OpenAIGPTConfig if family == "openai-gpt" else transformers.GPT2Config
    return config_class(
        vocab_size=VOCAB, pad_token_id=0, attn_implementation="eager", **{**sizes, **probabilities, **overrides}
    )


def our_config(family: str, **overrides: Any) -> models.TransformerConfig:
    """Our configuration of the same sizes, without dropout."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "embedding_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    base = {"bert": models.BertConfig(), "openai-gpt": models.GPTConfig(), "gpt2": models.preset("gpt2")}[family]
    return base.replace(**{**sizes, **overrides})


def their_model(family: str, name: str, **overrides: Any) -> Any:
    """A random model of theirs, in evaluation mode, with every parameter, biases and norms too, off its default."""
    torch.manual_seed(1)
    model = getattr(transformers, name)(their_config(family, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pair(family: str, ours: type[PretrainedModel], theirs: str, directory: Path) -> tuple[Any, Any]:
    """The same random weights in our class and in theirs, by way of a checkpoint that they wrote."""
    model = their_model(family, theirs)
    model.save_pretrained(directory)
    return ours.from_pretrained(directory), model


def padded_inputs(family: str, side: str = "right", choices: int | None = None) -> dict[str, Tensor]:
    """Token ids (none of them a pad), mask and segments of three texts of 9, 5 and 1 tokens."""
    torch.manual_seed(2)
    rows = 3 * (choices or 1)
    lengths = torch.tensor([9, 5, 1]).repeat_interleave(choices or 1)
    mask = (torch.arange(9) < lengths[:, None]).long()
    if side == "left":
        mask = mask.flip(1)
    input_ids = torch.where(mask.bool(), torch.randint(5, VOCAB, (rows, 9)), 0)
    inputs = {"input_ids": input_ids, "attention_mask": mask}
    if family == "bert":
        inputs["token_type_ids"] = torch.randint(0, 2, (rows, 9))
    shape = (3, 9) if choices is None else (3, choices, 9)
    return {name: value.view(shape) for name, value in inputs.items()}


def targets_for(purpose: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Targets of every kind of head; tokens in the padding and a few others are ignored."""
    torch.manual_seed(3)
    mask = inputs["attention_mask"]
    if purpose == "model":
        return {}
    if purpose == "classification":
        return {"labels": torch.tensor([1, 0, 1])}
    if purpose == "multiple-choice":
        return {"labels": torch.tensor([1, 0, 1])}
    if purpose == "question-answering":
        return {"start_positions": torch.tensor([2, 4, 0]), "end_positions": torch.tensor([7, 4, 0])}
    classes = 2 if purpose == "token-classification" else VOCAB
    labels = torch.randint(0, classes, mask.shape).masked_fill(mask == 0, -100)
    labels[0, 3] = -100
    targets = {"labels": labels}
    if purpose == "pretraining" and "token_type_ids" in inputs:
        targets["next_sentence_label"] = torch.tensor([1, 0, 1])
    return targets
