"""Keys and values kept between the steps of a generation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastbert.packing import cumulative_lengths, packed_positions, sequence_index


@dataclass(frozen=True)
class _Layout:
    """Where each sequence's rows begin in a buffer. One more row, the last, takes what belongs to no sequence."""

    starts: Tensor  # (n,) int64
    rows: int

    @classmethod
    def with_room(cls, lengths: Tensor, total: int, room: int) -> _Layout:
        """Sequences of these lengths, ``total`` rows at most, each followed by ``room`` rows."""
        lengths = lengths.long()
        starts = lengths.cumsum(0) - lengths + room * torch.arange(lengths.numel(), device=lengths.device)
        return cls(starts, total + room * lengths.numel() + 1)

    def select(self, index: Tensor) -> _Layout:
        return _Layout(self.starts[index], self.rows)


@dataclass
class _Layer:
    """(layout.rows, heads, head_dim) keys and values of one layer, and where they lie."""

    key: Tensor
    value: Tensor
    layout: _Layout


@dataclass(frozen=True)
class _Step:
    """What a forward adds, until it is through."""

    lengths: Tensor  # (n,) int32, old and new rows together
    max_seqlen: int  # an upper bound of them
    new_max_seqlen: int  # an upper bound of the new rows of a sequence
    total: int  # of all sequences
    target: Tensor  # (new,) where each new row goes


class KeyValueCache:
    """The keys and values of every layer: each sequence's rows and the room it may still grow into, then the next.

    A step writes its rows into the room and moves nothing. What lies between the sequences is no padding to compute
    on: attention is told of it as sequences that have keys and no queries (:meth:`extend`), for which no kernel does
    anything. When the room is used up, every sequence gets new room as long as the longest of them, so that a row is
    moved a few times in all; a caller who knows how much will come says so and nothing is ever moved. Against a dense
    (n, capacity) buffer this saves what shorter sequences do not need, in memory and in work.

    A forward first calls :meth:`extend` once, then :meth:`append` in each layer and :meth:`commit` after the last. One
    that fails before leaves the cache as it was, since the room belongs to nobody yet. No length is read back from the
    device by these three. The object a forward returns is the one it was given.

    Args:
        room: rows to reserve for each sequence beyond those of the first forward.
    """

    def __init__(self, room: int = 0) -> None:
        self.lengths: Tensor | None = None  # (n,) int32 tokens held of each sequence; None before the first forward
        self.max_seqlen = 0  # an upper bound of the lengths, on the host
        self._room = room  # left to every sequence
        self._gap = room  # an upper bound of the rows between two sequences
        self._total = 0  # an upper bound of the sum of the lengths
        self._layout: _Layout | None = None  # of the next step; a layer that is not there yet moves when it appends
        self._layers: dict[int, _Layer] = {}
        self._step: _Step | None = None

    def positions(self, cu_seqlens: Tensor, total: int) -> Tensor:
        """(total,) int64: the positions of new rows, which count on from what is held."""
        positions = packed_positions(cu_seqlens, total)
        if self.lengths is None:
            return positions
        return positions + self.lengths[_clamped_sequence(cu_seqlens, total)]

    def extend(self, cu_seqlens: Tensor, max_seqlen: int, total: int) -> tuple[Tensor, Tensor, int]:
        """Make room for ``total`` new rows of the same sequences.

        Returns:
            For :func:`~fastbert.ops.attention_varlen`: the int32 cumulative lengths of the queries, those of the keys
            that :meth:`append` will return, and an upper bound of the lengths of the latter. In the first forward both
            are ``cu_seqlens``; later every sequence is preceded by one without queries, whose keys are the gap.
        """
        came = cu_seqlens[1:] - cu_seqlens[:-1]
        if self.lengths is None:
            self._layers.clear()  # of a first forward that failed
            self._layout = _Layout.with_room(came, total, self._room)
            target = _rows(self._layout, torch.zeros_like(came), cu_seqlens, total)
            self._step = _Step(came, max_seqlen, 0, total, target)
            return cu_seqlens, cu_seqlens, max_seqlen
        if self.lengths.numel() != came.numel():
            raise ValueError(f"past_key_values holds {self.lengths.numel()} sequences, the input has {came.numel()}")
        if max_seqlen > self._room:
            self._move(max(max_seqlen, self.max_seqlen))
        assert self._layout is not None
        lengths, longest = self.lengths + came, self.max_seqlen + max_seqlen
        target = _rows(self._layout, self.lengths, cu_seqlens, total)
        self._step = _Step(lengths, longest, max_seqlen, self._total + total, target)
        starts = self._layout.starts.int()
        queries = torch.stack((cu_seqlens[:-1], cu_seqlens[1:]), dim=1).flatten()
        keys = torch.stack((starts, starts + lengths), dim=1).flatten()
        zero = cu_seqlens[:1]
        return torch.cat((zero, queries)), torch.cat((zero, keys)), max(longest, self._gap)

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(total, heads, head_dim) new rows -> the keys and values to attend to, as :meth:`extend` announced them."""
        step, layout = self._step, self._layout
        assert step is not None, "extend comes first"
        assert layout is not None
        first = self.lengths is None
        if first:
            held = _Layer(_buffer(key, layout), _buffer(value, layout), layout)
        else:
            held = self._moved(self._layers[layer])
        held = _Layer(_written(held.key, step.target, key), _written(held.value, step.target, value), layout)
        self._layers[layer] = held
        return (key, value) if first else (held.key, held.value)

    def commit(self) -> None:
        """Every layer has its rows: from here on they count as held."""
        step = self._step
        assert step is not None, "extend comes first"
        self.lengths, self.max_seqlen, self._total = step.lengths, step.max_seqlen, step.total
        self._room -= step.new_max_seqlen
        self._step = None

    # What a generation does between two forwards. These read lengths back from the device.

    def keep(self, index: Tensor) -> None:
        """Go on with some of the sequences only: (m,) int64, ascending.

        The others' rows become part of the gaps; what is left moves together once it needs less than half the buffer.
        """
        self._choose(index)
        assert self.lengths is not None
        assert self._layout is not None
        needed = self._total + self._room * index.numel()
        if 2 * needed < self._layout.rows:
            self._move(self._room)
        elif index.numel():
            starts = self._layout.starts
            ends = torch.cat((starts.new_zeros(1), (starts + self.lengths)[:-1]))
            self._gap = int((starts - ends).max())

    def select(self, index: Tensor) -> None:
        """Sequence i becomes a copy of what sequence ``index[i]`` was: (m,) int64, in any order, repeats included."""
        self._choose(index)
        self._move(self._room)

    def reorder(self, parents: Tensor, since: Tensor, count: int) -> None:
        """As :meth:`select` among sequences that differ only in their last rows, in place.

        Args:
            parents: (n,) int64, which sequence each continues; both are equal before the differing rows begin.
            since: (n,) int64, where those begin.
            count: how many there are, the same number in every sequence.
        """
        changed = (parents != torch.arange(parents.numel(), device=parents.device)).nonzero().flatten()
        if changed.numel() == 0 or count == 0:
            return
        assert self._layout is not None
        first = self._layout.starts + since
        column = torch.arange(count, device=parents.device)
        source = (first[parents[changed], None] + column).flatten()
        target = (first[changed, None] + column).flatten()
        for layer, held in self._layers.items():
            moved = self._moved(held)
            key, value = moved.key.index_select(0, source), moved.value.index_select(0, source)
            key, value = _written(moved.key, target, key), _written(moved.value, target, value)
            self._layers[layer] = _Layer(key, value, moved.layout)

    def _choose(self, index: Tensor) -> None:
        assert self.lengths is not None, "a forward comes first"
        assert self._layout is not None
        self.lengths = self.lengths[index]
        self._total = int(self.lengths.sum())
        layouts = (self._layout, *(held.layout for held in self._layers.values()))
        chosen = {id(layout): layout.select(index) for layout in layouts}
        self._layout = chosen[id(self._layout)]
        for held in self._layers.values():
            held.layout = chosen[id(held.layout)]

    def _move(self, room: int) -> None:
        """A new layout with so much room for each; the layers follow one by one, so that memory never doubles."""
        assert self.lengths is not None
        self._layout = _Layout.with_room(self.lengths, self._total, room)
        self._room = self._gap = room

    def _moved(self, held: _Layer) -> _Layer:
        """A layer with its rows where the current layout has them."""
        layout, lengths = self._layout, self.lengths
        assert layout is not None
        assert lengths is not None
        if held.layout is layout:
            return held
        bounds, nothing = cumulative_lengths(lengths), torch.zeros_like(lengths)
        source = _rows(held.layout, nothing, bounds, self._total)
        target = _rows(layout, nothing, bounds, self._total)
        key, value = (_written(_buffer(x, layout), target, x.index_select(0, source)) for x in (held.key, held.value))
        return _Layer(key, value, layout)


def _buffer(like: Tensor, layout: _Layout) -> Tensor:
    return like.new_empty(layout.rows, *like.shape[1:])


def _rows(layout: _Layout, offsets: Tensor, cu_seqlens: Tensor, total: int) -> Tensor:
    """(total,) int64: the buffer's row of each packed row, counted from (n,) ``offsets`` inside its sequence."""
    sequence = _clamped_sequence(cu_seqlens, total)
    row = torch.arange(total, device=cu_seqlens.device)
    place = layout.starts[sequence] + offsets[sequence] + row - cu_seqlens[sequence]
    return torch.where(row < cu_seqlens[-1], place, layout.rows - 1)


def _clamped_sequence(cu_seqlens: Tensor, total: int) -> Tensor:
    return sequence_index(cu_seqlens, total).clamp(max=max(cu_seqlens.numel() - 2, 0))


def _written(buffer: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """The buffer with these rows; in place unless autograd, or inference mode now left, forbids it."""
    foreign = buffer.is_inference() and not torch.is_inference_mode_enabled()
    if buffer.requires_grad or values.requires_grad or foreign:
        return buffer.index_copy(0, rows, values)
    return buffer.index_copy_(0, rows, values)
