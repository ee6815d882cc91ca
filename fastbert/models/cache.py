"""Keys and values kept between the steps of a generation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastbert.packing import cumulative_lengths, packed_positions, sequence_index


@dataclass(frozen=True)
class _Step:
    """What a forward adds, until it is through: the bounds of old and new rows together, and who has them by now."""

    cu_seqlens: Tensor
    max_seqlen: int
    total: int
    order: Tensor | None  # (total,) where each row lies in the old rows followed by the new; None: there are no old
    layers: set[int] = field(default_factory=set)


class KeyValueCache:
    """The keys and values of every layer, packed: each sequence's old rows, then its new ones, then the next sequence.

    A forward first calls :meth:`extend` once, which works out where every row goes, then :meth:`append` in each layer
    and :meth:`commit` after the last. One that fails before leaves the cache as it was: the next :meth:`extend` drops
    what it added. No length is read back from the device, and sequences of different lengths take no more room than
    they need. Everything happens in place: the object a forward returns is the one it was given.
    """

    def __init__(self) -> None:
        self.cu_seqlens: Tensor | None = None  # (n + 1,) int32, of the rows held
        self.max_seqlen = 0  # an upper bound, on the host
        self._total = 0
        self._step: _Step | None = None
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def lengths(self) -> Tensor | None:
        """(n,) int32 tokens held of each sequence, or None before the first forward."""
        return None if self.cu_seqlens is None else self.cu_seqlens[1:] - self.cu_seqlens[:-1]

    def positions(self, cu_seqlens: Tensor, total: int) -> Tensor:
        """(total,) int64: the positions of new rows, which count on from what is held."""
        positions = packed_positions(cu_seqlens, total)
        if self.lengths is None:
            return positions
        return positions + self.lengths[_clamped_sequence(cu_seqlens, total)]

    def extend(self, cu_seqlens: Tensor, max_seqlen: int, total: int) -> tuple[Tensor, int]:
        """Make room for ``total`` new rows of the same sequences.

        Returns:
            (n + 1,) int32 cumulative lengths of old and new rows together, and their host-side upper bound.
        """
        self._drop_step()
        if self.cu_seqlens is None:
            self._step = _Step(cu_seqlens, max_seqlen, total, None)
            return cu_seqlens, max_seqlen
        if self.cu_seqlens.numel() != cu_seqlens.numel():
            held, came = self.cu_seqlens.numel() - 1, cu_seqlens.numel() - 1
            raise ValueError(f"past_key_values holds {held} sequences, the input has {came}")
        old_lengths = self.cu_seqlens[1:] - self.cu_seqlens[:-1]
        joined = cumulative_lengths(old_lengths + cu_seqlens[1:] - cu_seqlens[:-1])
        rows = self._total + total
        sequence = _clamped_sequence(joined, rows)
        position = torch.arange(rows, device=joined.device) - joined[sequence]
        old_row = self.cu_seqlens[sequence] + position
        new_row = self._total + cu_seqlens[sequence] + position - old_lengths[sequence]
        order = torch.where(position < old_lengths[sequence], old_row, new_row).clamp(max=rows - 1)
        self._step = _Step(joined, self.max_seqlen + max_seqlen, rows, order)
        return joined, self._step.max_seqlen

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(total, heads, head_dim) new rows -> the rows of everything held, in the order :meth:`extend` announced."""
        step = self._step
        assert step is not None, "extend comes first"
        if step.order is not None:
            old_key, old_value = self._layers[layer]
            key = torch.cat((old_key, key)).index_select(0, step.order)
            value = torch.cat((old_value, value)).index_select(0, step.order)
        self._layers[layer] = (key, value)
        step.layers.add(layer)
        return key, value

    def commit(self) -> None:
        """Every layer has its rows: from here on they count as held."""
        step = self._step
        assert step is not None, "extend comes first"
        self.cu_seqlens, self.max_seqlen, self._total = step.cu_seqlens, step.max_seqlen, step.total
        self._step = None

    def _drop_step(self) -> None:
        """Take out of the layers what a forward added that never came to its end."""
        step = self._step
        if step is None:
            return
        if self.cu_seqlens is None:
            self._layers.clear()
            self._step = None
            return
        # The layers are not kept twice during a forward, which would double the memory: the old rows are all there.
        sequence = _clamped_sequence(self.cu_seqlens, self._total)
        position = torch.arange(self._total, device=self.cu_seqlens.device) - self.cu_seqlens[sequence]
        rows = (step.cu_seqlens[sequence] + position).clamp(max=step.total - 1)
        for layer in tuple(step.layers):  # one by one, so that this too may fail and be tried again
            key, value = self._layers[layer]
            self._layers[layer] = (key.index_select(0, rows), value.index_select(0, rows))
            step.layers.remove(layer)
        self._step = None


def _clamped_sequence(cu_seqlens: Tensor, total: int) -> Tensor:
    return sequence_index(cu_seqlens, total).clamp(max=max(cu_seqlens.numel() - 2, 0))
