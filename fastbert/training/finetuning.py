"""Fine-tuning: a pretrained model, a task, labelled data."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastbert.data import Tokenizer
from fastbert.models import PretrainedModel, preset_names
from fastbert.training.config import FinetuneConfig, RunResult
from fastbert.training.evaluation import evaluate_task
from fastbert.training.launch import count_steps, launch, planned_steps
from fastbert.training.loop import Task, Trainer
from fastbert.training.model_setup import (
    check_length,
    check_vocabulary,
    dropout_overrides,
    load_for_task,
    save_with_tokenizer,
)
from fastbert.training.stream import Segment
from fastbert.training.tasks import DataOptions, TaskDefinition, task_named
from fastbert.training.tasks.definition import TaskExamples

logger = logging.getLogger(__name__)


def finetune(config: FinetuneConfig) -> RunResult:
    """Fine-tune BERT or GPT as configured; the model with the best metric ends up in ``config.output``.

    What the task decides is in its :class:`~fastbert.training.tasks.TaskDefinition`; the rest is the same for all.
    BERT learns the task alone (Devlin et al. 2018, section 3.2); GPT also keeps its language-model loss, weighted with
    ``lm_weight`` (Radford et al. 2018, section 3.2), and gets Start, Delimiter and Extract tokens where its vocabulary
    has none.

    Raises:
        ValueError: settings or data that cannot be used, each with one sentence.
        OSError: files that cannot be read or written.
        FloatingPointError: a loss that is not finite.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved.
    """
    if config.model in preset_names():
        raise ValueError(f"model is {config.model!r}, an untrained preset: pretrain it first, or name a trained model")
    accelerator = launch(config)
    definition, options = task_named(config.task), DataOptions.of(config)

    train_records = definition.records(str(config.train), options, split="train")
    tokenizer = Tokenizer.load(config.model)
    model = _load_model(config, definition, tokenizer, train_records)

    def examples(records: Sequence[Any]) -> TaskExamples:
        return definition.encode(records, tokenizer, model.config, options, labelled=True)

    def tell_truncated(encoded: TaskExamples, path: str | Path) -> None:
        cut = getattr(encoded, "num_truncated", 0)
        if cut and accelerator.is_main_process:
            logger.warning("%s: %d texts are longer than max_length %d and are cut", path, cut, config.max_length)

    def measurement(path: str | Path | None, split: str) -> Callable[[PretrainedModel], dict[str, float]] | None:
        if path is None:
            return None
        records = definition.records(str(path), options, split=split)
        held_out = examples(records)
        tell_truncated(held_out, path)
        return lambda model: evaluate_task(
            definition,
            model,
            records,
            held_out,
            tokens_per_batch=4 * config.tokens_per_batch,
            accelerator=accelerator,
        )

    train = examples(train_records)
    tell_truncated(train, config.train)
    validate, test = measurement(config.validation, "validation"), measurement(config.test, "test")
    steps_per_epoch = count_steps(config, train, accelerator.num_processes)
    steps = planned_steps(config, steps_per_epoch)
    lm_weight = config.lm_weight if config.lm_weight is not None else (0.5 if model.config.causal else 0.0)
    if lm_weight and not model.config.causal:
        raise ValueError(f"lm_weight is {lm_weight}; allowed: 0 for {model.config.family}, which is no language model")
    task = Task(
        title=f"fine-tuning {Path(config.model).name}",
        model=model,
        segments=[Segment(train, steps)],
        save_model=functools.partial(save_with_tokenizer, tokenizer),
        validate=validate,
        test=test,
        metric=definition.choose_metric(config.metric, model.config),
        eval_every=config.eval_every or steps_per_epoch,
        loss_options={"auxiliary_lm": True} if lm_weight else {},
        term_weights={"lm": lm_weight},
        early_stopping=config.early_stopping,
    )
    return Trainer(config, task, accelerator).run()


def _load_model(
    config: FinetuneConfig, definition: TaskDefinition[Any, Any], tokenizer: Tokenizer, records: Sequence[Any]
) -> PretrainedModel:
    """The pretrained transformer under the task's new head, its embeddings grown for GPT's task tokens."""
    overrides = {**definition.head(records), **dropout_overrides(config)}
    model = load_for_task(config.model, definition, require_head=False, **overrides)
    check_vocabulary(tokenizer, model, str(config.model))
    if model.config.causal and tokenizer.add_task_tokens():
        model.resize_token_embeddings(tokenizer.vocab_size)
    check_length(config.max_length, model, str(config.model))
    return model
