"""One token after another: the steps of a generation, and the loop for greedy search and sampling.

The prompts are computed once, packed. Every step then computes one row a sequence: its query attends to the keys and
values that the cache has of it, by the same operator as everywhere, and a sequence that is done is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastbert.models.cache import KeyValueCache
from fastbert.models.generation_config import GenerationConfig
from fastbert.models.inputs import ModelInputs
from fastbert.models.sampling import choose, penalise_repetition, seen_tokens, uniforms
from fastbert.packing import PackedBatch, select_last

if TYPE_CHECKING:
    from fastbert.models.gpt import GPTForPreTraining

StopWhen = Callable[[Sequence[int]], bool]
"""Whether a continuation is complete, from its new tokens; asked after each of them."""


@dataclass(frozen=True)
class Stopping:
    """What ends a continuation before it has ``max_new_tokens``: the last token, or the caller's word."""

    end_tokens: tuple[int, ...]
    when: StopWhen | None

    def is_complete(self, tokens: Sequence[int]) -> bool:
        return tokens[-1] in self.end_tokens or (self.when is not None and self.when(tokens))

    def complete(self, tokens: Tensor) -> Tensor:
        """(..., length) -> bool (...)."""
        ended = torch.isin(tokens[..., -1], torch.tensor(self.end_tokens, dtype=torch.int64, device=tokens.device))
        if self.when is None:
            return ended
        said = [self.when(row) for row in tokens.flatten(0, -2).tolist()]
        return ended | torch.tensor(said, device=tokens.device).view(ended.shape)


class Decoder:
    """Scores of the next token, for sequences that grow by one token a step."""

    def __init__(self, model: GPTForPreTraining, config: GenerationConfig, prompts: PackedBatch) -> None:
        self._model = model
        self._prompts = prompts
        self._prompt_lengths = (prompts.cu_seqlens[1:] - prompts.cu_seqlens[:-1]).long()
        self._cache = KeyValueCache(room=config.max_new_tokens - 1)  # the last token is not computed on
        self._penalty = config.repetition_penalty
        self._seen: Tensor | None = None
        if self._penalty != 1:
            self._seen = seen_tokens(prompts.input_ids, prompts.cu_seqlens, model.config.vocab_size)

    def first(self) -> Tensor:
        """(n, vocab_size) float32 scores after the prompts."""
        return self._scores(self._prompts)

    def next(self, tokens: Tensor) -> Tensor:
        """(n,) the next token of each sequence -> (n, vocab_size) scores of the one after."""
        n = tokens.numel()
        if self._seen is not None:
            self._seen[torch.arange(n, device=tokens.device), tokens] = True
        one_each = torch.arange(n + 1, dtype=torch.int32, device=tokens.device)
        positions = self._cache.positions(one_each, n)
        return self._scores(PackedBatch(tokens, one_each, max_seqlen=1, position_ids=positions))

    def penalised(self, scores: Tensor) -> Tensor:
        """The scores with the repetition penalty."""
        return scores if self._seen is None else penalise_repetition(scores, self._seen, self._penalty)

    def keep(self, index: Tensor) -> None:
        """Go on with these sequences only: (m,) int64, ascending."""
        if index.numel() == self._prompt_lengths.numel():
            return
        self._cache.keep(index)
        self._follow(index)

    def select(self, index: Tensor) -> None:
        """Sequence i becomes a copy of sequence ``index[i]``."""
        self._cache.select(index)
        self._follow(index)

    def reorder(self, parents: Tensor, new_tokens: int) -> None:
        """As :meth:`select` among continuations of the same prompt, each with so many new tokens behind it."""
        self._cache.reorder(parents, self._prompt_lengths, new_tokens)
        self._follow(parents)

    def _follow(self, index: Tensor) -> None:
        self._prompt_lengths = self._prompt_lengths[index]
        if self._seen is not None:
            self._seen = self._seen[index]

    def _scores(self, batch: PackedBatch) -> Tensor:
        hidden = self._model.encode(ModelInputs(batch), cache=self._cache).hidden
        last = select_last(hidden, batch.cu_seqlens)  # (n, hidden): only the last token of each needs scores
        scores: Tensor = self._model.lm_head(last, self._model.transformer.embeddings.tokens.weight).float()
        if bool(scores.isnan().any()):
            raise ArithmeticError("the model's scores of the next token are NaN; are its weights finite?")
        return scores


def continue_prompts(
    decoder: Decoder, config: GenerationConfig, stopping: Stopping, emit: Callable[[Sequence[int | None]], None]
) -> list[list[int]]:
    """Greedy search, or sampling.

    Args:
        decoder: of the prompts.
        config: the options.
        stopping: when a continuation is complete.
        emit: is called after each step with the new token of every row, None for those done before.

    Returns:
        The new tokens of each row; the ``num_return_sequences`` continuations of a prompt follow each other.
    """
    scores = decoder.first()
    device = scores.device
    if config.num_return_sequences > 1:
        index = torch.arange(scores.shape[0], device=device).repeat_interleave(config.num_return_sequences)
        decoder.select(index)
        scores = scores[index]
    rows = scores.shape[0]
    uniform = uniforms(config.seed, rows, config.max_new_tokens, device) if config.do_sample else None
    produced: list[list[int]] = [[] for _ in range(rows)]
    live = list(range(rows))
    for step in range(config.max_new_tokens):
        token = choose(decoder.penalised(scores), config, None if uniform is None else uniform[:, step])
        for row, value in zip(live, token.tolist(), strict=True):
            produced[row].append(value)
        emit([tokens[step] if len(tokens) > step else None for tokens in produced])
        going = [i for i, row in enumerate(live) if not stopping.is_complete(produced[row])]
        if not going or step + 1 == config.max_new_tokens:
            break
        if len(going) < len(live):
            live = [live[i] for i in going]
            index = torch.tensor(going, device=device)
            decoder.keep(index)
            token = token[index]
            uniform = None if uniform is None else uniform[index]
        scores = decoder.next(token)
    return produced
