"""Hugging Face's names for our parameters, and the two ways their layouts differ.

Theirs keep BERT's query, key and value apart where we have one fused matrix, and store GPT's matrices as (in, out)
where a linear layer has (out, in). Everything else is a renaming.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

PREFIX = {"bert": "bert.", "openai-gpt": "transformer.", "gpt2": "transformer."}

_BLOCK = re.compile(r"transformer\.blocks\.(\d+)\.(.+)\.(weight|bias)")
_OLD_NORM = re.compile(r"(LayerNorm|ln_1|ln_2|ln_f)\.(gamma|beta)$")

_BERT_BLOCK = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
_GPT_BLOCK = {
    "attention.qkv": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "attention_norm": "ln_1",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
    "mlp_norm": "ln_2",
}
_BERT = {
    "transformer.embeddings.tokens": "embeddings.word_embeddings",
    "transformer.embeddings.positions": "embeddings.position_embeddings",
    "transformer.embeddings.segments": "embeddings.token_type_embeddings",
    "transformer.embeddings.norm": "embeddings.LayerNorm",
    "summary.dense": "pooler.dense",
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.norm": "cls.predictions.transform.LayerNorm",
    "lm_head": "cls.predictions",
    "next_sentence.linear": "cls.seq_relationship",
    "classifier.linear": "classifier",
    "qa_outputs.linear": "qa_outputs",
}
_GPT = {"classifier.linear": "score", "qa_outputs.linear": "qa_outputs"}
_NAMES = {
    "bert": _BERT,
    "openai-gpt": {
        **_GPT,
        "transformer.embeddings.tokens": "tokens_embed",
        "transformer.embeddings.positions": "positions_embed",
    },
    "gpt2": {
        **_GPT,
        "transformer.embeddings.tokens": "wte",
        "transformer.embeddings.positions": "wpe",
        "transformer.final_norm": "ln_f",
    },
}
# Copies that some checkpoints carry beside the one table the two ends of the model share.
_TIED = {
    "bert": {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    "openai-gpt": {"lm_head.weight": "tokens_embed.weight"},
    "gpt2": {"lm_head.weight": "wte.weight"},
}
_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids|attn\.bias|attn\.masked_bias)$")
_IN_BODY = ("transformer.", "summary.")  # what Hugging Face keeps under its base model's prefix

# What Hugging Face calls the heads, those included that no class here has.
_HEADS = ("cls.", "pooler.", "lm_head.", "score.", "classifier.", "qa_outputs.", "multiple_choice_head.")


@dataclass(frozen=True)
class Layout:
    """Where one of our parameters lies in a Hugging Face checkpoint.

    Attributes:
        names: their names without the base model's prefix; three for a fused query-key-value, stacked along dim 0.
        transposed: whether they store the matrix as (in, out).
        in_body: whether the prefix belongs before the names.
    """

    names: tuple[str, ...]
    transposed: bool
    in_body: bool


def layout(name: str, family: str, purpose: str) -> Layout:
    """The layout of our parameter ``name`` in a model of that family and purpose."""
    in_body = name.startswith(_IN_BODY)
    if match := _BLOCK.fullmatch(name):
        index, module, kind = match.groups()
        if family != "bert":
            return Layout(
                (f"h.{index}.{_GPT_BLOCK[module]}.{kind}",), kind == "weight" and "norm" not in module, in_body
            )
        parts = ("query", "key", "value") if module == "attention.qkv" else ()
        theirs = tuple(f"attention.self.{part}" for part in parts) or (_BERT_BLOCK[module],)
        return Layout(tuple(f"encoder.layer.{index}.{part}.{kind}" for part in theirs), False, in_body)
    module, kind = name.rsplit(".", 1)
    theirs_name = _NAMES[family][module]
    if module == "classifier.linear" and purpose == "token-classification":
        theirs_name = "classifier"  # both families call it so there
    return Layout((f"{theirs_name}.{kind}",), False, in_body)


def belongs_to_head(theirs: str) -> bool:
    """Whether a weight in :func:`canonical` names is a head's, and not the transformer's."""
    return theirs.startswith(_HEADS)


def to_hugging_face(value: Tensor, place: Layout, prefix: str) -> dict[str, Tensor]:
    """One of our parameters as the tensors Hugging Face stores, contiguous and each with memory of its own."""
    parts = value.chunk(len(place.names)) if len(place.names) > 1 else (value,)
    start = prefix if place.in_body else ""
    return {
        start + theirs: (part.t() if place.transposed else part).clone(memory_format=torch.contiguous_format)
        for theirs, part in zip(place.names, parts, strict=True)
    }


def from_hugging_face(place: Layout, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """One of our parameters from a checkpoint in :func:`canonical` names, or None where a part of it is missing."""
    if any(theirs not in tensors for theirs in place.names):
        return None
    parts = [tensors[theirs] for theirs in place.names]
    value = torch.cat(parts) if len(parts) > 1 else parts[0]
    return value.t() if place.transposed and value.dim() == 2 else value


def canonical(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """A checkpoint under one spelling: no base prefix, no gamma and beta, no buffers, no copies of tied tables.

    Only LayerNorm's gamma and beta are renamed, whatever else may have such a name. ValueError where the checkpoint's
    output table differs from its input table: such a model is not tied, and this library's are.
    """
    prefix, renames = PREFIX[family], {"gamma": "weight", "beta": "bias"}
    result: dict[str, Tensor] = {}
    for name, value in tensors.items():
        name = name.removeprefix(prefix)
        name = _OLD_NORM.sub(lambda match: f"{match[1]}.{renames[match[2]]}", name)
        if not _BUFFERS.search(name):
            result[name] = value
    for copy, original in _TIED[family].items():
        if copy not in result:
            continue
        value = result.pop(copy)
        if original in result and not torch.equal(value, result[original]):
            raise ValueError(
                f"{copy} differs from {original} in the checkpoint; models whose tables are not tied are not supported"
            )
        result.setdefault(original, value)
    return result


def hugging_face_class(class_name: str, family: str) -> str:
    """Hugging Face's name of a class, for the "architectures" of config.json."""
    theirs = class_name.replace("GPT", {"openai-gpt": "OpenAIGPT", "gpt2": "GPT2"}.get(family, "GPT"))
    return theirs.replace("ForPreTraining", "LMHeadModel") if family != "bert" else theirs
