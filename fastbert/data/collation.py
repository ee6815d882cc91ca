"""Examples to a packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastbert.data.examples import Example
from fastbert.packing import PackedBatch


def collate(examples: Sequence[Example]) -> PackedBatch:
    """Lay examples end to end, on the CPU.

    A field is filled when every example has it and left None when none has; anything between is an error. Integer
    ``label`` values become int64 ``labels`` (n,), values with a float among them float32. Groups of sequences become
    ``num_choices`` consecutive sequences with one label.

    Raises:
        ValueError: no examples, a field that only some examples have, both ``labels`` and ``label``, or groups of
            different sizes.
    """
    if not examples:
        raise ValueError("collate: at least one example is needed")
    labels = _tokens(examples, "labels")
    label = _scalars(examples, "label")
    if labels is not None and label is not None:
        raise ValueError("collate: examples have labels per token and a label per sequence, one kind is allowed")
    lengths, num_choices = _sequence_lengths(examples)
    cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=cu_seqlens[1:])
    positions = np.arange(cu_seqlens[-1], dtype=np.int64) - np.repeat(cu_seqlens[:-1], lengths)
    return PackedBatch(
        input_ids=torch.from_numpy(np.concatenate([example.input_ids for example in examples])),
        cu_seqlens=torch.from_numpy(cu_seqlens.astype(np.int32)),
        max_seqlen=int(lengths.max()),
        position_ids=torch.from_numpy(positions),
        token_type_ids=_tokens(examples, "token_type_ids"),
        labels=labels if label is None else label,
        next_sentence_label=_scalars(examples, "next_sentence_label"),
        start_positions=_scalars(examples, "start_position"),
        end_positions=_scalars(examples, "end_position"),
        num_choices=num_choices,
    )


def _sequence_lengths(examples: Sequence[Example]) -> tuple[npt.NDArray[np.int64], int]:
    """Tokens of every sequence, and how many sequences an example has."""
    groups: list[tuple[int, ...]] = _present(examples, "sequence_lengths")
    if not groups:
        return np.array([len(example) for example in examples], dtype=np.int64), 1
    sizes = sorted({len(group) for group in groups})
    if len(sizes) > 1:
        raise ValueError(f"collate: groups of {' and '.join(map(str, sizes))} sequences, one size is allowed")
    return np.array(groups, dtype=np.int64).ravel(), sizes[0]


def _tokens(examples: Sequence[Example], name: str) -> Tensor | None:
    values: list[npt.NDArray[np.int64]] = _present(examples, name)
    return torch.from_numpy(np.concatenate(values)) if values else None


def _scalars(examples: Sequence[Example], name: str) -> Tensor | None:
    values: list[int | float] = _present(examples, name)
    if not values:
        return None
    return torch.tensor(values, dtype=torch.float32 if any(isinstance(v, float) for v in values) else torch.int64)


def _present(examples: Sequence[Example], name: str) -> list:  # type: ignore[type-arg]
    values = [value for example in examples if (value := getattr(example, name)) is not None]
    if len(values) not in (0, len(examples)):
        raise ValueError(f"collate: {len(values)} of {len(examples)} examples have {name}, all or none must")
    return values
