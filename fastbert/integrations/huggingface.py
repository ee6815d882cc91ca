"""An attention implementation for transformers: importing this module registers it under the name "fastbert".

    import fastbert.integrations.huggingface
    model = AutoModel.from_pretrained(name, attn_implementation="fastbert")

It serves models that take their attention from transformers' registry (with version 5 nearly all; with 4.57 the
decoders), in training and evaluation: padding on either side, packed sequences, sliding windows, grouped heads,
dropout, and generation with dynamic and static caches. Decoders take packed sequences by ``position_ids`` (with
``use_cache=False`` and no attention_mask, which is when transformers looks for them), all models by ``cu_seq_lens_q``,
``cu_seq_lens_k``, ``max_length_q`` and ``max_length_k``.

A mask that our kernels have no form for (a prefix, blocks, chunks, a mask of four dimensions that the user made) is
torch's to serve, which is warned of once. What would change the result and is not implemented raises: attention
weights, soft caps, sinks, position biases. (GPT-2 of 4.57 does not hand output_attentions on, and answers None.) Under
torch.compile sliding windows and packing are torch's.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fastbert.integrations.huggingface_masks import AttentionMask, Packing, make_mask
from fastbert.ops import attention, attention_varlen, scaled_dot_product_attention
from fastbert.ops.torch_signature import is_key_padding

NAME = "fastbert"

_VARLEN = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
# Keywords by which models ask for another attention than softmax(scale * q k^T) v. Others do not concern it.
_UNSUPPORTED = (
    "softcap",
    "s_aux",
    "sinks",
    "position_bias",
    "head_mask",
    "indices",
    "block_indices",
    "block_table",
)


def fastbert_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: AttentionMask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface.

    Args:
        module: the layer; its ``is_causal`` (True if it has none) counts where there is no mask.
        query: (batch, heads, seq_q, head_dim).
        key: (batch, kv_heads, seq_k, head_dim).
        value: as key.
        attention_mask: what :func:`make_mask` answered, which says everything; a tensor (batch, 1, seq_q, seq_k); or
            None, which is causal or not as module and is_causal say.
        dropout: probability of dropping an attention weight; the model gives 0 in evaluation.
        scaling: of the scores; None = head_dim ** -0.5.
        is_causal: in place of the module's. True may not contradict the mask; False beside a causal one is what some
            models say when there is a mask, which then says it.
        sliding_window: counts where there is no mask: keys seen, the query's own place included.
        others: cumulative lengths of packed sequences, what cannot be served, and what attention has no use for.

    Returns:
        (batch, seq_q, heads, head_dim), and None where other implementations return weights.

    Raises:
        ValueError: a keyword that asks for what is not implemented, or arguments that contradict each other.
        TypeError: a dtype that :func:`fastbert.ops.attention` does not take.
    """
    _check_keywords(others)
    lengths = _varlen(others)
    deterministic = True if others.get("deterministic") else None
    if isinstance(attention_mask, Tensor):
        if lengths is not None:
            raise ValueError(f"{_SAYS} there is an attention mask beside cu_seq_lens_q; give one of them")
        return _under_matrix(module, query, key, value, attention_mask, dropout, scaling, others)
    if attention_mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if sliding_window is None and lengths is None:
            causal = bool(causal) and query.shape[2] > 1
            out = scaled_dot_product_attention(query, key, value, None, dropout, causal, scaling, enable_gqa=True)
            return out.transpose(1, 2), None
        if lengths is None and 1 < query.shape[2] != key.shape[2]:
            raise ValueError(f"{_SAYS} a window without a mask needs as many keys as queries")
        left = None if sliding_window is None else sliding_window - 1
        attention_mask = AttentionMask(left, 0 if causal else left, key.shape[2])
    elif is_causal and attention_mask.right != 0:
        raise ValueError(
            f"{_SAYS} is_causal=True contradicts the mask that the model made; set it in the configuration"
        )
    if lengths is None and attention_mask.packing is not None:
        lengths = attention_mask.packing, attention_mask.packing
    elif lengths is not None and attention_mask.key_padding_mask is not None:
        raise ValueError(f"{_SAYS} there is padding in attention_mask beside cu_seq_lens_q; give one of them")
    return _under_mask(query, key, value, attention_mask, lengths, dropout, scaling, deterministic), None


def _under_mask(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    lengths: tuple[Packing, Packing] | None,
    dropout: float,
    scaling: float | None,
    deterministic: bool | None,
) -> Tensor:
    """(batch, seq_q, heads, head_dim), by our kernels."""
    if key.shape[2] != mask.seq_k + mask.unused:
        raise ValueError(f"{_SAYS} the mask is made for {mask.seq_k + mask.unused} keys, and there are {key.shape[2]}")
    q, k, v = (x.transpose(1, 2) for x in (query, key[:, :, : mask.seq_k], value[:, :, : mask.seq_k]))
    window = None if mask.left is None and mask.right is None else (mask.left, mask.right)
    if lengths is None:
        return attention(
            q,
            k,
            v,
            window=window,
            key_padding_mask=mask.key_padding_mask,
            scale=scaling,
            dropout_p=dropout,
            deterministic=deterministic,
        )
    queries, keys = lengths
    out = attention_varlen(
        *(x.flatten(0, 1) for x in (q, k, v)),
        cu_seqlens_q=queries.cu_seqlens,
        cu_seqlens_k=keys.cu_seqlens,
        max_seqlen_q=queries.max_seqlen,
        max_seqlen_k=keys.max_seqlen,
        window=window,
        scale=scaling,
        dropout_p=dropout,
        deterministic=deterministic,
    )
    return out.view(q.shape)


def _under_matrix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    dropout: float,
    scaling: float | None,
    others: dict[str, Any],
) -> tuple[Tensor, None]:
    """Under a mask of four dimensions: ours if it only says which keys are tokens, else torch's."""
    if mask.dim() != 4:
        raise ValueError(
            f"{_SAYS} attention_mask has shape {tuple(mask.shape)} where the attention is computed; it must have four "
            "dimensions, or be the one that transformers' mask functions make for this implementation"
        )
    if is_key_padding(mask):
        out = scaled_dot_product_attention(query, key, value, mask, dropout, False, scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    if not torch.compiler.is_compiling():
        _warn_of_matrix(type(module).__name__)
    out, _ = sdpa_attention_forward(module, query, key, value, mask, dropout, scaling, is_causal=False, **others)
    return out, None


_SAYS = f"attn_implementation={NAME!r}:"


@functools.cache
def _warn_of_matrix(layer: str) -> None:
    warnings.warn(
        f"{_SAYS} torch serves the attention of {layer}, for its mask is not causal, a window, key padding or packing",
        RuntimeWarning,
        stacklevel=4,
    )


def _collector() -> Any:
    """The context variable of what a forward was asked to return; versions before 5 hand a keyword to every layer."""
    module = "transformers.utils.output_capturing"
    if importlib.util.find_spec(module) is None:
        return None
    return getattr(importlib.import_module(module), "_active_collector", None)


_COLLECTOR = _collector()


def _weights_wanted(others: dict[str, Any]) -> bool:
    if others.get("output_attentions"):
        return True
    if _COLLECTOR is None or torch.compiler.is_compiling():
        return False
    return any(name.endswith("attentions") for name in _COLLECTOR.get() or ())


def _check_keywords(others: dict[str, Any]) -> None:
    if _weights_wanted(others):
        raise ValueError(f"{_SAYS} attention weights are never made; load the model with attn_implementation='eager'")
    for name in _UNSUPPORTED:
        if others.get(name) is not None:
            raise ValueError(f"{_SAYS} {name} is not supported; load the model with attn_implementation='eager'")


def _varlen(others: dict[str, Any]) -> tuple[Packing, Packing] | None:
    """The sequences that a caller laid end to end."""
    given = [others[name] for name in _VARLEN if others.get(name) is not None]
    if not given:
        return None
    if len(given) < len(_VARLEN):
        raise ValueError(f"{_SAYS} packed sequences need all of {', '.join(_VARLEN)}")
    cu_seqlens_q, cu_seqlens_k, max_q, max_k = given
    return Packing(cu_seqlens_q.int(), int(max_q)), Packing(cu_seqlens_k.int(), int(max_k))


AttentionInterface.register(NAME, fastbert_attention)
AttentionMaskInterface.register(NAME, make_mask)
