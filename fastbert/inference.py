"""Using trained models: evaluate and predict labels, fill masks, continue prompts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from fastbert.data import TextClassificationExamples, TextStream, Tokenizer, collate, read_records, token_budget_batches
from fastbert.files import replaced
from fastbert.models import GenerationConfig, GPTForPreTraining, PretrainedModel, load_pretrained
from fastbert.packing import PackedBatch
from fastbert.training.config import require
from fastbert.training.evaluation import evaluate_classification


@dataclass
class EvaluateConfig:
    """Measure a fine-tuned model on labelled text.

    Attributes:
        model: directory of the fine-tuned model.
        data: .csv, .tsv or .jsonl file with labels.
        text_column: column of the text.
        text_pair_column: column of a second text, if the task has pairs.
        label_column: column of the label.
        max_length: longest sequence in tokens; longer texts are cut.
        tokens_per_batch: tokens computed at a time.
        backend: attention backend; None lets the library choose.
    """

    model: str
    data: str
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    max_length: int = 128
    tokens_per_batch: int = 8192
    backend: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_length", "tokens_per_batch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


@dataclass
class PredictConfig:
    """Label texts with a fine-tuned model.

    Attributes:
        model: directory of the fine-tuned model.
        input: .csv, .tsv or .jsonl file; it needs no labels.
        output: .csv, .tsv or .jsonl file to write: label and probability of each text, in the input's order.
        text_column: column of the text.
        text_pair_column: column of a second text, if the task has pairs.
        max_length: longest sequence in tokens; longer texts are cut.
        tokens_per_batch: tokens computed at a time.
        backend: attention backend; None lets the library choose.
    """

    model: str
    input: str
    output: str
    text_column: str = "text"
    text_pair_column: str | None = None
    max_length: int = 128
    tokens_per_batch: int = 8192
    backend: str | None = None

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


@dataclass(frozen=True)
class Prediction:
    """The most probable label of a text."""

    label: str
    probability: float


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Loss, accuracy and macro F1 of a fine-tuned model on ``data``.

    Raises:
        ValueError: a model without a classification head, or data that cannot be used.
    """
    accelerator = Accelerator()
    model, tokenizer = _load(config.model, "classification", config.backend, accelerator.device)
    records = read_records(
        config.data,
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        label_column=config.label_column,
    )
    label2id = {label: i for i, label in enumerate(_label_names(model))}
    examples = TextClassificationExamples(records, tokenizer, label2id, config.max_length)
    return evaluate_classification(model, examples, tokens_per_batch=config.tokens_per_batch, accelerator=accelerator)


@torch.no_grad()
def predict(config: PredictConfig) -> list[Prediction]:
    """Label every text of ``input`` and write the labels to ``output``.

    Raises:
        ValueError: a model without a classification head, data that cannot be used, or an unknown output format.
    """
    output = Path(config.output)
    if output.suffix not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"output {output} must end in .csv, .tsv or .jsonl")
    device = Accelerator().device
    model, tokenizer = _load(config.model, "classification", config.backend, device)
    records = read_records(
        config.input, text_column=config.text_column, text_pair_column=config.text_pair_column, label_column=None
    )
    examples = TextClassificationExamples(records, tokenizer, None, config.max_length)
    labels = _label_names(model)
    predictions: dict[int, Prediction] = {}
    for indices in token_budget_batches(examples.lengths, config.tokens_per_batch, seed=0, epoch=0, shuffle=False):
        logits = model(collate([examples[i] for i in indices]).to(device)).logits
        best = logits.float().softmax(dim=-1).max(dim=-1)
        for index, label, probability in zip(indices, best.indices.tolist(), best.values.tolist(), strict=True):
            predictions[index] = Prediction(labels[label], probability)
    ordered = [predictions[i] for i in range(len(records))]
    _write_predictions(output, ordered)
    return ordered


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


def _label_names(model: PretrainedModel) -> list[str]:
    names = model.config.id2label
    return [names[i] if names else f"LABEL_{i}" for i in range(model.config.num_labels)]


def _write_predictions(output: Path, predictions: Iterable[Prediction]) -> None:
    with replaced(output) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        if output.suffix == ".jsonl":
            for prediction in predictions:
                file.write(json.dumps({"label": prediction.label, "probability": prediction.probability}) + "\n")
        else:
            writer = csv.writer(file, delimiter="," if output.suffix == ".csv" else "\t", lineterminator="\n")
            writer.writerow(("label", "probability"))
            writer.writerows((p.label, f"{p.probability:.6f}") for p in predictions)
