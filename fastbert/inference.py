"""Using trained models: evaluate and predict labels, fill masks, continue prompts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from fastbert.data import TextClassificationExamples, Tokenizer, collate, read_records, token_budget_batches
from fastbert.files import replaced
from fastbert.models import GPTForPreTraining, PretrainedModel, load_pretrained
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


@dataclass
class GenerateConfig:
    """Continue a prompt with a GPT, greedily.

    Attributes:
        model: directory of the model, or a hub id.
        prompt: the text to continue.
        max_new_tokens: most tokens to add; an end-of-text token ends earlier.
        backend: attention backend; None lets the library choose.
    """

    model: str
    prompt: str
    max_new_tokens: int = 40
    backend: str | None = None

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")


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
def generate(config: GenerateConfig) -> str:
    """The continuation of ``prompt``, without the prompt.

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
    prompt = torch.tensor([ids], device=device)
    produced = model.generate(prompt, max_new_tokens=config.max_new_tokens, eos_token_id=tokenizer.eos_id)
    return tokenizer.decode(produced[0, len(ids) :].tolist())


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
