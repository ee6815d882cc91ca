"""Small random models of transformers in pairs: with its own sdpa attention and with ours, equal weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from torch import Tensor

import fastbert.integrations.huggingface  # noqa: F401 (registers "fastbert")

VOCAB, WINDOW = 97, 5

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48, "vocab_size": VOCAB}

# name -> configuration class, model class, what the configuration has beside or in place of the sizes. The windows are
# shorter than the texts, and layers with and without one alternate in modernbert, qwen2 and gemma3.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForMaskedLM", _NO_DROPOUT),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", _NO_DROPOUT),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {"local_attention": 2 * WINDOW, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {**_GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_GROUPED, "sliding_window": WINDOW}),
    "qwen2": (
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _GROUPED),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**_GROUPED, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}
ENCODERS = ("bert", "roberta", "modernbert")
DECODERS = tuple(name for name in MODELS if name not in ENCODERS)


def make(name: str, implementation: str, **overrides: Any) -> Any:
    """A random model in evaluation mode, every parameter off its default."""
    config_class, model_class, settings = MODELS[name]
    sizes = {} if name == "gpt2" else _SIZES
    tokens = {key: _SIZES[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = getattr(transformers, config_class)(**{**sizes, **tokens, **settings, **overrides})
    config._attn_implementation = implementation
    torch.manual_seed(1)
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pair(name: str, **overrides: Any) -> tuple[Any, Any]:
    """(theirs, ours)"""
    theirs = make(name, "sdpa", **overrides)
    ours = make(name, "fastbert", **overrides)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    return theirs, ours


def texts(side: str) -> dict[str, Tensor]:
    """Three texts of 12, 7 and 3 tokens, padded on a side; of 12 tokens each and without a mask for "none"."""
    torch.manual_seed(2)
    input_ids = torch.randint(3, VOCAB, (3, 12))
    if side == "none":
        return {"input_ids": input_ids}
    mask = (torch.arange(12) < torch.tensor([[12], [7], [3]])).long()
    if side == "left":
        mask = mask.flip(1)
    return {"input_ids": torch.where(mask.bool(), input_ids, 0), "attention_mask": mask}
