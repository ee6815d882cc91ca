"""Using trained models: evaluate them, predict with them, fill masks, continue prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from fastbert.data import TextStream, Tokenizer
from fastbert.files import replaced
from fastbert.models import GenerationConfig, GPTForPreTraining, PretrainedModel, load_pretrained
from fastbert.packing import PackedBatch
from fastbert.training.config import require
from fastbert.training.evaluation import compute_outputs, evaluate_task
from fastbert.training.model_setup import load_for_task
from fastbert.training.tasks import DataOptions, TaskDefinition, task_named


@dataclass
class EvaluateConfig:
    """Measure a fine-tuned model on labelled data.

    Attributes:
        model: directory of the fine-tuned model.
        data: file of the task's form with labels, or a data set of the hub (hf://...).
        text_column: column of the text.
        text_pair_column: column of a second text, if the task has pairs.
        label_column: column of the label.
        max_length: longest sequence in tokens; longer texts are cut.
        tokens_per_batch: tokens computed at a time.
        backend: attention backend; None lets the library choose.
        task: what the model was fine-tuned for; None: what its training.json says, "classification" without one.
        token_column: column of the words in a column file, counted from 0, or from the last one with -1.
        tag_column: column of the tags in a column file, likewise.
        stride: tokens from the beginning of a window over a long context to that of the next.
        max_answer_length: most tokens of an answer.
        null_threshold: how much better no answer must score than the best answer to be given, in SQuAD 2.0.
    """

    model: str
    data: str
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    max_length: int = 128
    tokens_per_batch: int = 8192
    backend: str | None = None
    task: str | None = None
    token_column: int = 0
    tag_column: int = -1
    stride: int = 128
    max_answer_length: int = 30
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_length", "tokens_per_batch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass
class PredictConfig:
    """Use a fine-tuned model on new data.

    Attributes:
        model: directory of the fine-tuned model.
        input: file of the task's form, or a data set of the hub (hf://...); it needs no labels.
        output: file to write, in the input's order: a .csv, .tsv or .jsonl table; for tagging the column file with one
            column more; for question answering SQuAD's .json of ids and answers, and for SQuAD 2.0 beside it a
            .na_prob.json of ids and probabilities that there is none; for GLUE the .tsv of its server.
        text_column: column of the text.
        text_pair_column: column of a second text, if the task has pairs.
        max_length: longest sequence in tokens; longer texts are cut.
        tokens_per_batch: tokens computed at a time.
        backend: attention backend; None lets the library choose.
        task: what the model was fine-tuned for; None: what its training.json says, "classification" without one.
        token_column: column of the words in a column file, counted from 0, or from the last one with -1.
        stride: tokens from the beginning of a window over a long context to that of the next.
        max_answer_length: most tokens of an answer.
        null_threshold: how much better no answer must score than the best answer to be given, in SQuAD 2.0.
    """

    model: str
    input: str
    output: str
    text_column: str = "text"
    text_pair_column: str | None = None
    max_length: int = 128
    tokens_per_batch: int = 8192
    backend: str | None = None
    task: str | None = None
    token_column: int = 0
    stride: int = 128
    max_answer_length: int = 30
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_length", "tokens_per_batch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(GenerationConfig):
    """Continue a prompt with a GPT: greedily, by sampling or by beam search.

    Attributes:
        model: directory of the model, or a hub id.
        prompt: the text to continue.
        max_new_tokens: most tokens to add; an end-of-text token ends earlier.
        do_sample: draw tokens by their probability.
        temperature: below 1 sharpens the probabilities, above 1 flattens them.
        top_k: draw from so many most likely tokens; None for all.
        top_p: draw from the fewest most likely tokens that have this probability together.
        repetition_penalty: above 1 makes tokens that are there already less likely.
        num_beams: alternatives that beam search follows at once; 1 for none.
        length_penalty: above 0 favours long continuations of beam search, below 0 short ones.
        early_stopping: of beam search: true once it has ``num_beams`` results, false while a better one is likely,
            "never" while one is possible.
        num_return_sequences: how many continuations.
        eos_token_id: tokens that end a continuation; None for the tokenizer's end of text, an empty list for none.
        pad_token_id: not seen in texts.
        seed: of the draws; None for another each time.
        stop: texts that end a continuation, and are not part of it.
        backend: attention backend; None lets the library choose.
    """

    model: str
    prompt: str
    max_new_tokens: int = 40
    stop: list[str] | str = field(default_factory=list)
    backend: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if "" in self.stop_texts:
            raise ValueError("stop must hold no empty text, which every continuation has")

    @property
    def stop_texts(self) -> list[str]:
        """``stop``, one or several, as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop)

    @property
    def streams(self) -> bool:
        """Whether the text is one that grows at its end only."""
        return self.num_beams == 1 and self.num_return_sequences == 1


@dataclass
class FillMaskConfig:
    """Fill the [MASK] tokens of a text with a BERT.

    Attributes:
        model: directory of the model, or a hub id.
        text: a text with one or more [MASK].
        top_k: candidates for each mask.
        backend: attention backend; None lets the library choose.
    """

    model: str
    text: str
    top_k: int = 5
    backend: str | None = None

    def __post_init__(self) -> None:
        require(self.top_k >= 1, "top_k", self.top_k, "at least 1")


@dataclass(frozen=True)
class Candidate:
    """A token for a masked place, and how probable the model finds it."""

    token: str
    probability: float


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Loss and the task's metrics of a fine-tuned model on ``data``.

    Raises:
        ValueError: a model without the task's head, or data that cannot be used.
    """
    accelerator = Accelerator()
    task, options = _task(config)
    model, tokenizer = _load_for_task(config, task, accelerator.device)
    records = task.records(config.data, options, split="validation")
    examples = task.encode(records, tokenizer, model.config, options, labelled=True)
    tokens = config.tokens_per_batch
    return evaluate_task(task, model, records, examples, tokens_per_batch=tokens, accelerator=accelerator)


def predict(config: PredictConfig) -> list[Any]:
    """What the model makes of every record of ``input``, also written to ``output``.

    A list with the task's predictions: ``label`` and ``probability`` for classes and choices, ``value`` for numbers,
    ``tags`` for sentences, ``text`` for questions.

    Raises:
        ValueError: a model without the task's head, data that cannot be used, or an unknown output format.
    """
    accelerator = Accelerator()
    task, options = _task(config)
    output = Path(config.output)
    task.check_output(output)
    model, tokenizer = _load_for_task(config, task, accelerator.device)
    records = task.records(config.input, options, split="test", labelled=False)
    examples = task.encode(records, tokenizer, model.config, options, labelled=False)
    tokens = config.tokens_per_batch
    outputs, _ = compute_outputs(task, model, examples, tokens_per_batch=tokens, accelerator=accelerator)
    predictions = task.predict(records, examples, outputs, model.config)
    for suffix, write in {**task.companions(records), output.suffix: task.write}.items():
        with replaced(output.with_suffix(suffix)) as aside:
            write(aside, records, predictions)
    return predictions


@torch.no_grad()
def generate(config: GenerateConfig, write: Callable[[str], None] | None = None) -> list[str]:
    """The ``num_return_sequences`` continuations of ``prompt``, without the prompt.

    Args:
        config: the model, the prompt and the options.
        write: is given the text piece by piece as it comes, whole characters only; the pieces together are the text.
            Not with several continuations or beams.

    Raises:
        ValueError: a model that is no GPT, an empty prompt, or more tokens than the model has positions.
    """
    device = Accelerator().device
    model, tokenizer = _load(config.model, "pretraining", config.backend, device)
    if not isinstance(model, GPTForPreTraining):
        raise ValueError(f"{config.model} is a {model.config.family} model; generate needs a GPT")
    ids = tokenizer.encode(config.prompt)
    if not ids:
        raise ValueError("prompt is empty; allowed: at least one token")
    stream = TextStream(tokenizer, ids, config.stop_texts)
    options = {option.name: getattr(config, option.name) for option in fields(GenerationConfig)}
    if config.eos_token_id is None:
        options["eos_token_id"] = [] if tokenizer.eos_id is None else tokenizer.eos_id
    produced = model.generate(
        PackedBatch.from_sequences([ids]).to(device),
        streamer=None if write is None else _Writer(stream, write),
        stop_when=stream.is_stopped if config.stop_texts else None,
        **options,
    )
    bounds = produced.cu_seqlens.tolist()
    new = [produced.input_ids[start + len(ids) : end].tolist() for start, end in pairwise(bounds)]
    return [stream.text(tokens) for tokens in new]


class _Writer:
    """A streamer for one continuation."""

    def __init__(self, stream: TextStream, write: Callable[[str], None]) -> None:
        self._stream = stream
        self._write = write
        self._tokens: list[int] | None = None  # None until the prompt has come

    def put(self, value: Tensor) -> None:
        if self._tokens is None:
            self._tokens = []
            return
        self._tokens += value.tolist()
        self._write(self._stream.piece(self._tokens))

    def end(self) -> None:
        self._write(self._stream.piece(self._tokens or [], complete=True))


@torch.no_grad()
def fill_mask(config: FillMaskConfig) -> list[list[Candidate]]:
    """The ``top_k`` candidates for each [MASK] of ``text``, most probable first.

    Raises:
        ValueError: a model without a masked-LM head, or a text without a mask.
    """
    device = Accelerator().device
    model, tokenizer = _load(config.model, "masked-lm", config.backend, device)
    ids, segments = tokenizer.build_single(tokenizer.encode(config.text))
    places = [place for place, token in enumerate(ids) if token == tokenizer.mask_id]
    if not places:
        raise ValueError(f"the text has no [MASK]: {config.text!r}")
    batch = PackedBatch.from_sequences([ids], token_type_ids=None if segments is None else [segments]).to(device)
    top = model(batch).logits[places].float().softmax(dim=-1).topk(min(config.top_k, model.config.vocab_size))
    return [
        [Candidate(tokenizer.decode([token]), p) for token, p in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _load(name: str, purpose: str, backend: str | None, device: torch.device) -> tuple[PretrainedModel, Tokenizer]:
    """A model for use, not for training: a head that the checkpoint lacks is an error here."""
    model = load_pretrained(name, purpose, require_head=True)
    model.set_attention_backend(backend)
    return model.to(device), Tokenizer.load(name)


def _task(config: EvaluateConfig | PredictConfig) -> tuple[TaskDefinition[Any, Any], DataOptions]:
    """The task that the configuration names, or the one that the run in the model's directory had."""
    name = config.task
    if name is None:
        record = Path(config.model) / "training.json"
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        name = known.get("task", "classification")
    task, options = task_named(name), DataOptions.of(config)
    task.check_options(options)
    return task, options


def _load_for_task(
    config: EvaluateConfig | PredictConfig, task: TaskDefinition[Any, Any], device: torch.device
) -> tuple[PretrainedModel, Tokenizer]:
    model = load_for_task(config.model, task, require_head=True)
    model.set_attention_backend(config.backend)
    return model.to(device), Tokenizer.load(config.model)
