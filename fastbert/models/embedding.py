"""Sentence embeddings: one vector for each sequence, near to those of sequences that mean the same."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastbert.models.base import Encoded
from fastbert.models.inputs import pack_inputs
from fastbert.models.losses import LossTerm, cross_entropy_term
from fastbert.models.tasks import TaskModel, check_groups
from fastbert.packing import PackedBatch, select_first, select_last


def pool(x: Tensor, cu_seqlens: Tensor, how: str) -> Tensor:
    """(total, hidden) vectors of tokens -> (n, hidden) float32 of sequences; zeros for an empty one.

    Args:
        how: "mean" of the tokens, special ones included, the "cls" (first) or the "last" token.
    """
    x = x.float()
    if how == "cls":
        return select_first(x, cu_seqlens)
    if how == "last":
        return select_last(x, cu_seqlens)
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    # unsafe: without looking whether the lengths cover x, for which the host would wait
    sums = torch.segment_reduce(x, "sum", lengths=lengths, axis=0, unsafe=True, initial=0)
    return sums / lengths.clamp(min=1)[:, None]


class SentenceEmbedder(TaskModel):
    """A unit vector for each sequence, pooled from its tokens as ``config.pooling`` says.

    Trained by contrast with what else is in the batch (Henderson et al. 2017, "Efficient Natural Language Response
    Suggestion", section 4.4; the temperature is that of Gao et al. 2021, "SimCSE"): sequences come in groups of
    ``num_choices``, a text, one that should be near to it and, if there are more, some that should not. Of all the
    batch's others the text has to pick its own: a softmax over cosines / temperature. Others come from the same
    micro-batch of the same process, so tokens_per_batch decides how hard the task is.
    """

    purpose = "embedding"
    temperature: ClassVar[float] = 0.05

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool = True,
    ) -> Any:
        """last_hidden_state, sentence_embedding (batch, hidden) float32 of length 1, hidden_states.

        A PackedBatch of groups (``num_choices`` of 2 or more) also has the loss.
        """
        inputs = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions=output_attentions,
        )
        encoded = self.encode(inputs, output_hidden_states=output_hidden_states)
        vectors = self.score(encoded, inputs.batch)
        return inputs.answer(
            return_dict,
            encoded.states,
            loss=self._loss(vectors, inputs.batch),
            last_hidden_state=inputs.restore(encoded.hidden),
            sentence_embedding=vectors,
        )

    def score(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        return F.normalize(pool(encoded.hidden, batch.cu_seqlens, self.config.pooling), dim=-1)  # (n, hidden)

    def task_term(self, logits: Tensor, batch: PackedBatch) -> LossTerm | None:
        if batch.num_choices < 2:
            return None
        check_groups(batch)
        groups = logits.unflatten(0, (-1, batch.num_choices))
        texts, others = groups[:, 0], groups[:, 1:].flatten(0, 1)
        own = torch.arange(len(texts), device=logits.device) * (batch.num_choices - 1)
        return cross_entropy_term(texts @ others.T / self.temperature, own)

    def task_count(self, batch: PackedBatch) -> Tensor | None:
        if batch.num_choices < 2:
            return None
        return torch.tensor(batch.num_sequences // batch.num_choices, device=batch.input_ids.device)
