"""Pretraining from text files: a tokenizer, a token cache, a model, and the loop."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator
from rich.progress import Progress

from fastbert.data import (
    CausalExamples,
    Examples,
    SentencePairExamples,
    TokenizedCorpus,
    Tokenizer,
    cached_corpus,
    read_documents,
    split_documents,
)
from fastbert.data.samples import cache_directory
from fastbert.models import PretrainedModel, architecture, load_pretrained, preset, preset_names, read_config
from fastbert.training.checkpoint import list_checkpoints
from fastbert.training.config import PretrainConfig, RunResult
from fastbert.training.evaluation import evaluate_losses
from fastbert.training.launch import count_steps, launch, planned_steps
from fastbert.training.loop import Task, Trainer
from fastbert.training.model_setup import check_length, check_vocabulary, dropout_overrides, save_with_tokenizer
from fastbert.training.stream import Segment


def pretrain(config: PretrainConfig) -> RunResult:
    """Pretrain BERT or GPT as configured; the model with the lowest held-out loss ends up in ``config.output``.

    BERT learns masked LM and next-sentence prediction (Devlin et al. 2018), GPT the next token (Radford et al. 2018).
    The tokenizer is trained on the corpus unless one is named or ``model`` is a directory that has its own.

    Raises:
        ValueError: settings or text that cannot be used, each with one sentence.
        OSError: files that cannot be read or written.
        FloatingPointError: a loss that is not finite.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is saved.
    """
    if config.model not in preset_names() and not Path(config.model).is_dir():
        raise ValueError(f"model is {config.model!r}; allowed: {', '.join(preset_names())}, or a directory")
    accelerator = launch(config)
    with accelerator.main_process_first():  # the others find the tokenizer and the cache made
        tokenizer = _tokenizer(config, accelerator)
        corpus = _tokenize(config, tokenizer, accelerator)
    model = _build_model(config, tokenizer)
    training, held_out = split_documents(corpus.num_documents, every=max(2, round(1 / config.held_out)))

    examples = functools.partial(_examples, config, corpus, tokenizer, model.config.causal)
    if config.phases:
        segments = [Segment(examples(training, phase.max_length), phase.steps) for phase in config.phases]
        longest = max(phase.max_length for phase in config.phases)
        steps = sum(phase.steps for phase in config.phases)
    else:
        longest = config.max_length
        train = examples(training, longest)
        steps = planned_steps(config, count_steps(config, train, accelerator.num_processes))
        segments = [Segment(train, steps)]
    check_length(longest, model, str(config.model))
    view = examples(held_out, longest).epoch(0)

    def validate(model: PretrainedModel) -> dict[str, float]:
        return evaluate_losses(model, view, tokens_per_batch=2 * config.tokens_per_batch, accelerator=accelerator)

    task = Task(
        title=f"pretraining {Path(config.model).name}",
        model=model,
        segments=segments,
        save_model=functools.partial(save_with_tokenizer, tokenizer),
        validate=validate,
        metric="loss",
        eval_every=config.eval_every or max(1, steps // 10),
    )
    return Trainer(config, task, accelerator).run()


def _tokenizer(config: PretrainConfig, accelerator: Accelerator) -> Tokenizer:
    """The one named, the one beside the model, or one trained on the corpus and kept in ``output``."""
    if config.tokenizer is not None:
        return Tokenizer.load(config.tokenizer)
    if config.model not in preset_names():
        return Tokenizer.load(config.model)
    own = Path(config.output) / "tokenizer"
    resuming = config.resume and list_checkpoints(Path(config.output) / "checkpoints")
    if resuming or not accelerator.is_main_process:  # the main process went first
        return Tokenizer.load(own)
    texts = _texts(config)
    causal = preset(str(config.model)).causal
    with Progress(transient=True) as progress:
        progress.add_task(f"training a tokenizer of {config.vocab_size:,} entries", total=None)
        if causal:
            tokenizer = Tokenizer.train_byte_bpe(texts, config.vocab_size)
        else:
            tokenizer = Tokenizer.train_wordpiece(texts, config.vocab_size, lowercase=config.lowercase)
    tokenizer.save(own)
    return tokenizer


def _texts(config: PretrainConfig) -> Iterator[str]:
    """Whole documents: byte-level BPE tells a word after a space from one at the start of the text."""
    for document in read_documents(config.corpus_patterns, sentence_split=config.sentence_split):
        yield " ".join(document)


def _tokenize(config: PretrainConfig, tokenizer: Tokenizer, accelerator: Accelerator) -> TokenizedCorpus:
    with Progress(transient=True, disable=not accelerator.is_main_process) as progress:
        task = progress.add_task("tokenising the corpus")
        return cached_corpus(
            config.corpus_patterns,
            tokenizer,
            cache_directory() / "tokens",
            sentence_split=config.sentence_split,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _build_model(config: PretrainConfig, tokenizer: Tokenizer) -> PretrainedModel:
    untrained = config.model in preset_names()
    settings = preset(str(config.model)) if untrained else read_config(config.model)
    # Without sentence pairs there is nothing for BERT's pooler and its classifier to learn.
    purpose = "pretraining" if settings.causal or config.next_sentence else "masked-lm"
    if untrained:
        settings = settings.replace(vocab_size=tokenizer.vocab_size, **dropout_overrides(config))
        model = architecture(settings.family, purpose)(settings)
    else:
        model = load_pretrained(config.model, purpose, **dropout_overrides(config))
    check_vocabulary(tokenizer, model, str(config.tokenizer or config.model))
    return model


def _examples(
    config: PretrainConfig,
    corpus: TokenizedCorpus,
    tokenizer: Tokenizer,
    causal: bool,
    documents: npt.NDArray[np.int64],
    max_length: int,
) -> Examples:
    if causal:
        return CausalExamples(corpus, tokenizer, max_length=max_length, documents=documents)
    return SentencePairExamples(
        corpus,
        tokenizer,
        seed=config.seed,
        max_length=max_length,
        mask_probability=config.mask_probability,
        max_predictions=config.max_predictions,
        whole_word=config.whole_word,
        next_sentence=config.next_sentence,
        short_probability=config.short_probability,
        documents=documents,
    )
