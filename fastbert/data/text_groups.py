"""Groups of texts that are read one by one, as sentence embeddings compare them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from fastbert.data.errors import DataError
from fastbert.data.examples import Example, FixedExamples
from fastbert.data.tokenisation import Tokenizer


class TextGroups(FixedExamples):
    """Examples of texts that belong together, the same in every epoch, tokenised once.

    Each text becomes a sequence of its own, [CLS] text [SEP] or <start> text <extract>, cut from the end; the sequences
    of a group are one example.

    Attributes:
        lengths: (len(self),) int64 tokens of every group.
        num_truncated: how many texts were cut.
    """

    def __init__(self, groups: Sequence[tuple[str, ...]], tokenizer: Tokenizer, max_length: int) -> None:
        """Tokenise texts.

        Args:
            groups: the texts of every group, equally many in each.
            tokenizer: with [CLS] and [SEP], or with the task tokens.
            max_length: most tokens of a text, special tokens included.

        Raises:
            DataError: ``max_length`` without room for a text.
        """
        room = max_length - Tokenizer.num_added(pair=False)
        if room < 1:
            raise DataError(f"max_length must be at least {Tokenizer.num_added(pair=False) + 1}, got {max_length}")
        texts = iter(tokenizer.encode_batch(list(chain.from_iterable(groups))))
        self.num_truncated = 0
        examples = []
        for group in groups:
            encoded = [next(texts) for _ in group]
            self.num_truncated += sum(len(ids) > room for ids in encoded)
            built = [tokenizer.build_single(ids[:room]) for ids in encoded]
            ids = list(chain.from_iterable(ids for ids, _ in built))
            segments = list(chain.from_iterable(s for _, s in built if s is not None))
            examples.append(
                Example(
                    np.array(ids, dtype=np.int64),
                    np.array(segments, dtype=np.int64) if segments else None,
                    sequence_lengths=tuple(len(ids) for ids, _ in built),
                )
            )
        super().__init__(examples)
