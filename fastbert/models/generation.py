"""Greedy generation with a key-value cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastbert.models.cache import KeyValueCache
from fastbert.models.inputs import ModelInputs, pack_inputs
from fastbert.packing import PackedBatch, select_last

if TYPE_CHECKING:
    from fastbert.models.gpt import GPTForPreTraining


@torch.no_grad()
def greedy(
    model: GPTForPreTraining,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
) -> Tensor:
    """Continue each prompt with its most likely token, again and again.

    Args:
        model: a language model; its dropout is off meanwhile.
        input_ids: (batch, seq) prompts, none of them empty.
        attention_mask: (batch, seq), nonzero on the tokens; prompts of different lengths may be padded on either side.
        max_new_tokens: how many tokens to add at most.
        eos_token_id: a prompt is done once it has produced this token; the call ends when all are.
        pad_token_id: what follows a finished prompt; None for ``eos_token_id``.

    Returns:
        (batch, seq + new): the prompts as they came, then the new tokens.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    inputs = pack_inputs(input_ids, attention_mask)
    lengths = inputs.batch.cu_seqlens[1:] - inputs.batch.cu_seqlens[:-1]
    if input_ids.shape[0] == 0 or int(lengths.min()) == 0:
        raise ValueError("generate: every prompt must have at least one token")
    longest, limit = int(lengths.max()), model.config.max_position_embeddings
    if longest + max_new_tokens > limit:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens {max_new_tokens} exceed the model's {limit} positions "
            "(max_position_embeddings)"
        )
    training = model.training
    model.eval()
    try:
        return torch.cat((input_ids, _continue(model, inputs.batch, max_new_tokens, eos_token_id, pad_token_id)), dim=1)
    finally:
        model.train(training)


def _continue(
    model: GPTForPreTraining,
    batch: PackedBatch,
    max_new_tokens: int,
    eos_token_id: int | None,
    pad_token_id: int | None,
) -> Tensor:
    """(batch, new) token ids after the packed prompts."""
    cache = KeyValueCache()
    n, device = batch.num_sequences, batch.input_ids.device
    done = torch.zeros(n, dtype=torch.bool, device=device)
    one_each = torch.arange(n + 1, dtype=torch.int32, device=device)
    columns: list[Tensor] = []
    while True:
        hidden = model.encode(ModelInputs(batch), cache=cache).hidden
        last = select_last(hidden, batch.cu_seqlens)  # (n, hidden): only the last token of each prompt needs scores
        token = model.lm_head(last, model.transformer.embeddings.tokens.weight).argmax(-1)
        if eos_token_id is not None:
            filler = eos_token_id if pad_token_id is None else pad_token_id
            token = torch.where(done, torch.full_like(token, filler), token)
            done = done | (token == eos_token_id)
        columns.append(token)
        if len(columns) == max_new_tokens or (eos_token_id is not None and bool(done.all())):
            return torch.stack(columns, dim=1)
        positions = cache.positions(one_each, n)
        batch = PackedBatch(input_ids=token, cu_seqlens=one_each, max_seqlen=1, position_ids=positions)
