"""Packed batches: sequences of different lengths laid end to end, with no padding between them.

Every layer of the library works on packed tokens. A batch of ``n`` sequences with ``total`` tokens is one
``(total, ...)`` tensor plus ``cu_seqlens``, the int32 cumulative lengths ``(n + 1,)``: sequence ``i`` occupies the
rows ``cu_seqlens[i]:cu_seqlens[i + 1]``. Padding exists only at the door of a public ``forward``: :func:`unpad`
removes it once and :func:`repad` restores it for what the caller gets back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""The target of a token or a sequence that has none: what ``torch.nn.functional.cross_entropy`` leaves out."""


@dataclass(frozen=True)
class PackedBatch:
    """What a model's ``forward`` takes: packed tokens, and the targets of whatever head sits on top.

    Shapes are given for ``n`` sequences with ``total`` tokens. All tensors are int64 and live on one device, except
    ``cu_seqlens``, which is int32. ``max_seqlen`` is a host integer and may exceed the longest sequence (a bucket
    size, or the padded width the batch came from), so that nobody has to read a length back from a GPU.

    Attributes:
        input_ids: (total,) token ids.
        cu_seqlens: (n + 1,) int32 cumulative lengths, starting at 0 and ending at ``total``.
        max_seqlen: an upper bound of the sequence lengths.
        position_ids: (total,) position of each token inside its sequence.
        token_type_ids: (total,) segment ids, or None for segment 0 throughout.
        labels: targets; (total,) for token-level heads (unshifted, -100 ignored), (n,) for sequence-level heads
            (float32 for regression), (n / num_choices,) for multiple choice.
        next_sentence_label: (n,) with 0 = B follows A, 1 = B is random.
        start_positions: (n,) first token of the answer, counted inside the sequence.
        end_positions: (n,) last token of the answer, counted inside the sequence.
        num_choices: how many consecutive sequences form one multiple-choice question.
    """

    input_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    position_ids: Tensor
    token_type_ids: Tensor | None = None
    labels: Tensor | None = None
    next_sentence_label: Tensor | None = None
    start_positions: Tensor | None = None
    end_positions: Tensor | None = None
    num_choices: int = 1

    @classmethod
    def from_sequences(
        cls,
        sequences: Sequence[Sequence[int]],
        *,
        token_type_ids: Sequence[Sequence[int]] | None = None,
        token_labels: Sequence[Sequence[int]] | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_choices: int = 1,
    ) -> PackedBatch:
        """Lay token id lists end to end. ``token_labels`` are per token, ``labels`` are per sequence (or neither)."""
        if token_labels is not None and labels is not None:
            raise ValueError("from_sequences: give token_labels or labels, not both")
        lengths = [len(sequence) for sequence in sequences]
        for name, values in (("token_type_ids", token_type_ids), ("token_labels", token_labels)):
            if values is not None and [len(value) for value in values] != lengths:
                raise ValueError(f"from_sequences: {name} must have the lengths of the sequences, {lengths}")
        return cls(
            input_ids=_concatenate(sequences),
            cu_seqlens=cumulative_lengths(torch.tensor(lengths, dtype=torch.int64)),
            max_seqlen=max(lengths, default=0),
            position_ids=_concatenate([range(length) for length in lengths]),
            token_type_ids=None if token_type_ids is None else _concatenate(token_type_ids),
            labels=labels if token_labels is None else _concatenate(token_labels),
            next_sentence_label=next_sentence_label,
            start_positions=start_positions,
            end_positions=end_positions,
            num_choices=num_choices,
        )

    @property
    def num_sequences(self) -> int:
        return self.cu_seqlens.numel() - 1

    @property
    def total_tokens(self) -> int:
        return self.input_ids.numel()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class Padding:
    """Where packed rows sit in a padded (batch, seq) layout.

    Attributes:
        indices: (total,) int64, ``row * seq + column`` of every token kept, in row-major order.
        cu_seqlens: (batch + 1,) int32.
        batch: number of padded rows.
        seq: padded width, which serves as ``max_seqlen``.
    """

    indices: Tensor
    cu_seqlens: Tensor
    batch: int
    seq: int

    @classmethod
    def from_mask(cls, attention_mask: Tensor) -> Padding:
        """From a (batch, seq) mask whose nonzero entries are tokens, on whichever side the padding is."""
        if attention_mask.dim() != 2:
            raise ValueError(f"attention_mask must be (batch, seq), got shape {tuple(attention_mask.shape)}")
        keep = attention_mask != 0
        batch, seq = keep.shape
        return cls(keep.flatten().nonzero().flatten(), cumulative_lengths(keep.sum(dim=1)), batch, seq)

    @classmethod
    def none(cls, batch: int, seq: int, device: torch.device) -> Padding:
        """Of a batch in which every position is a token; nothing is read back from the device."""
        cu_seqlens = torch.arange(batch + 1, dtype=torch.int32, device=device) * seq
        return cls(torch.arange(batch * seq, device=device), cu_seqlens, batch, seq)


def unpad(x: Tensor, padding: Padding) -> Tensor:
    """(batch, seq, ...) -> (total, ...): keep the rows that are tokens."""
    return x.flatten(0, 1).index_select(0, padding.indices)


def repad(x: Tensor, padding: Padding) -> Tensor:
    """(total, ...) -> (batch, seq, ...): the inverse of :func:`unpad`, zeros where there is padding."""
    padded = x.new_zeros(padding.batch * padding.seq, *x.shape[1:])
    return padded.index_copy(0, padding.indices, x).view(padding.batch, padding.seq, *x.shape[1:])


def cumulative_lengths(lengths: Tensor) -> Tensor:
    """(n,) lengths -> (n + 1,) int32 ``cu_seqlens``."""
    cu_seqlens = torch.zeros(lengths.numel() + 1, dtype=torch.int32, device=lengths.device)
    cu_seqlens[1:] = lengths.cumsum(0)
    return cu_seqlens


def sequence_index(cu_seqlens: Tensor, total: int) -> Tensor:
    """(total,) int64: which sequence each packed row belongs to; ``n`` for rows past ``cu_seqlens[-1]``."""
    rows = torch.arange(total, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), rows, right=True)


def packed_positions(cu_seqlens: Tensor, total: int) -> Tensor:
    """(total,) int64: the position of each packed row inside its own sequence."""
    starts = cu_seqlens.index_select(0, sequence_index(cu_seqlens, total).clamp(max=max(cu_seqlens.numel() - 2, 0)))
    return torch.arange(total, device=cu_seqlens.device) - starts


def select_first(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(total, ...) -> (n, ...): the first row of each sequence, zeros for an empty one."""
    return _select_edge(x, cu_seqlens[:-1], cu_seqlens)


def select_last(x: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(total, ...) -> (n, ...): the last row of each sequence, zeros for an empty one."""
    return _select_edge(x, cu_seqlens[1:] - 1, cu_seqlens)


def _select_edge(x: Tensor, rows: Tensor, cu_seqlens: Tensor) -> Tensor:
    # A graph is traced for any number of rows: to ask whether there are none would break it.
    if not torch.compiler.is_compiling() and x.shape[0] == 0:
        return x.new_zeros(rows.numel(), *x.shape[1:])
    selected = x.index_select(0, rows.clamp(0, x.shape[0] - 1))
    occupied = (cu_seqlens[1:] > cu_seqlens[:-1]).view(-1, *[1] * (x.dim() - 1))
    return torch.where(occupied, selected, torch.zeros_like(selected))


def _concatenate(sequences: Sequence[Sequence[int]] | Sequence[range]) -> Tensor:
    return torch.tensor([value for sequence in sequences for value in sequence], dtype=torch.int64)
