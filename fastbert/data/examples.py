"""One training example, and what every set of examples can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Example:
    """The token ids of one sequence, or of a group of them that has one answer, and its targets.

    Token-level fields may be given as any sequence of integers and are stored as int64 arrays of one length.

    Attributes:
        input_ids: (length,) token ids with the special tokens; those of a group lie end to end.
        token_type_ids: (length,) segment ids, or None.
        labels: (length,) targets per token, unshifted, -100 ignored, or None.
        label: the class (int) or value (float) of the sequence or the group, or None.
        next_sentence_label: 0 = B follows A, 1 = B is random, or None.
        start_position: the answer's first token, counted in the sequence, or None.
        end_position: the answer's last token, likewise.
        sequence_lengths: tokens of each sequence of a group (the choices of a question, both orders of a pair), or
            None for one sequence.
    """

    input_ids: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64] | None = None
    labels: npt.NDArray[np.int64] | None = None
    label: int | float | None = None
    next_sentence_label: int | None = None
    start_position: int | None = None
    end_position: int | None = None
    sequence_lengths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("input_ids", "token_type_ids", "labels"):
            value: Sequence[int] | npt.NDArray[np.int64] | None = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value, dtype=np.int64)
            if array.ndim != 1 or (name != "input_ids" and array.shape != self.input_ids.shape):
                raise ValueError(f"Example: {name} has shape {array.shape}, input_ids {np.shape(self.input_ids)}")
            object.__setattr__(self, name, array)
        if self.sequence_lengths is not None and sum(self.sequence_lengths) != len(self):
            raise ValueError(
                f"Example: sequence_lengths {self.sequence_lengths} do not sum up to the {len(self)} tokens"
            )

    def __len__(self) -> int:
        return int(self.input_ids.size)


class EpochView(Protocol):
    """The examples of one epoch; ``view[i]`` depends on nothing but the seed, the epoch and ``i``."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(len(view),) number of tokens of every example, known without building it."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Examples(Protocol):
    """A set of examples that may look different in every epoch."""

    def epoch(self, epoch: int) -> EpochView:
        """The examples of epoch ``epoch`` (0, 1, ...)."""
        ...


class FixedExamples:
    """Examples that are the same in every epoch, each built once.

    Attributes:
        lengths: (len(self),) int64 tokens of every example.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.lengths: npt.NDArray[np.int64] = np.array([len(example) for example in examples], dtype=np.int64)

    def epoch(self, epoch: int) -> FixedExamples:
        """These examples, whatever the epoch."""
        return self

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]
