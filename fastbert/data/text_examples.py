"""Examples made of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastbert.data.errors import DataError
from fastbert.data.examples import Example, FixedExamples
from fastbert.data.tokenisation import Tokenizer
from fastbert.data.truncation import truncated_lengths


class TextExamples(FixedExamples):
    """Examples of texts, the same in every epoch, tokenised once.

    A text alone becomes [CLS] text [SEP] or <start> text <extract>, a pair [CLS] a [SEP] b [SEP] or <start> a
    <delimiter> b <extract>. What exceeds ``max_length`` is cut from the end, from the longer text of a pair.

    Attributes:
        lengths: (len(self),) int64 tokens of every example.
        num_truncated: how many examples were cut.
    """

    def __init__(
        self,
        texts: Sequence[tuple[str, str | None]],
        tokenizer: Tokenizer,
        targets: Sequence[int] | Sequence[float] | None,
        max_length: int,
        *,
        both_orders: bool = False,
    ) -> None:
        """Tokenise texts.

        Args:
            texts: a text and its second one, or None, for every example.
            tokenizer: with [CLS] and [SEP], or with the task tokens.
            targets: the class or the number of every example, or None for examples without targets.
            max_length: most tokens of a sequence, special tokens included.
            both_orders: a pair becomes a group of two sequences, a before b and b before a, as GPT-1 compares texts
                (Radford et al. 2018, section 3.3).

        Raises:
            DataError: ``max_length`` without room for a text.
        """
        if max_length < Tokenizer.num_added(pair=True) + 2:
            raise DataError(f"max_length must be at least {Tokenizer.num_added(pair=True) + 2}, got {max_length}")
        first = tokenizer.encode_batch([text for text, _ in texts])
        pairs = iter(tokenizer.encode_batch([pair for _, pair in texts if pair is not None]))
        inputs: list[tuple[list[int], list[int] | None, tuple[int, ...] | None]] = []
        self.num_truncated = 0
        for (_, pair), a in zip(texts, first, strict=True):
            if pair is None:
                room = max_length - Tokenizer.num_added(pair=False)
                self.num_truncated += len(a) > room
                inputs.append((*tokenizer.build_single(a[:room]), None))
                continue
            b = next(pairs)
            keep_a, keep_b = truncated_lengths(len(a), len(b), max_length - Tokenizer.num_added(pair=True))
            self.num_truncated += keep_a + keep_b < len(a) + len(b)
            a, b = a[:keep_a], b[:keep_b]
            ids, segments = tokenizer.build_pair(a, b)
            if both_orders:
                other_ids, other_segments = tokenizer.build_pair(b, a)
                both_segments = None if segments is None or other_segments is None else segments + other_segments
                inputs.append((ids + other_ids, both_segments, (len(ids), len(other_ids))))
            else:
                inputs.append((ids, segments, None))
        super().__init__(
            [
                Example(
                    np.array(ids, dtype=np.int64),
                    None if segments is None else np.array(segments, dtype=np.int64),
                    label=None if targets is None else targets[i],
                    sequence_lengths=lengths,
                )
                for i, (ids, segments, lengths) in enumerate(inputs)
            ]
        )
