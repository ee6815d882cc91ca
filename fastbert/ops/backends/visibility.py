"""Which keys a query sees: window, causal diagonal and living keys, as one boolean mask."""

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


def _both(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a & b
