"""How two sequences share a limited length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastbert.data.truncation import truncated_lengths


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_same_as_removing_one_token_at_a_time(a: int, b: int, room: int) -> None:
    keep_a, keep_b = a, b
    while keep_a + keep_b > room:
        if keep_a > keep_b:
            keep_a -= 1
        else:
            keep_b -= 1
    assert truncated_lengths(a, b, room) == (keep_a, keep_b)
