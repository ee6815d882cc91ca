"""The transformer that BERT and GPT share.

All of it runs on packed rows: ``x`` is (total, hidden), sequences end to end, and only attention needs to know where
one ends and the next begins. What sets the families apart is two booleans: ``causal``, whether a token sees what comes
after it, and ``pre_norm``, on which side of a sublayer its LayerNorm stands.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastbert.models.cache import KeyValueCache
from fastbert.models.config import TransformerConfig
from fastbert.models.embeddings import Embeddings
from fastbert.models.layers import DropoutSite, LayerNorm, activate, add
from fastbert.ops import attention_varlen
from fastbert.ops.philox import layer_rngs
from fastbert.packing import PackedBatch


@dataclass(frozen=True)
class Sequences:
    """Where the sequences lie: among the queries' rows, and among the keys', which a cache may have made more.

    With a cache some of them are gaps in its buffer: keys and no queries.
    """

    cu_seqlens_q: Tensor  # (n + 1,) int32
    max_seqlen_q: int
    cu_seqlens_k: Tensor
    max_seqlen_k: int


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.causal = config.causal
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.dropout = config.attention_probs_dropout_prob
        self.backend: str | None = None  # None: the library chooses
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, x: Tensor, sequences: Sequences, rng: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))
        query, key, value = qkv.unbind(1)  # each (total, heads, head_dim), a view
        if cache is not None:
            key, value = cache.append(layer, key, value)
        out = attention_varlen(
            query,
            key,
            value,
            cu_seqlens_q=sequences.cu_seqlens_q,
            cu_seqlens_k=sequences.cu_seqlens_k,
            max_seqlen_q=sequences.max_seqlen_q,
            max_seqlen_k=sequences.max_seqlen_k,
            causal=self.causal,
            dropout_p=self.dropout if rng is not None else 0.0,
            rng=rng,
            backend=self.backend,
        )
        projected: Tensor = self.output(out.flatten(1))  # (total, hidden)
        return projected


class MLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.down(
            activate(self.up, self.activation, x)
        )  # (total, hidden), by way of (total, intermediate)
        return projected


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.pre_norm = config.pre_norm
        self.dropout = config.hidden_dropout_prob
        self.attention = Attention(config)
        self.attention_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.mlp_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, x: Tensor, sequences: Sequences, rng: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        after_attention = (self.dropout, rng, DropoutSite.ATTENTION_OUTPUT)
        after_mlp = (self.dropout, rng, DropoutSite.MLP_OUTPUT)
        if self.pre_norm:
            branch = self.attention(self.attention_norm(x), sequences, rng, cache, self.layer)
            normalised, x = self.mlp_norm(branch, x, after_attention, return_sum=True)
            return add(self.mlp(normalised), x, *after_mlp)
        x = self.attention_norm(self.attention(x, sequences, rng, cache, self.layer), x, after_attention)
        out: Tensor = self.mlp_norm(self.mlp(x), x, after_mlp)
        return out


class Transformer(nn.Module):
    """Embeddings, blocks and, where LayerNorm comes first, one more at the end."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.checkpoint_every = 0  # of every so many blocks one keeps only its input for the backward; 0: none
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.final_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.pre_norm else None

    def forward(
        self,
        batch: PackedBatch,
        *,
        inputs_embeds: Tensor | None = None,
        rng: Tensor | None = None,
        cache: KeyValueCache | None = None,
        output_hidden_states: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """The vector of every token.

        Args:
            batch: packed tokens; of the targets nothing is read.
            inputs_embeds: (total, hidden) vectors in place of those ``batch.input_ids`` would look up.
            rng: int64 (seed, offset) of this forward's dropout, or None for none.
            cache: keys and values of what came before; this forward's are added to it.
            output_hidden_states: also return the embeddings and every layer's output.

        Returns:
            (total, hidden), and None or ``num_hidden_layers + 1`` tensors of that shape, the last of them the same.
        """
        sequences = Sequences(batch.cu_seqlens, batch.max_seqlen, batch.cu_seqlens, batch.max_seqlen)
        if cache is not None:
            cu_seqlens_q, cu_seqlens_k, max_seqlen_k = cache.extend(
                batch.cu_seqlens, batch.max_seqlen, batch.total_tokens
            )
            sequences = Sequences(cu_seqlens_q, batch.max_seqlen, cu_seqlens_k, max_seqlen_k)
        rngs = [None] * len(self.blocks) if rng is None else layer_rngs(rng, len(self.blocks)).unbind(0)

        x = self.embeddings(batch.input_ids, batch.position_ids, batch.token_type_ids, inputs_embeds, rng)
        states = [x]
        for layer, (block, layer_rng) in enumerate(zip(self.blocks, rngs, strict=True)):
            if self.checkpoint_every and self.training and cache is None and layer % self.checkpoint_every == 0:
                # No state of torch's generators to restore: every random bit comes from layer_rng.
                x = checkpoint(block, x, sequences, layer_rng, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, sequences, layer_rng, cache)
            if output_hidden_states:
                states.append(x)
        if cache is not None:
            cache.commit()
        if self.final_norm is not None:
            x = states[-1] = self.final_norm(x)
        return x, tuple(states) if output_hidden_states else None
