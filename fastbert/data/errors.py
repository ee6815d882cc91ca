"""The one exception for input that cannot be used."""

from __future__ import annotations


class DataError(ValueError):
    """A file, record or setting cannot be used. The message is one sentence: what, where, what is allowed."""
