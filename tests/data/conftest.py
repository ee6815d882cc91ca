"""Small tokenizers of both families."""

from __future__ import annotations

import pytest

from fastbert.data import Tokenizer


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return Tokenizer.train_wordpiece(["a b c d e f g h i j"] * 2, 60)


@pytest.fixture(scope="module")
def gpt() -> Tokenizer:
    tokenizer = Tokenizer.train_byte_bpe(["a b c"], 258)  # bytes
    tokenizer.add_task_tokens()
    return tokenizer
