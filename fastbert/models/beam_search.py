"""Beam search with a length penalty, by transformers' rules.

Of every prompt ``num_beams`` unfinished continuations run on. A step looks at the best extensions of all of them by
their sums of log-probabilities. Those that are complete leave the race; if they are among the ``num_beams`` best
extensions they are kept as results, scored by the sum divided by length ** length_penalty, where better ones push out
worse. The best incomplete ones run on. There are always enough of these, because ``1 + end tokens`` times
``num_beams`` extensions are looked at. Prompts do not influence each other, and one that is done leaves the batch.

What the beams of a prompt share, the prompt, is copied for each of them once. Of the new tokens' rows only those are
copied whose beam continues another one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastbert.models.decoding import Decoder, Stopping
from fastbert.models.generation_config import GenerationConfig


def beam_search(decoder: Decoder, config: GenerationConfig, stopping: Stopping) -> list[list[int]]:
    """The new tokens of the ``num_return_sequences`` best continuations of each prompt, best first.

    Args:
        decoder: of the prompts.
        config: the options.
        stopping: when a continuation is complete.

    Raises:
        ValueError: a vocabulary too small for so many beams.
    """
    scores = decoder.first()
    n, vocab_size = scores.shape
    beams, width = config.num_beams, max(2, 1 + len(stopping.end_tokens)) * config.num_beams
    if width > vocab_size:
        raise ValueError(f"num_beams {beams} looks at {width} extensions; the vocabulary has only {vocab_size} tokens")
    results = [_Results(config) for _ in range(n)]
    live = list(range(n))  # prompts that are not done
    sums = scores.new_zeros(n, 1)  # of log-probabilities of the running beams; at first there is one, the prompt
    tokens = torch.empty(n, 1, 0, dtype=torch.int64, device=scores.device)  # (live, beams, length) new ones
    for length in range(1, config.max_new_tokens + 1):
        last = length == config.max_new_tokens
        log_probs = decoder.penalised(scores.log_softmax(-1)).unflatten(0, sums.shape)
        best, places = (log_probs + sums[:, :, None]).flatten(1).topk(width)  # (live, width), best first
        parent, token = places // vocab_size, places % vocab_size
        extended = torch.cat((_rows_of(tokens, parent), token[:, :, None]), dim=2)  # (live, width, length)
        complete = torch.ones_like(best, dtype=torch.bool) if last else stopping.complete(extended)
        sums, order = best.masked_fill(complete, -math.inf).topk(beams)

        for row, prompt in enumerate(live):
            places = complete[row, :beams].nonzero().flatten()
            results[prompt].add(best[row, places], extended[row, places])
        going = [
            row for row, prompt in enumerate(live) if not last and not results[prompt].settled(sums[row, 0], length)
        ]
        if not going:
            break
        rows = torch.tensor(going, device=scores.device)
        live = [live[row] for row in going]
        _follow(decoder, rows, parent.gather(1, order)[rows], length)
        sums, tokens = sums[rows], _rows_of(extended, order)[rows]
        scores = decoder.next(tokens[:, :, -1].flatten())
    return [found for result in results for found in result.best()]


class _Results:
    """The complete continuations of one prompt, best first, at most ``num_beams``."""

    def __init__(self, config: GenerationConfig) -> None:
        self.config = config
        self.found: list[tuple[float, list[int]]] = []

    def add(self, sums: Tensor, tokens: Tensor) -> None:
        """(k,) sums of log-probabilities and their (k, length) tokens."""
        scores = sums / tokens.shape[1] ** self.config.length_penalty
        self.found += zip(scores.tolist(), tokens.tolist(), strict=True)
        self.found.sort(key=lambda scored: -scored[0])  # stable: of equal ones the earlier stays
        del self.found[self.config.num_beams :]

    def settled(self, best_running: Tensor, length: int) -> bool:
        """Whether to stop: the best running sum of log-probabilities has ``length`` tokens so far."""
        config = self.config
        if len(self.found) < config.num_beams:
            return False
        if config.early_stopping is True:
            return True
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = config.max_new_tokens
        return float(best_running / length**config.length_penalty) <= self.found[-1][0]

    def best(self) -> list[list[int]]:
        return [tokens for _, tokens in self.found[: self.config.num_return_sequences]]


def _rows_of(tokens: Tensor, index: Tensor) -> Tensor:
    """(prompts, beams, length), (prompts, k) -> (prompts, k, length)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def _follow(decoder: Decoder, rows: Tensor, parent: Tensor, length: int) -> None:
    """Bring the decoder's sequences in line: prompts ``rows`` go on, their beams continue (rows, beams) ``parent``."""
    beams = parent.shape[1]
    if length == 1:
        decoder.select(rows.repeat_interleave(beams))
        return
    within = torch.arange(beams, device=rows.device)
    decoder.keep((rows[:, None] * beams + within).flatten())
    first = beams * torch.arange(rows.numel(), device=rows.device)
    decoder.reorder((first[:, None] + parent).flatten(), new_tokens=length - 1)
