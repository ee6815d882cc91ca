"""What a fine-tuning task is: one description that finetune, evaluate and predict share, for BERT and GPT alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fastbert.data import EpochView, Tokenizer
from fastbert.data.hub_datasets import local_file
from fastbert.data.hub_forms import FileForm
from fastbert.models import TransformerConfig
from fastbert.packing import PackedBatch

Record = TypeVar("Record")
RecordIn = TypeVar("RecordIn", contravariant=True)
Predicted = TypeVar("Predicted")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DataOptions:
    """How a task's files are read and its records are cut: fields of the same names in the configurations.

    Attributes:
        max_length: longest sequence in tokens.
        text_column: column of the text.
        text_pair_column: column of a second text, or None.
        label_column: column of the label.
        token_column: column of the words in a column file, counted from 0 or, negative, from the end.
        tag_column: column of the tags, likewise.
        stride: tokens from one window over a long context to the next.
        max_answer_length: most tokens of an answer.
        null_threshold: how much better no answer must score than the best one.
    """

    max_length: int = 128
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    token_column: int = 0
    tag_column: int = -1
    stride: int = 128
    max_answer_length: int = 30
    null_threshold: float = 0.0

    @classmethod
    def of(cls, config: Any) -> DataOptions:
        """The options that a configuration has, with defaults for those it does not."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(config, name) for name in names if hasattr(config, name)})


Writer: TypeAlias = Callable[[Path, Sequence[Any], Sequence[Any]], None]
"""Writes the predictions of records into a file: its path, the records, the predictions."""


def no_companions(records: Sequence[object]) -> Mapping[str, Writer]:
    """No file but the one."""
    return {}


class TaskExamples(EpochView, Protocol):
    """Examples that are the same in every epoch. A record may have become several of them."""

    def epoch(self, epoch: int) -> EpochView: ...


class Encode(Protocol[RecordIn]):
    """Records to examples.

    Args: the records, the tokenizer, the model's configuration (family and labels), the options, and whether the
    examples get targets. DataError, with the place of the record, for one that cannot be encoded.
    """

    def __call__(
        self,
        records: Sequence[RecordIn],
        tokenizer: Tokenizer,
        model_config: TransformerConfig,
        options: DataOptions,
        *,
        labelled: bool,
    ) -> TaskExamples: ...


@dataclass(frozen=True)
class TaskDefinition(Generic[Record, Predicted]):
    """A task from its files to its predictions. ``finetune``, ``evaluate`` and ``predict`` know nothing else of it.

    A task is read from files into records, its records are encoded into examples, a model gives every example a raw
    output, and the outputs of all examples together become a prediction for every record. Metrics compare records
    with predictions, so they count records and not what a model happened to be given.

    Attributes:
        name: what ``task=`` is called.
        options: the names of the :class:`DataOptions`, beside ``max_length``, that the task reads.
        suffixes: endings of the files that ``write`` writes; () for any.
        metrics: what may choose the best model, beside "loss"; the first one is the default.
        purpose: with the family it names the model class: :func:`fastbert.models.architecture`.
        causal_purpose: where GPT has a class of another purpose, its name.
        metrics_for: those of ``metrics`` that ``measure`` gives with a model's labels; None for all of them.
        read: records of a file, with their labels or without.
        hub_form: the form of file that a data set of the Hugging Face hub is laid down in, to be read.
        head: what the training records decide of the model's configuration: ``id2label``, ``num_labels`` ...
        encode: see :class:`Encode`.
        outputs: what the model answered to a batch, one array for each example of the batch.
        predict: a prediction for each record, from the records, their examples, the examples' outputs in order, and
            the model's configuration.
        measure: metrics of predictions against the records' labels, by name.
        write: writes the predictions of records into a file, in the task's own format.
        companions: further files of predictions for these records: their endings, in place of the first one's, and what
            writes them.
    """

    name: str
    options: frozenset[str]
    suffixes: tuple[str, ...]
    metrics: tuple[str, ...]
    purpose: str
    read: Callable[[str, DataOptions, bool], list[Record]]
    hub_form: FileForm
    head: Callable[[Sequence[Record]], Mapping[str, Any]]
    encode: Encode[Record]
    outputs: Callable[[Any, PackedBatch], list[Array]]
    predict: Callable[[Sequence[Record], Any, Sequence[Array], TransformerConfig], list[Predicted]]
    measure: Callable[[Sequence[Record], Sequence[Predicted], TransformerConfig], dict[str, float]]
    write: Writer
    companions: Callable[[Sequence[Record]], Mapping[str, Writer]] = no_companions
    causal_purpose: str | None = None
    metrics_for: Callable[[TransformerConfig], tuple[str, ...]] | None = None

    def records(self, name: str, options: DataOptions, *, split: str, labelled: bool = True) -> list[Record]:
        """The records of a file, or of a data set ``hf://...``, of ``split`` where its name has none."""
        return self.read(local_file(name, self.hub_form, split), options, labelled)

    def purpose_for(self, *, causal: bool) -> str:
        """The purpose of the model class that learns the task."""
        return self.causal_purpose if causal and self.causal_purpose is not None else self.purpose

    def choose_metric(self, wanted: str | None, model_config: TransformerConfig) -> str:
        """``wanted``, or the task's own; ValueError where it cannot be measured with the model's labels."""
        metrics = self.metrics if self.metrics_for is None else self.metrics_for(model_config)
        if wanted is not None and wanted not in (*metrics, "loss"):
            raise ValueError(f"metric is {wanted!r}; allowed with these labels: {', '.join((*metrics, 'loss'))}")
        return wanted or metrics[0]

    def check_options(self, options: DataOptions) -> None:
        """ValueError for an option that was set and that the task has no use for."""
        for field in dataclasses.fields(DataOptions):
            value = getattr(options, field.name)
            if field.name not in self.options | {"max_length"} and value != field.default:
                raise ValueError(
                    f"{field.name} is {value!r}, which task {self.name!r} does not read; allowed: leave it out"
                )

    def check_output(self, output: Path) -> None:
        """ValueError for a file that the predictions cannot be written to."""
        if self.suffixes and output.suffix not in self.suffixes:
            allowed = ", ".join(self.suffixes[:-1]) + " or " * (len(self.suffixes) > 1) + self.suffixes[-1]
            raise ValueError(f"output {output} must end in {allowed}")


def label_names(config: TransformerConfig) -> list[str]:
    """The names of a model's labels in the order of their classes; LABEL_0, LABEL_1, ... where it has none."""
    names = config.id2label
    return [names[i] if names else f"LABEL_{i}" for i in range(config.num_labels)]


def label_overrides(label2id: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a model's configuration that name its labels."""
    return {
        "problem_type": None,  # a checkpoint may have had another
        "num_labels": len(label2id),
        "id2label": {i: label for label, i in label2id.items()},
        "label2id": dict(label2id),
    }


def logit_rows(output: Any, batch: PackedBatch) -> list[Array]:
    """The float32 logits (classes,) of every example of a sequence-level head."""
    logits: Array = output.logits.float().cpu().numpy()
    return list(logits)


def softmax(logits: Array) -> Array:
    """Probabilities along the last axis, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities
