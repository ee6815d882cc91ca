"""Which keys a query sees: window, causal diagonal and living keys, as one boolean mask; and which keys none does."""

from __future__ import annotations

import torch
from torch import Tensor


def visible_keys(
    seq_q: int,
    seq_k: int,
    diagonal: Tensor | int,
    window_left: int | None,
    window_right: int | None,
    living: Tensor | None,
    device: torch.device,
) -> Tensor | None:
    """Query i sees key j when ``i + diagonal - window_left <= j <= i + diagonal + window_right`` and j is alive.

    Args:
        diagonal: seq_k - seq_q, or int64 (batch,) where it differs between sequences.
        window_left: None = unbounded.
        window_right: None = unbounded.
        living: bool (batch, seq_k), or None where every key is alive.

    Returns:
        bool, broadcastable to (batch, 1, seq_q, seq_k), dimensions of one value kept at size 1; None where every
        query sees every key.
    """
    visible = None if living is None else living[:, None, None, :]
    if window_left is None and window_right is None:
        return visible
    distance = torch.arange(seq_k, device=device) - torch.arange(seq_q, device=device)[:, None]
    distance = distance - (diagonal.view(-1, 1, 1, 1) if isinstance(diagonal, Tensor) else diagonal)
    distance = distance.view(-1, 1, seq_q, seq_k)
    if window_left is not None:
        visible = _both(visible, distance >= -window_left)
    if window_right is not None:
        visible = _both(visible, distance <= window_right)
    return visible


def seen_keys(
    seq_k: int,
    lengths_q: Tensor | int,
    diagonal: Tensor | int,
    window_left: int | None,
    window_right: int | None,
    device: torch.device,
) -> Tensor | None:
    """Keys that the window shows to some query of their sequence; what the others hold must reach nothing.

    Args:
        lengths_q: queries, or int64 (batch,) where they differ between sequences.
        diagonal: as in :func:`visible_keys`.
        window_left: as there.
        window_right: as there; the window is not empty.

    Returns:
        bool (batch or 1, seq_k), or None where every key is seen (of which only shapes that no compiler is tracing are
        asked, because the answer would become a guard).
    """
    lengths_q, diagonal = (x[:, None] if isinstance(x, Tensor) else x for x in (lengths_q, diagonal))
    # Neighbouring queries see overlapping or adjoining stretches, so together they see from the first one's left end
    # to the last one's right end.
    first = 0 if window_left is None else diagonal - window_left
    end = seq_k if window_right is None else lengths_q + diagonal + window_right
    if not isinstance(first, Tensor) and not isinstance(end, Tensor) and not isinstance(lengths_q, Tensor):
        everything = window_left is None and window_right is None
        if everything or (not torch.compiler.is_compiling() and first <= 0 and end >= seq_k):
            return None
    key = torch.arange(seq_k, device=device)[None]
    seen = (key >= first) & (key < end)
    return seen & (lengths_q > 0) if isinstance(lengths_q, Tensor) else seen


def _both(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a & b
