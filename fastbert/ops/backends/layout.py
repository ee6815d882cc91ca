"""Between packed rows and the dense (n, max_seqlen) form that backends written in torch operators compute in.

Lengths are clamped to the buffers, so a wrong ``cu_seqlens`` cannot reach memory that is not its own. A ``max_seqlen``
below the longest sequence is an error where lengths can be read, and cuts sequences off elsewhere. Dead rows of the
dense form are zeros by selection: whatever lies in a packed buffer past the last sequence reaches nothing. Values are
read by the host only where that is free (:func:`host_readable`), and only to do less work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PaddedLayout:
    """Where the packed rows of one side (queries, or keys and values) go.

    Attributes:
        n: sequences.
        max_seqlen: rows of each in the dense form.
        lengths: int64 (n,).
        alive: bool (n, max_seqlen), the dense rows that are tokens; None when all are, and padding is a view.
        source: int64 (n * max_seqlen,), the packed row of each dense row; ``total`` for a dead one.
        target: int64 (total,), the dense row of each packed row; ``n * max_seqlen`` for one past the last sequence.
    """

    n: int
    max_seqlen: int
    lengths: Tensor
    alive: Tensor | None
    source: Tensor
    target: Tensor

    @classmethod
    def of(cls, cu_seqlens: Tensor, total: int, max_seqlen: int, name: str) -> PaddedLayout:
        """The layout of packed rows 0 to total - 1.

        Args:
            cu_seqlens: int32 (n + 1,).
            total: packed rows.
            max_seqlen: upper bound of the lengths.
            name: of the argument max_seqlen comes from.

        Raises:
            ValueError: a sequence is longer than max_seqlen, where the host can see that.
        """
        n = cu_seqlens.shape[0] - 1
        bounds = cu_seqlens.clamp(0, total).long()
        lengths = (bounds[1:] - bounds[:-1]).clamp(min=0)
        if not host_readable(cu_seqlens):
            lengths = lengths.clamp(max=max_seqlen)
        else:
            longest = max(lengths.tolist(), default=0)
            if longest > max_seqlen:
                raise ValueError(
                    f"attention: {name} is {max_seqlen}, but the longest sequence has {longest} tokens; "
                    "it must be an upper bound of the lengths"
                )
            max_seqlen = longest
            if longest * n == total and int(lengths.sum()) == total:
                nothing = lengths.new_empty(0)
                return cls(n, max_seqlen, lengths, None, nothing, nothing)
        column = torch.arange(max_seqlen, device=cu_seqlens.device)
        alive = column < lengths[:, None]
        source = torch.where(alive, bounds[:-1, None] + column, total).flatten()
        dense_rows = torch.arange(n * max_seqlen, device=cu_seqlens.device)
        target = _scatter_rows(dense_rows, source, total, fill=n * max_seqlen)
        return cls(n, max_seqlen, lengths, alive, source, target)

    @property
    def owned(self) -> Tensor:
        """bool (total,): packed rows that belong to a sequence; where ``alive`` is None all do, and there is none."""
        return self.target < self.n * self.max_seqlen

    def pad(self, x: Tensor) -> Tensor:
        """(total, ...) -> (n, max_seqlen, ...), zeros where nothing is alive."""
        if self.alive is not None:
            x = _scatter_rows(x, self.target, self.n * self.max_seqlen, fill=0)
        return x.view(self.n, self.max_seqlen, *x.shape[1:])

    def pack(self, x: Tensor, fill: float = 0) -> Tensor:
        """(n, max_seqlen, ...) -> (total, ...), the fill in rows past the last sequence."""
        x = x.flatten(0, 1)
        return x if self.alive is None else _scatter_rows(x, self.source, self.target.shape[0], fill=fill)


def select(keep: Tensor, x: Tensor) -> Tensor:
    """x where keep (of x's leading dimensions) is True, zeros elsewhere, NaN or not."""
    return torch.where(keep.view(*keep.shape, *[1] * (x.dim() - keep.dim())), x, 0)


def host_readable(x: Tensor) -> bool:
    """Whether looking at values costs nothing: an ordinary CPU tensor, and nobody is tracing."""
    return type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()


def _scatter_rows(x: Tensor, index: Tensor, size: int, fill: float) -> Tensor:
    # Row x[i] goes to row index[i]; what belongs nowhere goes to one more row, which is cut off. Faster on the CPU than
    # gathering and deselecting, in the backward above all: that of a copy by index is a gather, not a sum.
    rows = x.new_full((size + 1, *x.shape[1:]), fill)
    return rows.index_copy_(0, index, x)[:size]
