"""Configurations by name."""

from __future__ import annotations

from typing import Any

from fastbert.models.config import GPT2_FIELDS, BertConfig, GPTConfig, TransformerConfig


def _sizes(layers: int, hidden: int) -> dict[str, Any]:
    return {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": hidden // 64}


_PRESETS: dict[str, tuple[type[TransformerConfig], dict[str, Any]]] = {
    "bert-tiny": (BertConfig, _sizes(2, 128)),
    "bert-mini": (BertConfig, _sizes(4, 256)),
    "bert-small": (BertConfig, _sizes(4, 512)),
    "bert-base": (BertConfig, _sizes(12, 768)),
    "bert-large": (BertConfig, _sizes(24, 1024)),
    "gpt-tiny": (GPTConfig, _sizes(2, 128)),
    "gpt-mini": (GPTConfig, _sizes(4, 256)),
    "gpt-small": (GPTConfig, _sizes(4, 512)),
    "openai-gpt": (GPTConfig, _sizes(12, 768)),
    "gpt2-tiny": (GPTConfig, {**GPT2_FIELDS, **_sizes(2, 128), "max_position_embeddings": 512}),
    "gpt2-mini": (GPTConfig, {**GPT2_FIELDS, **_sizes(4, 256), "max_position_embeddings": 512}),
    "gpt2": (GPTConfig, {**GPT2_FIELDS, **_sizes(12, 768)}),
}


def preset_names() -> tuple[str, ...]:
    """The names :func:`preset` knows."""
    return tuple(_PRESETS)


def preset(name: str, **overrides: Any) -> TransformerConfig:
    """A new configuration by name, e.g. ``preset("bert-mini", vocab_size=8000)``."""
    if name not in _PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(_PRESETS)}")
    config_class, values = _PRESETS[name]
    return config_class(**values).replace(**overrides)
