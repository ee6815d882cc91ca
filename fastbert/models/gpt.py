"""GPT (Radford et al. 2018, 2019): the transformer with a causal mask, summed up by its last token.

It is pretrained to predict the next one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from fastbert.models import generation, tasks
from fastbert.models.base import Encoded, PretrainedModel
from fastbert.models.cache import KeyValueCache
from fastbert.models.config import GPT_FAMILIES, TransformerConfig
from fastbert.models.decoding import StopWhen
from fastbert.models.embedding import SentenceEmbedder
from fastbert.models.generation import Streamer
from fastbert.models.generation_config import GenerationConfig
from fastbert.models.heads import VocabularyHead, zero_empty
from fastbert.models.inputs import ModelInputs, pack_inputs
from fastbert.models.layers import only_its_forward
from fastbert.models.losses import (
    LossTerm,
    check_classes,
    check_count,
    count_targets,
    cross_entropy_term,
    next_token_targets,
    target_rows,
)
from fastbert.packing import PackedBatch

# Beyond so many the scores of a batch are not kept for the backward but computed again, a product in four: they would
# take 1 GiB in 16 bits, and their gradient as much. A compiled step has a graph for each of the two ways.
MANY_SCORES = 1 << 29


class GPTModel(PretrainedModel):
    """Token vectors."""

    families = GPT_FAMILIES
    purpose = "model"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: KeyValueCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool = True,
    ) -> Any:
        """last_hidden_state (batch, seq, hidden), past_key_values, hidden_states.

        With ``past_key_values`` the input continues what that cache holds, and it is extended in place;
        ``use_cache=True`` starts a new one.
        """
        cache = KeyValueCache() if use_cache and past_key_values is None else past_key_values
        inputs = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            cache=cache,
            output_attentions=output_attentions,
        )
        encoded = self.encode(inputs, cache=cache, output_hidden_states=output_hidden_states)
        return inputs.answer(
            return_dict,
            encoded.states,
            last_hidden_state=inputs.restore(encoded.hidden),
            past_key_values=cache,
        )


class GPTForPreTraining(PretrainedModel):
    """Language modelling: a score for every possible next token."""

    families = GPT_FAMILIES
    purpose = "pretraining"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.lm_head = VocabularyHead(config)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: KeyValueCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool = True,
    ) -> Any:
        """loss (with labels), logits (batch, seq, vocab_size), past_key_values, hidden_states.

        ``labels``: (batch, seq) unshifted token ids, usually ``input_ids`` itself, -100 ignored. For the cache see
        :class:`GPTModel`.
        """
        cache = KeyValueCache() if use_cache and past_key_values is None else past_key_values
        inputs = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            token_labels=labels,
            cache=cache,
            output_attentions=output_attentions,
        )
        batch = inputs.batch
        encoded = self.encode(inputs, cache=cache, output_hidden_states=output_hidden_states)
        logits = self.lm_head(encoded.hidden, self.transformer.embeddings.tokens.weight)  # (total, vocab_size)
        loss = None
        if batch.labels is not None:
            loss = cross_entropy_term(logits, _lm_targets(batch, auxiliary_lm=False)).mean()
        return inputs.answer(
            return_dict, encoded.states, loss=loss, logits=inputs.restore(logits), past_key_values=cache
        )

    def loss_terms(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, LossTerm]:
        """The loss "lm": on every token but the first of each sequence, or on those that have a label."""
        targets = _lm_targets(batch, auxiliary_lm)
        rows = target_rows(targets)
        encoded = self.encode(ModelInputs(batch))
        hidden, table = encoded.hidden.index_select(0, rows), self.transformer.embeddings.tokens.weight
        targets = targets.index_select(0, rows)
        if batch.total_tokens * table.shape[0] <= MANY_SCORES or not only_its_forward(self.lm_head):
            return {"lm": cross_entropy_term(self.lm_head(hidden, table), targets)}
        check_classes("labels", targets, table.shape[0])
        return {"lm": LossTerm(self.lm_head.loss(hidden, table, targets), count_targets(targets))}

    def target_counts(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, Tensor]:
        return {"lm": count_targets(_lm_targets(batch, auxiliary_lm))}

    def generate(
        self,
        input_ids: Tensor | PackedBatch,
        attention_mask: Tensor | None = None,
        *,
        generation_config: GenerationConfig | None = None,
        streamer: Streamer | None = None,
        stop_when: StopWhen | None = None,
        **options: Any,
    ) -> Any:
        """Continue prompts: greedily, by sampling or by beam search.

        Every prompt is continued as if it were alone, except that matrix products of another size may round another
        way. Dropout is off meanwhile, and a continuation that is done is not computed further.

        Args:
            input_ids: (batch, seq) prompts, none of them empty; or a PackedBatch, of which the tokens and the lengths
                are read.
            attention_mask: (batch, seq), nonzero on the tokens; the padding may be on either side.
            generation_config: the options; those in ``options`` take precedence.
            streamer: is given the prompts, then each step's token of every row. Not with beams.
            stop_when: is called with the new tokens of a continuation, a list of int, after each of them; True ends it.
            **options: fields of :class:`GenerationConfig`, of which ``max_new_tokens`` must be given.

        Returns:
            (batch x num_return_sequences, seq + new): the prompts as they came, then the new tokens and, where a row
            ended before others, ``pad_token_id``. For a PackedBatch a PackedBatch of prompts with their new tokens.

        Raises:
            TypeError: an option that does not exist.
            ValueError: a value or a combination that makes no sense, an empty prompt, or more tokens than positions.
            ArithmeticError: scores that are not numbers.
        """
        if generation_config is None:
            config = GenerationConfig(**options)
        else:
            config = dataclasses.replace(generation_config, **options)
        return generation.generate(self, input_ids, attention_mask, config, streamer, stop_when)


class GPTForSequenceClassification(tasks.SequenceClassifier):
    """A label or a number for [Start] text [Extract], or for [Start] premise [Delim] hypothesis [Extract]."""

    families = GPT_FAMILIES


class GPTForTokenClassification(tasks.TokenClassifier):
    """A label for each token."""

    families = GPT_FAMILIES


class GPTForQuestionAnswering(tasks.QuestionAnswerer):
    """The span of a text that answers a question."""

    families = GPT_FAMILIES


class GPTForMultipleChoice(tasks.MultipleChoice):
    """The right one of several [Start] context [Delim] answer [Extract]; the choices share one classifier dropout."""

    families = GPT_FAMILIES


class GPTForSentenceEmbedding(SentenceEmbedder):
    """A unit vector for each text."""

    families = GPT_FAMILIES


class GPTForSimilarity(tasks.SequenceClassifier):
    """How alike two texts are: both orders are read and their Extract vectors added (Radford et al. 2018, section 3.3).

    Sequences come in pairs, [Start] a [Delim] b [Extract] and [Start] b [Delim] a [Extract]: a PackedBatch with
    ``num_choices=2`` or padded inputs (batch, 2, seq). Logits and labels are those of a classifier of pairs.
    """

    families = GPT_FAMILIES
    purpose = "similarity"
    grouped = True

    def score(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        if batch.num_choices != 2:
            raise ValueError(
                f"GPTForSimilarity reads both orders of a pair: num_choices must be 2, got {batch.num_choices}"
            )
        tasks.check_groups(batch)
        both = (
            self.summary(encoded.hidden, batch.cu_seqlens).unflatten(0, (batch.num_sequences // 2, 2)).sum(1)
        )  # (pairs, hidden)
        return zero_empty(self.classifier(both, encoded.rng), batch.cu_seqlens[::2])  # (pairs, num_labels)


def _lm_targets(batch: PackedBatch, auxiliary_lm: bool) -> Tensor:
    """(total,) what each row is to predict: the next label, or the next token where the batch has no labels."""
    if auxiliary_lm:
        raise ValueError("auxiliary_lm: language modelling is this model's own objective")
    if batch.labels is None:
        return next_token_targets(batch.input_ids, batch.cu_seqlens)
    check_count("labels", batch.labels, batch.total_tokens, "token")
    return next_token_targets(batch.labels, batch.cu_seqlens)
