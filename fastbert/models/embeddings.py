"""The first layer of every family: what a token is, where it stands, and which segment it belongs to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastbert.models.config import TransformerConfig
from fastbert.models.layers import DropoutSite, LayerNorm, drop
from fastbert.ops.autocast import autocast_dtype


class Embeddings(nn.Module):
    """Token + position (+ segment) vectors, normalised for BERT, then dropout.

    BERT has a table of segments. GPT has none: where ``token_type_ids`` are given they are looked up among the tokens,
    as the reference ports of GPT do.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.embedding_dropout_prob
        self.max_positions = config.max_position_embeddings
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segments = nn.Embedding(config.type_vocab_size, config.hidden_size) if config.type_vocab_size else None
        self.norm = None if config.causal else LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        input_ids: Tensor,  # (total,)
        position_ids: Tensor,  # (total,)
        token_type_ids: Tensor | None,  # (total,)
        inputs_embeds: Tensor | None,  # (total, hidden), in place of the tokens' vectors
        rng: Tensor | None,
    ) -> Tensor:
        x = self.tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (total, hidden)
        x = x + self.positions(position_ids)
        if self.segments is not None:
            x = x + (self.segments.weight[0] if token_type_ids is None else self.segments(token_type_ids))
        elif token_type_ids is not None:
            x = x + self.tokens(token_type_ids)
        if self.norm is not None:
            x = self.norm(x)
        # From here on activations travel in autocast's dtype: a float32 residual stream would be cast for every
        # linear layer again.
        x = x.to(autocast_dtype(x))
        return drop(x, self.dropout, rng, DropoutSite.EMBEDDING)

    def tables(self) -> list[nn.Embedding]:
        """The lookup tables."""
        return [table for table in (self.tokens, self.positions, self.segments) if table is not None]

    def check(self, input_ids: Tensor, position_ids: Tensor, token_type_ids: Tensor | None) -> None:
        """ValueError for an id that has no row in its table. Reads the values: for CPU tensors only."""
        segments = self.tokens if self.segments is None else self.segments
        for name, ids, table in (
            ("input_ids", input_ids, self.tokens),
            ("position_ids", position_ids, self.positions),
            ("token_type_ids", token_type_ids, segments),
        ):
            if ids is None or ids.numel() == 0:
                continue
            low, high = (int(value) for value in torch.aminmax(ids))
            if low < 0 or high >= table.num_embeddings:
                culprit = low if low < 0 else high
                raise ValueError(f"{name} must lie in [0, {table.num_embeddings}), got {culprit}")
