"""The fine-tuning tasks. Each is written once and serves BERT and GPT alike; their classes only name the family."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from fastbert.models.base import Encoded, PretrainedModel
from fastbert.models.config import TransformerConfig
from fastbert.models.heads import Classifier, Summary, zero_empty
from fastbert.models.inputs import ModelInputs, pack_inputs
from fastbert.models.losses import (
    LossTerm,
    count_targets,
    cross_entropy_term,
    label_count,
    label_term,
    span_targets,
    span_term,
)
from fastbert.packing import PackedBatch, repad, sequence_index

Value = TypeVar("Value")


class TaskModel(PretrainedModel):
    """A task head: logits from encoded tokens, and one "task" loss from those."""

    def score(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        """The head's packed logits."""
        raise NotImplementedError

    def task_term(self, logits: Tensor, batch: PackedBatch) -> LossTerm | None:
        """The loss of packed logits, or None where the batch has no targets."""
        raise NotImplementedError

    def task_count(self, batch: PackedBatch) -> Tensor | None:
        """How many targets :meth:`task_term` sums over, or None where the batch has none."""
        raise NotImplementedError

    def target_counts(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, Tensor]:
        counts = {"task": self._required(self.task_count(batch))}
        if auxiliary_lm:
            counts["lm"] = self.auxiliary_lm_count(batch)
        return counts

    def loss_terms(self, batch: PackedBatch, *, auxiliary_lm: bool = False) -> dict[str, LossTerm]:
        encoded = self.encode(ModelInputs(batch))
        terms = {"task": self._required(self.task_term(self.score(encoded, batch), batch))}
        if auxiliary_lm:
            terms["lm"] = self.auxiliary_lm_term(encoded.hidden, batch)
        return terms

    def _loss(self, logits: Tensor, batch: PackedBatch) -> Tensor | None:
        term = self.task_term(logits, batch)
        return None if term is None else term.mean()

    def _required(self, value: Value | None) -> Value:
        if value is None:
            raise ValueError(f"{type(self).__name__}: the batch has no targets")
        return value


class SequenceTask(TaskModel):
    """A task on the summaries of whole sequences, one by one or in groups of ``num_choices``."""

    grouped: ClassVar[bool] = False

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
        """loss (with labels), logits and hidden_states, of the shapes that the class names.

        Padded inputs are (batch, seq), or (batch, group, seq) where sequences come in groups.
        """
        inputs = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            labels=labels,
            grouped=self.grouped,
            output_attentions=output_attentions,
        )
        encoded = self.encode(inputs, output_hidden_states=output_hidden_states)
        logits = self.score(encoded, inputs.batch)
        return inputs.answer(return_dict, encoded.states, loss=self._loss(logits, inputs.batch), logits=logits)


class SequenceClassifier(SequenceTask):
    """One label, several, or a number for each sequence, read off its summary.

    Logits are (n, num_labels); for ``labels`` see :func:`fastbert.models.losses.label_term`.
    """

    purpose = "classification"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.summary = Summary(config)
        self.classifier = Classifier(config, config.num_labels, bias=config.classifier_bias or not config.causal)
        self.initialise()

    def score(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        summary = self.summary(encoded.hidden, batch.cu_seqlens)  # (n, hidden)
        return zero_empty(self.classifier(summary, encoded.rng), batch.cu_seqlens)  # (n, num_labels)

    def task_term(self, logits: Tensor, batch: PackedBatch) -> LossTerm | None:
        return None if batch.labels is None else label_term(logits, batch.labels, self.config.problem_type)

    def task_count(self, batch: PackedBatch) -> Tensor | None:
        config = self.config
        return None if batch.labels is None else label_count(batch.labels, config.num_labels, config.problem_type)


class TokenClassifier(TaskModel):
    """A label for each token."""

    purpose = "token-classification"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.classifier = Classifier(config, config.num_labels)
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
        """loss (with labels), logits (batch, seq, num_labels), hidden_states; ``labels`` (batch, seq), -100 = none."""
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
        logits = self.score(encoded, inputs.batch)
        loss = self._loss(logits, inputs.batch)
        return inputs.answer(return_dict, encoded.states, loss=loss, logits=inputs.restore(logits))

    def score(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        logits: Tensor = self.classifier(encoded.hidden, encoded.rng)  # (total, num_labels)
        return logits

    def task_term(self, logits: Tensor, batch: PackedBatch) -> LossTerm | None:
        return None if batch.labels is None else cross_entropy_term(logits, batch.labels)

    def task_count(self, batch: PackedBatch) -> Tensor | None:
        return None if batch.labels is None else count_targets(batch.labels)


class QuestionAnswerer(TaskModel):
    """Where in its sequence an answer starts and ends."""

    purpose = "question-answering"

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.qa_outputs = Classifier(config, 2, dropout=0.0)  # neither paper nor port drops anything here
        self.initialise()

    def forward(
        self,
        input_ids: Tensor | PackedBatch | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool = True,
    ) -> Any:
        """loss (with positions), start_logits and end_logits (batch, seq), hidden_states.

        ``start_positions`` and ``end_positions`` are (batch,) columns; an example with either outside its text is
        left out of the loss. Padded columns score the lowest finite number, so that no argmax or softmax over a row
        falls into the padding.
        """
        inputs = pack_inputs(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            start_positions=start_positions,
            end_positions=end_positions,
            output_attentions=output_attentions,
        )
        encoded = self.encode(inputs, output_hidden_states=output_hidden_states)
        logits = self.score(encoded, inputs.batch)
        start_logits, end_logits = logits.unbind(-1)
        if inputs.padding is not None:
            kept = repad(torch.ones_like(start_logits, dtype=torch.bool), inputs.padding)
            dead = ~kept & kept.any(dim=1, keepdim=True)  # a row of nothing but padding stays zero
            lowest = torch.finfo(logits.dtype).min
            start_logits, end_logits = (
                inputs.restore(scores).masked_fill(dead, lowest) for scores in (start_logits, end_logits)
            )
        return inputs.answer(
            return_dict,
            encoded.states,
            loss=self._loss(logits, inputs.batch),
            start_logits=start_logits,
            end_logits=end_logits,
        )

    def score(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        logits: Tensor = self.qa_outputs(encoded.hidden, encoded.rng)  # (total, 2)
        return logits

    def task_term(self, logits: Tensor, batch: PackedBatch) -> LossTerm | None:
        if batch.start_positions is None or batch.end_positions is None:
            return None
        n, total = batch.num_sequences, batch.total_tokens
        sequence = sequence_index(batch.cu_seqlens, total)
        # One extra row takes what lies past the last sequence. A softmax over a row sees -3e38 as probability 0.
        scores = logits.new_full((n + 1, batch.max_seqlen, 2), torch.finfo(torch.float32).min, dtype=torch.float32)
        column = torch.arange(total, device=logits.device) - batch.cu_seqlens[sequence]
        scores = scores.index_put((sequence, column.clamp(max=max(batch.max_seqlen - 1, 0))), logits.float())[:n]
        start, end = span_targets(batch.start_positions, batch.end_positions, batch.cu_seqlens)
        return span_term(scores[..., 0], scores[..., 1], start, end)

    def task_count(self, batch: PackedBatch) -> Tensor | None:
        if batch.start_positions is None or batch.end_positions is None:
            return None
        return count_targets(span_targets(batch.start_positions, batch.end_positions, batch.cu_seqlens)[0])


class MultipleChoice(SequenceTask):
    """Which of ``num_choices`` consecutive sequences is right: a score for each, and a softmax over them.

    Padded inputs are (batch, choices, seq), logits (batch, choices), ``labels`` (batch,) the right choice.
    """

    purpose = "multiple-choice"
    grouped = True

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.summary = Summary(config)
        self.classifier = Classifier(config, 1, bias=config.classifier_bias or not config.causal)
        self.initialise()

    def score(self, encoded: Encoded, batch: PackedBatch) -> Tensor:
        check_groups(batch)
        summary = self.summary(encoded.hidden, batch.cu_seqlens)  # (n, hidden)
        scores = zero_empty(self.classifier(summary, encoded.rng, batch.num_choices), batch.cu_seqlens)
        return scores.view(batch.num_sequences // batch.num_choices, batch.num_choices)

    def task_term(self, logits: Tensor, batch: PackedBatch) -> LossTerm | None:
        return None if batch.labels is None else cross_entropy_term(logits, batch.labels.flatten(), what="question")

    def task_count(self, batch: PackedBatch) -> Tensor | None:
        return None if batch.labels is None else count_targets(batch.labels)


def check_groups(batch: PackedBatch) -> None:
    """ValueError unless the sequences divide into groups of ``num_choices``."""
    if batch.num_choices < 1 or batch.num_sequences % batch.num_choices:
        raise ValueError(
            f"the {batch.num_sequences} sequences of the batch do not divide into groups of num_choices "
            f"{batch.num_choices}"
        )
