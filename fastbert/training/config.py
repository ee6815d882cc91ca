"""Configuration of pretraining and fine-tuning: dataclasses that are also the command line.

Both calls share :class:`TrainingConfig`; each adds the few fields that the other has no use for. Values are checked
when the object is made, so that a mistake costs a sentence and not an hour.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from fastbert.training.tasks import DataOptions, task_named

Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["linear", "cosine", "constant"]


@dataclass
class TrainingConfig:
    """Fields that pretraining and fine-tuning have in common.

    Attributes:
        model: a directory; for pretraining also a preset such as "bert-base", for fine-tuning also a hub id.
        output: directory of the run: configuration, metrics, checkpoints and the final model.
        seed: decides weights, data order, masks and dropout.
        precision: "bf16" is autocast over float32 master weights, "fp32" is float32 throughout, "auto" is bf16 where
            the hardware multiplies it natively.
        tokens_per_batch: tokens of one micro-batch on one process, padding not counted (there is none).
        gradient_accumulation: micro-batches a process adds up for one optimizer step.
        max_length: longest sequence in tokens; longer texts are cut.
        steps: optimizer steps of the run; exclusive with ``epochs``.
        epochs: passes over the training data, counted in steps of the first one; exclusive with ``steps``. Without
            either, pretraining makes 1 and fine-tuning 3.
        learning_rate: the peak.
        warmup: steps of linear warm-up; a value below 1 is a fraction of the run (0.1 a tenth, 1 one step).
        schedule: what follows the warm-up; "linear" and "cosine" end at 0.
        weight_decay: decoupled; biases, norms and other vectors have none.
        clip: largest gradient norm; 0 turns clipping off.
        dropout: every dropout probability of the model; None keeps the model's own.
        eval_every: steps between evaluations; None: a tenth of the run in pretraining, an epoch in fine-tuning.
        save_every: steps between checkpoints; None: at each evaluation, a tenth of the run or 1,000, whichever is
            least. A new best model is always saved.
        keep: checkpoints kept; older ones are removed.
        resume: continue from the last checkpoint in ``output``.
        log_to: "tensorboard", another tracker that accelerate knows, or "none". ``metrics.jsonl`` is always written.
        backend: attention backend; None lets the library choose.
        compile: run the model through torch.compile.
        gradient_checkpointing: recompute activations in the backward, for memory.
    """

    model: str | Path
    output: str | Path
    seed: int = 0
    precision: Precision = "auto"
    tokens_per_batch: int = 4096
    gradient_accumulation: int = 1
    max_length: int = 128
    steps: int | None = None
    epochs: float | None = None
    learning_rate: float = 1e-4
    warmup: float = 0.1
    schedule: Schedule = "linear"
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float | None = None
    eval_every: int | None = None
    save_every: int | None = None
    keep: int = 2
    resume: bool = False
    log_to: str = "tensorboard"
    backend: str | None = None
    compile: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):  # paths may come as pathlib's; a configuration is plain JSON
            if isinstance(value := getattr(self, entry.name), Path):
                setattr(self, entry.name, str(value))
        require(bool(self.model), "model", self.model, "a preset name or a directory")
        require(bool(self.output), "output", self.output, "a directory to write to")
        for name in ("tokens_per_batch", "gradient_accumulation", "keep", "eval_every", "save_every", "steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        require(self.max_length >= 8, "max_length", self.max_length, "at least 8 tokens")
        require(self.epochs is None or self.epochs > 0, "epochs", self.epochs, "greater than 0")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "greater than 0")
        for name in ("warmup", "weight_decay", "clip"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        require(self.precision in get_args(Precision), "precision", self.precision, '"auto", "bf16" or "fp32"')
        choices = '"linear", "cosine" or "constant"'
        require(self.schedule in get_args(Schedule), "schedule", self.schedule, choices)
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps ({self.steps}) and epochs ({self.epochs}) exclude each other: give one of the two")

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass
class Phase:
    """A stretch of pretraining at one sequence length: BERT's 90% at 128 tokens, then 10% at 512."""

    steps: int
    max_length: int

    def __post_init__(self) -> None:
        require(self.steps >= 1, "phases.steps", self.steps, "at least 1")
        require(self.max_length >= 8, "phases.max_length", self.max_length, "at least 8 tokens")


@dataclass
class PretrainConfig(TrainingConfig):
    """Pretrain BERT (masked LM, next sentence) or GPT (causal LM) on text files.

    Attributes:
        corpus: one or more files or globs: .txt (one sentence a line, blank line between documents) or .jsonl (a
            "text" a line), each also gzipped.
        tokenizer: directory of a tokenizer to use; None trains one on the corpus.
        vocab_size: size of the vocabulary trained.
        lowercase: fold case in a vocabulary trained for BERT.
        sentence_split: where sentences end in a document: at "line" ends, or by "regex" inside running text.
        held_out: fraction of the documents kept for evaluation, at most a half.
        mask_probability: share of the tokens that masked LM predicts.
        max_predictions: most tokens of a sequence that it predicts; None for no such bound.
        whole_word: mask all pieces of a word together.
        next_sentence: train BERT on sentence pairs with the next-sentence loss.
        short_probability: share of BERT examples with a random shorter length.
        phases: stretches at other sequence lengths, in order; empty: the whole run at ``max_length``.
    """

    corpus: list[str] | str | Path = field(default_factory=list)
    tokenizer: str | Path | None = None
    vocab_size: int = 30522
    lowercase: bool = True
    sentence_split: Literal["line", "regex"] = "line"
    held_out: float = 0.05
    mask_probability: float = 0.15
    max_predictions: int | None = None
    whole_word: bool = False
    next_sentence: bool = True
    short_probability: float = 0.1
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.corpus = self.corpus_patterns
        if self.phases and (self.steps is not None or self.epochs is not None):
            raise ValueError("phases carry their own steps: leave steps and epochs out")
        if self.steps is None and self.epochs is None and not self.phases:
            self.epochs = 1.0
        super().__post_init__()
        if not self.corpus:
            raise ValueError("corpus is empty: name at least one .txt or .jsonl file or glob")
        require(0 < self.mask_probability < 1, "mask_probability", self.mask_probability, "in (0, 1)")
        most = self.max_predictions
        require(most is None or most >= 1, "max_predictions", most, "at least 1")
        require(0 <= self.short_probability <= 1, "short_probability", self.short_probability, "in [0, 1]")
        require(0 < self.held_out <= 0.5, "held_out", self.held_out, "in (0, 0.5]")
        require(self.vocab_size >= 300, "vocab_size", self.vocab_size, "at least 300 (all bytes and special tokens)")

    @property
    def corpus_patterns(self) -> list[str]:
        """``corpus`` as a list, whichever way it was given."""
        return [str(self.corpus)] if isinstance(self.corpus, str | Path) else [str(name) for name in self.corpus]


@dataclass
class FinetuneConfig(TrainingConfig):
    """Fine-tune a pretrained BERT or GPT on labelled text.

    Attributes:
        task: what to learn. "classification" labels a text or a pair of texts and "regression" gives it a number;
            "paraphrase" and "similarity" do so for pairs whose order means nothing; "tagging" labels every word;
            "multiple_choice" finds the right continuation or answer, "question_answering" the answer in a context;
            "retrieval" makes embeddings by which a text finds its partner; "glue/mrpc" and its like are GLUE's nine.
        train: the training file. .csv, .tsv or .jsonl with a header (or keys) for texts; a CoNLL column file for
            tagging; SWAG's or Story Cloze's .csv, RACE's files or their directory, or .jsonl (context, choices, label)
            for multiple choice; SQuAD's .json (1.1 or 2.0) for question answering; GLUE's own .tsv. Or a data set of
            the Hugging Face hub, hf://[owner/]name[/configuration][:split], by default its split of this name.
        validation: file of the same form, for the metric and the choice of the best checkpoint.
        test: file of the same form, measured once with the final model.
        text_column: column of the text.
        text_pair_column: column of a second text, if the task has pairs.
        label_column: column of the label: strings or integers, numbers for regression.
        token_column: column of the words in a column file, counted from 0, or from the last one with -1.
        tag_column: column of the tags in a column file, likewise.
        stride: tokens from the beginning of a window over a long context to that of the next.
        max_answer_length: most tokens of an answer.
        null_threshold: how much better no answer must score than the best answer to be given, in SQuAD 2.0.
        lm_weight: weight of the auxiliary language-model loss (GPT); None: 0.5 for GPT, none for BERT.
        metric: what chooses the best checkpoint: "loss", or a metric of the task, such as "accuracy" or "f1"; None:
            the task's first one.
        early_stopping: stop after this many evaluations without a better metric; None never stops early.
    """

    task: str = "classification"
    train: str | Path = ""
    validation: str | Path | None = None
    test: str | Path | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    token_column: int = 0
    tag_column: int = -1
    stride: int = 128
    max_answer_length: int = 30
    null_threshold: float = 0.0
    lm_weight: float | None = None
    metric: str | None = None
    early_stopping: int | None = None

    learning_rate: float = 5e-5  # what is trained already wants smaller steps than the shared default

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            self.epochs = 3.0
        super().__post_init__()
        task = task_named(self.task)
        task.check_options(DataOptions.of(self))
        require(bool(self.train), "train", self.train, "a file of the task")
        metrics = (*task.metrics, "loss")
        allowed = ", ".join(f'"{name}"' for name in metrics)
        require(self.metric is None or self.metric in metrics, "metric", self.metric, f"{allowed} for {task.name}")
        require(self.lm_weight is None or self.lm_weight >= 0, "lm_weight", self.lm_weight, "0 or more")
        require(
            self.early_stopping is None or self.early_stopping >= 1, "early_stopping", self.early_stopping, "1 or more"
        )
        if self.early_stopping is not None and self.validation is None:
            raise ValueError("early_stopping needs a validation file")


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        output: the run's directory; it holds the final model and loads with ``from_pretrained``.
        steps: optimizer steps done in all.
        tokens: training tokens processed by this call.
        train_seconds: time this call spent in training steps (evaluation and saving not counted).
        initial: metrics on the held-out data before the first step ({} without held-out data).
        final: metrics of the model that was kept.
        test: metrics on ``test`` ({} without one).
    """

    output: Path
    steps: int
    tokens: int
    train_seconds: float
    initial: dict[str, float]
    final: dict[str, float]
    test: dict[str, float]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.train_seconds if self.train_seconds > 0 else 0.0


def require(condition: bool, name: str, value: Any, allowed: str) -> None:
    """ValueError that names a field, what came and what is allowed, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}")
