"""Continuing prompts: what ``generate`` of a language model does with its arguments, and how it answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from fastbert.models.beam_search import beam_search
from fastbert.models.decoding import Decoder, Stopping, StopWhen, continue_prompts
from fastbert.models.generation_config import GenerationConfig
from fastbert.models.inputs import pack_inputs
from fastbert.packing import PackedBatch, packed_positions

if TYPE_CHECKING:
    from fastbert.models.gpt import GPTForPreTraining


class Streamer(Protocol):
    """Who is told of every token as it comes; transformers' ``TextStreamer`` is one."""

    def put(self, value: Tensor) -> None:
        """First the prompts as they were given, then after each step a (rows,) int64 tensor on the CPU."""

    def end(self) -> None:
        """No more is coming."""


@torch.no_grad()
def generate(
    model: GPTForPreTraining,
    input_ids: Tensor | PackedBatch,
    attention_mask: Tensor | None,
    config: GenerationConfig,
    streamer: Streamer | None = None,
    stop_when: StopWhen | None = None,
) -> Tensor | PackedBatch:
    """See :meth:`fastbert.models.GPTForPreTraining.generate`."""
    given = pack_inputs(input_ids, attention_mask).batch
    bounds = given.cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(bounds)]
    _check_lengths(lengths, config.max_new_tokens, model.config.max_position_embeddings)
    stopping = Stopping(config.end_tokens(model.config), stop_when)
    padding = config.padding_token(model.config)
    packed = isinstance(input_ids, PackedBatch)
    if padding is None and stop_when is not None and (streamer is not None or not packed):
        raise ValueError("pad_token_id must be given: stop_when may end one continuation before the others")
    if streamer is not None and config.num_beams > 1:
        raise ValueError(f"streamer: the tokens of a beam search come at its end; num_beams is {config.num_beams}")

    tokens = given.input_ids[: bounds[-1]]
    prompts = PackedBatch(tokens, given.cu_seqlens, max(lengths), packed_positions(given.cu_seqlens, bounds[-1]))
    if streamer is not None:
        streamer.put((tokens if isinstance(input_ids, PackedBatch) else input_ids).cpu())
    training = model.training
    model.eval()
    try:
        decoder = Decoder(model, config, prompts)
        if config.num_beams > 1:
            produced = beam_search(decoder, config, stopping)
        else:
            produced = continue_prompts(decoder, config, stopping, lambda step: _put(streamer, step, padding))
    finally:
        model.train(training)
    if streamer is not None:
        streamer.end()
    if isinstance(input_ids, PackedBatch):
        return _joined(tokens.tolist(), bounds, produced, config.num_return_sequences).to(tokens.device)
    longest, filler = max(map(len, produced)), 0 if padding is None else padding  # None: all are equally long
    filled = [row + [filler] * (longest - len(row)) for row in produced]
    new = torch.tensor(filled, dtype=input_ids.dtype, device=input_ids.device)
    return torch.cat((input_ids.repeat_interleave(config.num_return_sequences, dim=0), new), dim=1)


def _check_lengths(lengths: Sequence[int], new: int, limit: int) -> None:
    if not lengths or min(lengths) == 0:
        raise ValueError("generate: every prompt must have at least one token")
    if max(lengths) + new > limit:
        raise ValueError(
            f"a prompt of {max(lengths)} tokens and max_new_tokens {new} exceed the model's {limit} positions "
            "(max_position_embeddings)"
        )


def _put(streamer: Streamer | None, step: Sequence[int | None], padding: int | None) -> None:
    if streamer is not None:
        streamer.put(torch.tensor([padding if token is None else token for token in step]))


def _joined(tokens: list[int], bounds: list[int], produced: list[list[int]], copies: int) -> PackedBatch:
    """Prompts and continuations, packed."""
    prompts = [tokens[start:end] for start, end in pairwise(bounds) for _ in range(copies)]
    return PackedBatch.from_sequences([prompt + new for prompt, new in zip(prompts, produced, strict=True)])
