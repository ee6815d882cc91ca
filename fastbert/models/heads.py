"""What stands on top of the transformer. Each head exists once; the family decides its shape, not its kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastbert.models.config import TransformerConfig
from fastbert.models.layers import DropoutSite, LayerNorm, activate, drop
from fastbert.ops import linear_cross_entropy
from fastbert.packing import IGNORE_INDEX, select_first, select_last


class Summary(nn.Module):
    """The one vector that stands for a sequence.

    GPT reads it off the last token, the Extract token of the paper, the only one that has seen all the others. BERT
    reads it off the first, [CLS], and passes it through a linear layer and tanh, which NSP pretrains.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = None if config.causal else nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        """(total, hidden) -> (n, hidden), zeros for an empty sequence."""
        if self.dense is None:
            return select_last(x, cu_seqlens)
        return zero_empty(torch.tanh(self.dense(select_first(x, cu_seqlens))), cu_seqlens)


class VocabularyHead(nn.Module):
    """Scores for every token id, by the table of token embeddings; BERT adds a transform before and a bias after."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.hidden_act
        self.dense = None if config.causal else nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = None if config.causal else LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = None if config.causal else nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(rows, hidden), (vocab_size, hidden) -> (rows, vocab_size)."""
        return F.linear(self._transform(x), table, self.bias)

    def loss(self, x: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        """The summed cross entropy of these scores, which are computed some rows at a time and not kept."""
        return linear_cross_entropy(self._transform(x), table, self.bias, targets, ignore_index=IGNORE_INDEX)

    def _transform(self, x: Tensor) -> Tensor:
        if self.dense is None or self.norm is None:
            return x
        transformed: Tensor = self.norm(activate(self.dense, self.activation, x))
        return transformed


class Classifier(nn.Module):
    """Dropout and one linear layer, for tokens and for sequences."""

    def __init__(
        self, config: TransformerConfig, outputs: int, *, bias: bool = True, dropout: float | None = None
    ) -> None:
        super().__init__()
        self.dropout = config.classifier_dropout_prob if dropout is None else dropout
        self.linear = nn.Linear(config.hidden_size, outputs, bias=bias)

    def forward(self, x: Tensor, rng: Tensor | None, group: int = 1) -> Tensor:
        """(rows, hidden) -> (rows, outputs). Each ``group`` of rows shares one dropout mask, as GPT-1's choices do."""
        if group == 1 or rng is None:
            x = drop(x, self.dropout, rng, DropoutSite.CLASSIFIER)
        else:
            mask = drop(x.new_ones(x.shape[0] // group, x.shape[1]), self.dropout, rng, DropoutSite.CLASSIFIER)
            x = x * mask.repeat_interleave(group, dim=0)
        logits: Tensor = self.linear(x)
        return logits


def zero_empty(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(n, columns) with the rows of empty sequences set to zero."""
    return torch.where((cu_seqlens[1:] > cu_seqlens[:-1])[:, None], x, torch.zeros_like(x))
