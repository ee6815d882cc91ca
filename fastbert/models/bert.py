"""BERT (Devlin et al. 2018): the transformer without a causal mask, summed up by [CLS], pretrained by filling masks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastbert.models import tasks
from fastbert.models.base import Encoded, PretrainedModel
from fastbert.models.config import BERT_FAMILIES, TransformerConfig
from fastbert.models.embedding import SentenceEmbedder
from fastbert.models.heads import Classifier, Summary, VocabularyHead, zero_empty
from fastbert.models.inputs import ModelInputs, pack_inputs
from fastbert.models.losses import LossTerm, check_count, count_targets, cross_entropy_term, target_rows
from fastbert.packing import PackedBatch


class BertModel(PretrainedModel):
    """Token vectors and, unless ``add_pooling_layer`` is False, the pooled [CLS]."""

    families = BERT_FAMILIES
    purpose = "model"

    def __init__(self, config: TransformerConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.summary = Summary(config) if add_pooling_layer else None
        self.initialise()

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
        """last_hidden_state (batch, seq, hidden), pooler_output (batch, hidden), hidden_states."""
        inputs = pack_inputs(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions=output_attentions
        )
        encoded = self.encode(inputs, output_hidden_states=output_hidden_states)
        pooled = None if self.summary is None else self.summary(encoded.hidden, inputs.batch.cu_seqlens)
        return inputs.answer(
            return_dict,
            encoded.states,
            last_hidden_state=inputs.restore(encoded.hidden),
            pooler_output=pooled,
        )


class BertForPreTraining(PretrainedModel):
    """Masked language modelling and next sentence prediction together."""

    families = BERT_FAMILIES
    purpose = "pretraining"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.summary = Summary(config)
        self.lm_head = VocabularyHead(config)
        self.next_sentence = Classifier(config, 2, dropout=0.0)
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool = True,
    ) -> Any:
        """loss, prediction_logits (batch, seq, vocab_size), seq_relationship_logits (batch, 2), hidden_states.

        ``labels``: (batch, seq), -100 where nothing is masked. ``next_sentence_label``: (batch,), 0 where B follows A,
        1 where B is random. The loss is the sum of the means of those that are given.
        """
        inputs = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            token_labels=labels,
            next_sentence_label=next_sentence_label,
            output_attentions=output_attentions,
        )
        batch = inputs.batch
        encoded = self.encode(inputs, output_hidden_states=output_hidden_states)
        logits = self.lm_head(encoded.hidden, self.transformer.embeddings.tokens.weight)  # (total, vocab_size)
        relation = self._relation(encoded, batch)
        means = []
        if batch.labels is not None:
            means.append(cross_entropy_term(logits, batch.labels).mean())
        if batch.next_sentence_label is not None:
            means.append(self._relation_term(relation, batch.next_sentence_label).mean())
        return inputs.answer(
            return_dict,
            encoded.states,
            loss=sum(means[1:], start=means[0]) if means else None,
            prediction_logits=inputs.restore(logits),
            seq_relationship_logits=relation,
        )

    def loss_terms(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, LossTerm]:
        """The loss "mlm" and, where the batch says which pairs follow each other, "nsp"."""
        labels = masked_labels(self, batch, auxiliary_lm)
        encoded = self.encode(ModelInputs(batch))
        terms = {"mlm": masked_lm_term(self, self.lm_head, encoded, labels)}
        if batch.next_sentence_label is not None:
            terms["nsp"] = self._relation_term(self._relation(encoded, batch), batch.next_sentence_label)
        return terms

    def target_counts(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, Tensor]:
        counts = {"mlm": count_targets(masked_labels(self, batch, auxiliary_lm))}
        if batch.next_sentence_label is not None:
            counts["nsp"] = count_targets(batch.next_sentence_label)
        return counts

    def _relation(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        pooled = self.summary(encoded.hidden, batch.cu_seqlens)
        return zero_empty(self.next_sentence(pooled, encoded.rng), batch.cu_seqlens)  # (n, 2)

    def _relation_term(self, relation: Tensor, targets: Tensor) -> LossTerm:
        return cross_entropy_term(relation, targets.flatten(), "next_sentence_label", "sequence")


class BertForMaskedLM(PretrainedModel):
    """Masked language modelling alone."""

    families = BERT_FAMILIES
    purpose = "masked-lm"

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
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool = True,
    ) -> Any:
        """loss (with labels), logits (batch, seq, vocab_size), hidden_states; ``labels`` (batch, seq), -100 = none."""
        inputs = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            token_labels=labels,
            output_attentions=output_attentions,
        )
        encoded = self.encode(inputs, output_hidden_states=output_hidden_states)
        logits = self.lm_head(encoded.hidden, self.transformer.embeddings.tokens.weight)
        labels = inputs.batch.labels
        loss = None if labels is None else cross_entropy_term(logits, labels).mean()
        return inputs.answer(return_dict, encoded.states, loss=loss, logits=inputs.restore(logits))

    def loss_terms(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, LossTerm]:
        """The loss "mlm"."""
        labels = masked_labels(self, batch, auxiliary_lm)
        return {"mlm": masked_lm_term(self, self.lm_head, self.encode(ModelInputs(batch)), labels)}

    def target_counts(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, Tensor]:
        return {"mlm": count_targets(masked_labels(self, batch, auxiliary_lm))}


class BertForSequenceClassification(tasks.SequenceClassifier):
    """A label or a number for a text or a pair of texts."""

    families = BERT_FAMILIES


class BertForTokenClassification(tasks.TokenClassifier):
    """A label for each token."""

    families = BERT_FAMILIES


class BertForQuestionAnswering(tasks.QuestionAnswerer):
    """The span of a text that answers a question."""

    families = BERT_FAMILIES


class BertForMultipleChoice(tasks.MultipleChoice):
    """The right one of several continuations."""

    families = BERT_FAMILIES


class BertForSentenceEmbedding(SentenceEmbedder):
    """A unit vector for each text."""

    families = BERT_FAMILIES


def masked_labels(model: PretrainedModel, batch: PackedBatch, auxiliary_lm: bool) -> Tensor:
    """The (total,) labels of a masked LM batch; ValueError for a batch or an option that cannot be served."""
    if auxiliary_lm:
        raise ValueError("auxiliary_lm: bert does not predict the next token")
    if batch.labels is None:
        raise ValueError(f"{type(model).__name__}: the batch has no labels")
    check_count("labels", batch.labels, batch.total_tokens, "token")
    return batch.labels


def masked_lm_term(model: PretrainedModel, head: VocabularyHead, encoded: Encoded, labels: Tensor) -> LossTerm:
    """The masked LM loss, with vocabulary scores for the masked rows only (15% of them)."""
    rows = target_rows(labels)
    logits = head(encoded.hidden.index_select(0, rows), model.transformer.embeddings.tokens.weight)
    return cross_entropy_term(logits, labels.index_select(0, rows))
