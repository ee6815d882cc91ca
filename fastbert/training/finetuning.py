"""Fine-tuning: a pretrained model, a new head, labelled text."""

from __future__ import annotations

import functools
from pathlib import Path

from fastbert.data import TextClassificationExamples, Tokenizer, build_label2id, read_records
from fastbert.data.text_classification import TextRecord
from fastbert.models import PretrainedModel, load_pretrained, preset_names
from fastbert.training.config import FinetuneConfig, RunResult
from fastbert.training.evaluation import evaluate_classification
from fastbert.training.launch import count_steps, launch, planned_steps
from fastbert.training.loop import Task, Trainer
from fastbert.training.model_setup import check_length, check_vocabulary, dropout_overrides, save_with_tokenizer
from fastbert.training.stream import Segment


def finetune(config: FinetuneConfig) -> RunResult:
    """Fine-tune BERT or GPT as configured; the model with the best metric ends up in ``config.output``.

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
    records = _read(config, config.train)
    label2id = build_label2id(records)
    tokenizer = Tokenizer.load(config.model)
    model = _load_model(config, tokenizer, label2id)

    def examples(path: str | Path, records: list[TextRecord] | None = None) -> TextClassificationExamples:
        records = _read(config, path) if records is None else records
        return TextClassificationExamples(records, tokenizer, label2id, config.max_length)

    train = examples(config.train, records)
    validation = None if config.validation is None else examples(config.validation)
    test = None if config.test is None else examples(config.test)

    def measure(held_out: TextClassificationExamples, model: PretrainedModel) -> dict[str, float]:
        return evaluate_classification(
            model, held_out, tokens_per_batch=4 * config.tokens_per_batch, accelerator=accelerator
        )

    steps_per_epoch = count_steps(config, train, accelerator.num_processes)
    steps = planned_steps(config, steps_per_epoch)
    lm_weight = config.lm_weight if config.lm_weight is not None else (0.5 if model.config.causal else 0.0)
    if lm_weight and not model.config.causal:
        raise ValueError(f"lm_weight is {lm_weight}; allowed: 0 for {model.config.family}, which is no language model")
    task = Task(
        title=f"fine-tuning {Path(config.model).name}",
        model=model,
        segments=[Segment(train, steps)],
        save_model=functools.partial(save_with_tokenizer, model, tokenizer),
        validate=None if validation is None else functools.partial(measure, validation),
        test=None if test is None else functools.partial(measure, test),
        metric=config.metric,
        eval_every=config.eval_every or steps_per_epoch,
        loss_options={"auxiliary_lm": True} if lm_weight else {},
        term_weights={"lm": lm_weight},
        early_stopping=config.early_stopping,
    )
    return Trainer(config, task, accelerator).run()


def _read(config: FinetuneConfig, path: str | Path) -> list[TextRecord]:
    return read_records(
        path,
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        label_column=config.label_column,
    )


def _load_model(config: FinetuneConfig, tokenizer: Tokenizer, label2id: dict[str, int]) -> PretrainedModel:
    """The pretrained transformer under a new classification head, its embeddings grown for GPT's task tokens."""
    overrides = {
        "num_labels": len(label2id),
        "id2label": {i: label for label, i in label2id.items()},
        "label2id": label2id,
    }
    model = load_pretrained(config.model, "classification", **overrides, **dropout_overrides(config))
    check_vocabulary(tokenizer, model, str(config.model))
    if model.config.causal and tokenizer.add_task_tokens():
        model.resize_token_embeddings(tokenizer.vocab_size)
    check_length(config.max_length, model, str(config.model))
    return model
