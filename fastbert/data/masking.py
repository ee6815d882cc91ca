"""Masked-language-model targets (Devlin et al. 2018, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastbert.data.errors import DataError
from fastbert.data.tokenisation import Tokenizer
from fastbert.packing import IGNORE_INDEX

MASKED_SHARE = 0.8
RANDOM_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Masking:
    """Which tokens become targets and what stands in their place.

    Attributes:
        mask_probability: share of a sequence's tokens, special tokens counted, that become targets; at least one does.
        mask_id: id of [MASK].
        random_ids: ids that random replacements are drawn from, uniformly.
        never: (vocab_size,) bool, tokens that never become targets: the special ones except the unknown token.
        continuation: (vocab_size,) bool, tokens that continue a word, for whole-word masking; None masks pieces.
        max_predictions: most targets of a sequence; None for no such bound.
    """

    mask_probability: float
    mask_id: int
    random_ids: npt.NDArray[np.int64]
    never: npt.NDArray[np.bool_]
    continuation: npt.NDArray[np.bool_] | None
    max_predictions: int | None = None

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Tokenizer, mask_probability: float, whole_word: bool, max_predictions: int | None = None
    ) -> Masking:
        """The masking of a vocabulary; :class:`DataError` when it has no [MASK], or for a value out of range."""
        if not 0 < mask_probability <= 1:
            raise DataError(f"mask_probability must be above 0 and at most 1, got {mask_probability}")
        if max_predictions is not None and max_predictions < 1:
            raise DataError(f"max_predictions must be at least 1, got {max_predictions}")
        mask_id = tokenizer.mask_id
        if mask_id is None:
            raise DataError(
                f"masked-language-model pretraining needs a mask token, the {tokenizer.kind} tokenizer has none"
            )
        never = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        never[sorted(tokenizer.special_ids - {tokenizer.unk_id})] = True
        continuation = tokenizer.continuation_mask if whole_word else None
        return cls(mask_probability, mask_id, tokenizer.ordinary_ids, never, continuation, max_predictions)

    def apply(
        self, ids: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(length,) ids -> (input_ids, labels): 80% of the targets show [MASK], 10% a random token, 10% themselves.

        Labels are the original ids at the targets and -100 elsewhere.
        """
        candidates = np.flatnonzero(~self.never[ids])
        labels = np.full_like(ids, IGNORE_INDEX)
        if candidates.size == 0:
            return ids.copy(), labels
        count = min(candidates.size, max(1, round(self.mask_probability * ids.size)))
        count = count if self.max_predictions is None else min(count, self.max_predictions)
        if self.continuation is None:
            targets = rng.permutation(candidates)[:count]
        else:
            targets = _whole_words(candidates, self.continuation[ids], count, rng)
        labels[targets] = ids[targets]
        inputs = ids.copy()
        choice = rng.random(targets.size)
        random_tokens = self.random_ids[rng.integers(self.random_ids.size, size=targets.size)]
        inputs[targets] = np.where(
            choice < MASKED_SHARE,
            self.mask_id,
            np.where(choice < MASKED_SHARE + RANDOM_SHARE, random_tokens, ids[targets]),
        )
        return inputs, labels


def _whole_words(
    candidates: npt.NDArray[np.int64], continues: npt.NDArray[np.bool_], count: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Positions of randomly chosen whole words, at most ``count``; a word that would exceed it is passed over.

    When no word is short enough the first one drawn is taken, so that there always is a target.
    """
    adjacent = np.diff(candidates, prepend=-2) == 1
    first = np.flatnonzero(~(continues[candidates] & adjacent))
    last = np.append(first[1:], candidates.size)
    order = rng.permutation(first.size)
    chosen: list[npt.NDArray[np.int64]] = []
    room = count
    for word, size in zip(order.tolist(), (last - first)[order].tolist(), strict=True):
        if size <= room:
            chosen.append(candidates[first[word] : last[word]])
            room -= size
            if room == 0:
                break
    if not chosen:
        chosen.append(candidates[first[order[0]] : last[order[0]]])
    return np.concatenate(chosen)
