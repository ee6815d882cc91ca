"""How two sequences share a limited length."""

from __future__ import annotations


def truncated_lengths(a: int, b: int, room: int) -> tuple[int, int]:
    """How much of two sequences remains when the longer one loses a token until both fit into ``room`` together.

    Of two equally long ones the second loses first, so the first may stay one token longer.
    """
    if a + b <= room:
        return a, b
    half = room // 2
    if a <= half:
        return a, room - a
    if b <= half:
        return room - b, b
    return room - half, half
