"""Torch's autocast, asked in one place."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_is_on(device_type: str) -> bool:
    """Whether autocast casts on this device; on "meta" it never does, and torch refuses the question."""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which attention will want x: autocast's while it is on, else x's own.

    As torch does for its own operator, integers and float64 are left alone.
    """
    if not autocast_is_on(x.device.type) or not x.is_floating_point() or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(x.device.type)
