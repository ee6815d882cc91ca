"""One training example, and what every set of examples can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Example:
    """The token ids of one sequence and its targets.

    Token-level fields may be given as any sequence of integers and are stored as int64 arrays of one length.

    Attributes:
        input_ids: (length,) token ids with the special tokens.
        token_type_ids: (length,) segment ids, or None.
        labels: (length,) targets per token, unshifted, -100 ignored, or None.
        label: the sequence's class (int) or value (float), or None.
        next_sentence_label: 0 = B follows A, 1 = B is random, or None.
    """

    input_ids: npt.NDArray[np.int64]
    token_type_ids: npt.NDArray[np.int64] | None = None
    labels: npt.NDArray[np.int64] | None = None
    label: int | float | None = None
    next_sentence_label: int | None = None

    def __post_init__(self) -> None:
        for name in ("input_ids", "token_type_ids", "labels"):
            value: Sequence[int] | npt.NDArray[np.int64] | None = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value, dtype=np.int64)
            if array.ndim != 1 or (name != "input_ids" and array.shape != self.input_ids.shape):
                raise ValueError(f"Example: {name} has shape {array.shape}, input_ids {np.shape(self.input_ids)}")
            object.__setattr__(self, name, array)

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
